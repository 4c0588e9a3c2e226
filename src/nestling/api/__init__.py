"""The endpoints of docs/api.md. This room knows the JSON of clients and nothing about tokens."""

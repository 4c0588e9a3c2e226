"""JSON of clients to one frozen request."""

"""HTTP and JSON: the documented endpoints. Knows the wire format and nothing about tokens."""

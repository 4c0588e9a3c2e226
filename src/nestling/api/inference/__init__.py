"""Replies of the model over HTTP: whole or streamed, metered."""

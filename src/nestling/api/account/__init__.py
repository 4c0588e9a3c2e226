"""Keys, usage and billing over HTTP."""

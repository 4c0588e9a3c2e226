"""Hostile files: every reader must answer with a clear error, never with anything else."""

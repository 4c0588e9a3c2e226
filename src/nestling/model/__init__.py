"""Gemma 3n as mathematics: its configuration, and the numpy reference of the decoder."""

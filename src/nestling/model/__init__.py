"""Gemma 3n as mathematics: configuration and the numpy reference of the decoder."""

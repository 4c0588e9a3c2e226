"""Turns messages into prompt tokens and tokens into text. Knows no JSON and no HTTP."""

"""Reads model files as named tensors and vocabularies, and packs and quantises weights."""

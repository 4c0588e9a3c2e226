"""Tells what computes a step: the C++ core, or the numpy reference."""

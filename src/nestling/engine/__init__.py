"""Tokens in, tokens out: the loop, its scheduler and sampler, and the process they run in."""

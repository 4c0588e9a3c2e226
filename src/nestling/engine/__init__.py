"""Tokens in, tokens out: messages, client, process, scheduler, KV cache, sampling."""

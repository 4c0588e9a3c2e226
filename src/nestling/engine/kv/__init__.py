"""The KV cache in numbers: whose blocks, which prefixes, how many. No keys, no values."""

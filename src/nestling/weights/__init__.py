"""Model files to named tensors and vocabularies: safetensors, GGUF, rename tables."""

"""The service between text and tokens: template, tokenizer, detokenizer, stop strings."""

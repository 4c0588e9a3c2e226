"""The recipe of nestling-nano: data, tokenizer, training, export and evaluation."""

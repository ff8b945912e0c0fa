"""The tokenizer that belongs to a model: found, compared with what the model says of it, and examined."""

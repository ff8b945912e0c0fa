"""One-shot quantization: a fine-tuned model and some rows without labels → a bundle."""

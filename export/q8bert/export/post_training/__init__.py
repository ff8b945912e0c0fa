"""A fine-tuned float model, rows without labels → the same model with its grids."""

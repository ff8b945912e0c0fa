"""Checkpoints of a run: written, read back, and copied into a model and its optimizer."""

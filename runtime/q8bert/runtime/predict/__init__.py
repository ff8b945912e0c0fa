"""Texts in, predictions out."""

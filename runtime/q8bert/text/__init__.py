"""Texts as ids, and ids in batches of like length."""

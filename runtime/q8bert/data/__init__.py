"""Readers: files and the hub as examples."""

"""Scores of a bundle, and whether it is good enough to ship."""

"""Rows and answers, on their way into files."""

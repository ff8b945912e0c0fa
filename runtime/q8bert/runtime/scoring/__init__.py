"""Whole folders of rows scored, file by file, in this process or on a Ray cluster."""

"""Which run a folder holds: what it was started with, by content, and who trains in it."""

"""The commands of this part, besides ``export``."""

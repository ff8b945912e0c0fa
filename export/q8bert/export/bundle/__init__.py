"""The folder that the runtime reads."""

"""Tasks: what their rows hold, what is predicted, and how it is scored."""

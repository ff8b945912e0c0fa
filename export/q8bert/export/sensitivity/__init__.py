"""Which layers lose by INT8, and which are worth keeping in float."""

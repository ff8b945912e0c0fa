"""GLUE tasks, readers, metrics, tokenizing and batching: what training and serving share."""

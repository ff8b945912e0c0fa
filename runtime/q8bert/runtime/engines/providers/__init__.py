"""Execution providers of ONNX Runtime: their names, what is known of each, defaults, and whether one is there."""

"""Who runs a step and computes gradients: torch, or ONNX Runtime."""

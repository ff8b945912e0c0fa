"""Who computes gradients: torch, or ONNX Runtime."""

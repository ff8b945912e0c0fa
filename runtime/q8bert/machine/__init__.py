"""What this machine and this environment are: the CPU, CUDA, the builds of ONNX Runtime."""

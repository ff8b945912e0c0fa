"""What runs inside of Triton's Python backend: the steps of an ensemble, and how they are asked."""

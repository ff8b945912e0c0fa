"""What is simulated: the grids of weights and activations, the ranges, the smoothing."""

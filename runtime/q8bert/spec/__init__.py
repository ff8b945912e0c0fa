"""The shared vocabulary: errors, the quantization formula, the bundle's layout. Numpy only."""

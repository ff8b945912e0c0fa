"""What is checked of an exported model: saturation, fusion, parity."""

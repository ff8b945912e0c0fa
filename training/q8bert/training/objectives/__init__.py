"""What is learned: an objective names its targets and says the loss of the model's outputs."""

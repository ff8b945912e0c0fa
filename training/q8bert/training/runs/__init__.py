"""What is kept: options, the folder of a run, checkpoints, the log."""

"""What is fastest on this machine: engines, threads and batch sizes, timed side by side."""

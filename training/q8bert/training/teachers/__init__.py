"""Who is learned from besides the labels: a model that is there already, or the run's own float twin."""

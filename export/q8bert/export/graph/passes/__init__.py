"""Graph passes, one a file: each takes a model, changes it in place, and says whether it did."""

"""What a run leaves: the model with its numbers, its card, its figures and where it came from."""

"""What is done with a stored model that came from somewhere else: unpack it, load it, score with it, export it."""

"""Files that hold a detector: reading, writing, weights to start from."""

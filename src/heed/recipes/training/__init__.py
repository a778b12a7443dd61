"""What every run that trains shares: the model it opens, its data, its micro-batches, the order of its steps."""

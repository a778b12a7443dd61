"""What enters as a model: a folder or hub name, checked against what is about to be assumed of it."""

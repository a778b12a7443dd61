"""What the Python library adds to the commands: records from memory, and a model to be asked."""

"""What is read off hidden states: log-probabilities and scalars."""

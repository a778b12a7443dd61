"""heed: exact, fast instruction and preference tuning of language models, measured."""

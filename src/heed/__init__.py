"""heed: exact, fast instruction tuning of language models, with the evidence."""

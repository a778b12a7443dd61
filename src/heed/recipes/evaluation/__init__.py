"""The parts of `heed eval`: records, prompts, what is asked of a model, what is kept, what it comes to."""

"""Load, attend, score, adapt, sample: the only importer of transformers and peft."""

"""Attention over a forest: what transformers' models call, and how each device computes it."""

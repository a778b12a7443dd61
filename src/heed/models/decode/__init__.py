"""Answers token by token: many sequences together, each drawn from its own generator."""

"""Parsing and printing only; nothing here imports torch before a command runs."""

"""Scores of answers against a known truth, each with how sure it is. Numbers and text in, numbers out; no model."""

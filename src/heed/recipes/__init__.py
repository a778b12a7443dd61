"""The only place that wires; a recipe computes nothing itself."""

"""The step, the optimiser and the run folder; the loss arrives as a function."""

"""The same mathematics in fewer passes over memory, on a CPU."""

"""What learning from preferences shares: the data, the reference, the objectives on pairs and on judged answers."""

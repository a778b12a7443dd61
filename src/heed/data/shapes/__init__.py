"""From a raw record to what recipes learn from: names, kinds and texts put right, then the shape by its keys."""

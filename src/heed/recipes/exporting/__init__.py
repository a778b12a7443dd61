"""What `heed export` writes, each with its comparison."""

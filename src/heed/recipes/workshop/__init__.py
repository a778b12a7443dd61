"""What the commands of `heed data` do."""

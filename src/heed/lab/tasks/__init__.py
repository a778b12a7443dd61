"""Instructions about the lab's world, each with an answer that can be checked by rule."""

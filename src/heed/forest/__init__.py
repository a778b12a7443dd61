"""The prefix forest: build it, and plan the forwards of a step."""

"""The workshop for data: find and mend what is wrong in instruction and preference data, and say what it is worth."""

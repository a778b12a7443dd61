"""Small data sets of our own making, for demonstrations that need no download."""

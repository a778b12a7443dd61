"""The stages of `heed demo`: examining the model, preferences and methods."""

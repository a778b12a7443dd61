"""Records of a run folder as one self-contained page of pictures and tables."""

"""Text only: read, check, render, tokenise, mix. Never imports torch."""

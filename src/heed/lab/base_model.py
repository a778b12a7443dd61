"""Where the lab's base model lies."""

from pathlib import Path

BASE_MODEL = Path(__file__).parent / "base"
"""folder in Hugging Face format; its README.md says how it was made"""

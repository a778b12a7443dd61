"""Fold an adapter into its base, and print what was found."""

from __future__ import annotations

from heed.config import MergeSettings
from heed.recipes import merge as recipe


def run(settings: MergeSettings) -> None:
    """Run the recipe; it says a line for each comparison."""
    recipe.run(settings, say=print)

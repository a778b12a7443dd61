"""Write a model for other programs, and print what was compared."""

from __future__ import annotations

from heed.export_config import ExportSettings
from heed.recipes import export as recipe


def run(settings: ExportSettings) -> None:
    """Run the recipe; it says a line for each comparison."""
    recipe.run(settings, say=print)

"""Draw runs as a page, and print where it is."""

from __future__ import annotations

from heed.config import ReportSettings
from heed.recipes import report as recipe


def run(settings: ReportSettings) -> None:
    """Run the recipe and print the page's path."""
    print(f"the report: {recipe.run(settings)}")

"""Draw runs as a page."""

from __future__ import annotations

from pathlib import Path

from heed.config import ReportSettings
from heed.report.page import write_report


def run(settings: ReportSettings) -> Path:
    """Write the page and return where it is."""
    return write_report([Path(folder) for folder in settings.runs], Path(settings.out) if settings.out else None)

"""Print what `heed eval` measured: a table, where the rest is, or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from heed.eval_config import EvalSettings
from heed.recipes import eval as recipe
from heed.recipes.evaluation.told import table, tasks_table


def run(settings: EvalSettings) -> None:
    """Run the recipe and print its results."""
    if settings.list_tasks:
        print("\n".join(tasks_table()))
        return
    results = recipe.run(settings, say=lambda line: print(line, file=sys.stderr))
    if settings.print_json:
        print(json.dumps(results, ensure_ascii=False))
        return
    print("\n".join(table(results)))
    print(f"\nthe report: {Path(settings.out) / 'report.html'}")

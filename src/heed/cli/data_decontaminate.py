"""`heed data decontaminate` on the terminal."""

from __future__ import annotations

import sys

from heed.data_config import DataDecontaminateSettings
from heed.recipes.workshop import decontaminate as recipe
from heed.recipes.workshop.decontaminate import ENOUGH


def run(settings: DataDecontaminateSettings) -> None:
    """Leave out what is in evaluation sets, and say how much of which."""
    done = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{done.out}: {done.num_records - done.num_removed:,} of {done.num_records:,} records")
    print(f"  {done.num_texts:,} texts and lines of evaluation sets were looked for: what is asked there from")
    print(f"  {settings.n} words on, all else from {max(ENOUGH, settings.n)} words on, and no boilerplate")
    for path, count in done.by_set.most_common():
        print(f"  {count:,} left out that hold {settings.coverage:.0%} or more of a text of {path}")
    for example in done.examples:
        print(f"    record {example['record']:,}, {example['coverage']:.0%}: {example['match'][:100]!r}")
    print(f"{done.removed}: {done.num_removed:,} records that were left out, each with its match")

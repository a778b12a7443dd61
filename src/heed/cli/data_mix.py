"""`heed data mix` on the terminal."""

from __future__ import annotations

import sys

from heed.data_mix_config import DataMixSettings
from heed.recipes.workshop import mix as recipe


def run(settings: DataMixSettings) -> None:
    """Mix, and say how much of each data set is in it."""
    done = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    count = f"{done.num_files:,} file" + "s" * (done.num_files > 1)
    print(f"{done.out}: {done.num_records:,} records" + ("" if done.out.suffix else f" in {count}"))
    for each in done.drawn:
        again = f", {each.num_distinct:,} different ones" if each.num_distinct < each.draws else ""
        share = f"{100 * each.draws / done.num_records:.1f}% of the mixture"
        print(f"  {each.source.path}: {each.draws:,} drawn of {each.num_records:,}{again}, {share}")
        if each.draws < each.wanted:
            print(f"    its part would be {each.wanted:,}: it has too few records; --repeat draws them again")
        for why, lost in each.left_out.most_common():
            print(f"    {lost:,} left out: {why} (the first is record {each.first_left_out[why].record:,})")
    for line in done.absent.lines():
        print(f"  {line}; both are nulls in Parquet")
    print(f"{done.ledger}: what was drawn of which file")

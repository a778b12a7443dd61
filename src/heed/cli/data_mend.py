"""`heed data mend` on the terminal."""

from __future__ import annotations

import sys

from heed.data_config import DataMendSettings
from heed.data_faults import KINDS
from heed.errors import typed
from heed.recipes.workshop import mend as recipe


def run(settings: DataMendSettings) -> None:
    """Mend, and say what became of how much."""
    done = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    verb = "taken back in" if settings.undo else "changed in"
    print(f"{done.out}: {done.num_records:,} records, texts {verb} {done.num_changed:,} of them")
    for kind, count in done.kinds.most_common():
        print(f"  {count:,} texts: {KINDS[kind].means}")
    if done.num_guessed:
        print(f'  {done.num_guessed:,} texts are guesses: "is_certain": false in {done.changes}')
    if not settings.undo:
        undo = f"heed data mend {typed(done.out)} --undo {typed(done.changes)} --out BEFORE.jsonl"
        print(f"{done.changes}: every change; taken back by {undo}")

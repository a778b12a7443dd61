"""`heed data dedupe` on the terminal."""

from __future__ import annotations

from heed.data_config import DataDedupeSettings
from heed.errors import typed
from heed.recipes.workshop import dedupe as recipe


def run(settings: DataDedupeSettings) -> None:
    """Leave out duplicates, and say how many of which sort."""
    done = recipe.run(settings)
    print(f"{done.out}: {done.num_left:,} of {done.num_records:,} records")
    what = {"record": "the record", "prompt": "the prompt", "answer": "the answer"}[settings.by]
    if settings.against:
        near = f", or are near one from {settings.near:g} on" if settings.near is not None else ""
        print(f"  {done.num_held_out:,} left out that stand in held-out data, or ask what is asked there{near}")
    print(f"  {done.num_same:,} left out that are the same word for word ({what})")
    if settings.near is None:
        print("  --near 0.8 finds those that are nearly the same, too")
    else:
        print(
            f"  {done.num_near:,} left out that are nearly the same: every pair from {settings.near:g} on was looked at"
        )
    print(f"  {done.num_clusters:,} clusters, of which the {settings.keep} record stays")
    if done.num_unread:
        files = " ".join(typed(source.path) for source in settings.data)
        print(f"  {done.num_unread:,} that cannot be read stay as they are: heed data check {files} tells why")
    for words, number in done.notes.items():
        print(f"  {number:,} {words}")
    if settings.clusters:
        print(f"every cluster: {settings.clusters}")

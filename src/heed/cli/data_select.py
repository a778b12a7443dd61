"""`heed data select` on the terminal: what was chosen, or which way of choosing is better than chance."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heed.data_config import DataSelectSettings
from heed.errors import typed
from heed.recipes.workshop import select as recipe


def run(settings: DataSelectSettings) -> None:
    """Choose or measure, and say what came of it."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if settings.curve:
        from heed.recipes.workshop import curve

        drawn = curve.run(settings, say)
        if settings.print_json:
            print(json.dumps(drawn, ensure_ascii=False, indent=2))
        else:
            _show(drawn)
        return
    chosen = recipe.run(settings, say)
    if settings.print_json:
        print(json.dumps(chosen.as_json(), ensure_ascii=False, indent=2))
        return
    print("\n".join(told(chosen)))


def told(chosen: recipe.Chosen) -> list[str]:
    """What became of all records."""
    known = chosen.known
    lines = [
        f"{chosen.out}: {chosen.num_chosen:,} of {len(known):,} records, by {chosen.by}; scores in {chosen.scores}"
    ]
    if chosen.num_above_1:
        lines.append(f"  {chosen.num_above_1:,} records have an IFD above 1 and are not chosen: the prompt hinders")
    if chosen.num_chosen < chosen.budget:
        why = "the others are too much alike, or have an IFD above 1"
        if chosen.by == "ifd":
            why = "no others have an IFD of at most 1"
        lines.append(f"  {chosen.budget - chosen.num_chosen:,} fewer than the budget: {why}")
    lines += unusable(known)
    if chosen.by not in ("random", "longest"):
        lines.append(
            "  whether this is better than a choice at random: "
            f"heed data select ... --by {chosen.by} --curve --eval-data TEST.jsonl --out {typed('CURVE')}"
        )
    return lines


def unusable(known: recipe.Scores) -> list[str]:
    """What could not be chosen from, and why."""
    lines = []
    for problem, count in known.unusable.most_common():
        first = known.first_unusable[problem]
        lines.append(f"  {count:,} left out: {problem}; the first is {first.origin}: {first.found}")
    return lines + [f"  {count:,} {words}" for words, count in known.notes.items()]


def _show(drawn: dict[str, object]) -> None:
    console = Console(highlight=False)
    console.print(table_of(drawn))
    for line in drawn["notes"]:  # type: ignore[attr-defined]
        console.print(escape(line), soft_wrap=True)


def table_of(drawn: dict[str, object]) -> Table:
    """A row for each number of records, a column for each way, and what the differences from chance are."""
    table = Table(title=str(drawn["title"]), title_justify="left")
    table.add_column("records", justify="right")
    ways: list[str] = drawn["ways"]  # type: ignore[assignment]
    for way in ways:
        table.add_column(way)
    points: list[dict[str, object]] = drawn["points"]  # type: ignore[assignment]
    sizes = sorted({int(str(point["num_records"])) for point in points})
    for size in sizes:
        cells = []
        for way in ways:
            found = next((p for p in points if p["way"] == way and p["num_records"] == size), None)
            cells.append("" if found is None else escape(str(found["told"])))
        table.add_row(f"{size:,}", *cells)
    return table

"""`heed data check` on the terminal: a table of kinds, examples of each, and what to type."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heed import files
from heed.cli.data_page import counted, fix_of, page, place_of, share_of
from heed.data_config import DataCheckSettings
from heed.data_faults import KINDS, Fault
from heed.recipes.workshop import check as recipe

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def run(settings: DataCheckSettings) -> None:
    """Check, print, and end with 1 where errors were found and that was asked for."""
    checked = recipe.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
    paths = [source.path for source in settings.data]
    if settings.html is not None:
        files.write_text(Path(settings.html), page(checked, paths))
    if settings.print_json:
        print(json.dumps(checked.as_json(paths), ensure_ascii=False, indent=2))
    else:
        console = Console(highlight=False)
        for line in told(checked, settings, paths):
            console.print(line, soft_wrap=isinstance(line, str))
    if settings.strict and checked.has_errors:
        raise SystemExit(1)


def told(checked: recipe.Checked, settings: DataCheckSettings, paths: list[str]) -> list[str | Table]:
    """What is printed, from the table to what can be typed next."""
    kinds = checked.in_order()
    lines: list[str | Table] = []
    if kinds:
        table = Table(title=f"{', '.join(paths)}: {checked.num_records:,} records", title_justify="left")
        table.add_column("kind")
        table.add_column("records", justify="right")
        table.add_column("share", justify="right")
        table.add_column("what it is")
        for kind in kinds:
            level, count = KINDS[kind].level, checked.num_bad_records[kind]
            row = (f"{count:,}", share_of(kind, checked), f"{level}: {KINDS[kind].means}")
            table.add_row(f"[{COLOURS[level]}]{kind}[/]", *row)
        lines.append(table)
    for kind in kinds:
        if checked.examples.get(kind):
            lines.append(f"\n[{COLOURS[KINDS[kind].level]}]{kind}[/]: {escape(fix_of(kind, checked, paths))}")
            lines += [f"  {escape(line_of(fault, len(paths) > 1))}" for fault in checked.examples[kind]]
    levels = [KINDS[kind].level for kind in kinds]
    counts = ", ".join(counted(levels, level) for level in COLOURS if level in levels)
    lines.append(f"\n{checked.num_records:,} records: {counts or 'nothing found'}")
    lines += [f"  {count:,} {words}" for words, count in checked.notes.items()]
    if settings.out:
        lines.append(escape(f"all findings: {settings.out}"))
    if settings.html:
        lines.append(escape(f"as a page: {settings.html}"))
    return lines


def line_of(fault: Fault, names_file: bool) -> str:
    """An example in one line, with the file where there are several."""
    place = place_of(fault) if names_file else place_of(fault).removeprefix(f"{fault.origin.path}, ")
    return f"{place}: {fault.found}"

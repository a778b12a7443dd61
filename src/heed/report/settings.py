"""How it was done: every setting, what differs between runs, and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from heed.report.parts import Details, Item, Note, Section, Table, Verbatim, words
from heed.report.read import RunRecords

IGNORED_DIFFERENCES = ("out", "date")
"""settings that differ between any two runs and say nothing"""


def settings_section(runs: Sequence[RunRecords]) -> Section | None:
    """How it was done: what differs between runs, every setting, and the machine."""
    items: list[Item] = []
    with_settings = [run for run in runs if run.settings is not None and run.is_training]
    if len(with_settings) > 1:
        items.append(difference_table(with_settings))
    for run in runs:
        of = f" of {run.name}" if len(runs) > 1 else ""
        if run.settings_text:
            items.append(Details(f"Every setting{of}", (Verbatim(run.settings_text),)))
        if run.environment:
            rows = tuple((words(str(key)), str(value)) for key, value in run.environment.items())
            table = Table(f"Versions and machine{of}", ("what", "value"), rows, num_text_columns=2)
            items.append(Details(f"Versions and machine{of}", (table,)))
    return Section("settings", "Settings", "", tuple(items)) if items else None


def difference_table(runs: Sequence[RunRecords]) -> Item:
    """Settings in which the runs are not the same."""
    flat = [dict(flattened(run.settings or {})) for run in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = tuple(
        (name, *(shown(each[name]) if name in each else "absent" for each in flat))
        for name in names
        if name not in IGNORED_DIFFERENCES and len({shown(each.get(name, "absent")) for each in flat}) > 1
    )
    if not rows:
        return Note("These runs have the same settings.")
    return Table("What differs between the runs", ("setting", *(run.name for run in runs)), rows, len(runs) + 1)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`optim: {lr: 1}` as `optim.lr`, as options are written."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def shown(value: Any) -> str:
    """A setting as it stands in a cell."""
    if isinstance(value, list):
        return ", ".join(str(each.get("path", each)) if isinstance(each, Mapping) else str(each) for each in value)
    return "none" if value is None else str(value)

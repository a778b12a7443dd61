"""The results of `heed eval` as lines for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from heed.report.eval_results import (
    UNPARSED,
    EvalFigure,
    EvalResults,
    EvalTask,
    change_unit,
    eval_results,
    printable,
    short_models,
    shown_change,
    shown_interval,
    shown_p,
    shown_template,
)

COLUMNS = 100
GAP = "  "
NUM_WORDS = 2
"""columns of words at the left of each table: task and measure; the others are numbers"""
MAX_WORD = 24
"""columns that a word may take where models stand side by side; a longer one has a line of its own"""
MAX_RECORDS = 10
"""records named of those left out for one reason"""


def lines(results: Mapping[str, Any]) -> list[str]:
    """The primary figure of every model on every task, what was not measured, and every difference.

    Args:
        results: what `results.json` holds.

    Returns:
        Lines of at most 100 columns.
    """
    found = eval_results(results)
    full = short_models(found.models)
    is_short = all(cell_len(name) <= MAX_WORD for name in full)
    names = full if is_short else [f"model {number}" for number in range(1, len(full) + 1)]
    notes: list[str] = []
    told = _models(found, full if is_short else [f"{a}, {b}" for a, b in zip(names, full, strict=True)])
    for title, is_tax in (("", False), ("The tax: what tuning must not cost", True)):
        tasks = [task for task in found.tasks if task.is_tax == is_tax]
        if tasks:
            told += ["", *([title] if title else []), *_values(found, tasks, names, notes)]
    told += _differences(found, names, notes)
    told += _left_out(found, names)
    if notes:
        told += ["", *(line for number, note in enumerate(notes, 1) for line in _wrapped(f"({number}) {note}"))]
    return told


def _models(found: EvalResults, names: Sequence[str]) -> list[str]:
    """Who was asked, and in which template."""
    told = []
    for name, model in zip(names, found.models, strict=True):
        kind = "reward model, " if model.kind == "reward" else ""
        told += _wrapped(f"{name}: {kind}template {printable(shown_template(model))}")
    return told or ["No model was measured."]


def _values(found: EvalResults, tasks: Sequence[EvalTask], names: Sequence[str], notes: list[str]) -> list[str]:
    """A row for each task, and one for answers that could not be read; as many models side by side as fit."""
    head = ["task", "measure", "shots", "items"]
    rows = [[*head, *names]]
    models = range(len(names))
    for task in tasks:
        label = [printable(task.name), printable(task.primary), f"{task.num_shots}", f"{task.num_items:,}"]
        rows.append(label + [_cell(found.figure(task.name, m, task.primary), notes) for m in models])
        unparsed = [found.figure(task.name, m, UNPARSED) for m in models]
        if task.primary != UNPARSED and any(unparsed):
            rows.append(["", UNPARSED, "", "", *(_cell(each, notes, absent="") for each in unparsed)])
    told: list[str] = []
    for chosen in _chunks(rows, len(head)):
        told += ([""] if told else []) + _table([[row[column] for column in chosen] for row in rows])
    return told


def _cell(figure: EvalFigure | None, notes: list[str], absent: str = "not measured") -> str:
    if figure is None:
        return absent
    if math.isnan(figure.value):
        return f"undefined {_noted(figure.why or 'no reason was kept', notes)}"
    mark = f" {_noted(figure.why, notes)}" if figure.why else ""
    return shown_interval(figure.value, figure.low, figure.high, figure.unit) + mark


def _noted(why: str, notes: list[str]) -> str:
    """The mark of a note; the same reason is written once."""
    why = printable(why)
    if why not in notes:
        notes.append(why)
    return f"({notes.index(why) + 1})"


def _differences(found: EvalResults, names: Sequence[str], notes: list[str]) -> list[str]:
    """Each pair of models by task, with the smallest difference that the test could have seen."""
    told: list[str] = []
    for first, second in dict.fromkeys((each.first, each.second) for each in found.differences):
        rows = [["task", "measure", "difference", "p (Holm)", "could see", "only one right"]]
        for each in found.differences:
            if (each.first, each.second) != (first, second):
                continue
            unit = found.unit(each.task, each.measure)
            value = shown_change(each.difference, unit)
            if math.isfinite(each.difference) and math.isfinite(each.low) and math.isfinite(each.high):
                value += f" [{shown_change(each.low, unit)}, {shown_change(each.high, unit)}]"
            if math.isfinite(each.difference) and change_unit(unit):
                value += f" {change_unit(unit)}"
            visible = shown_change(each.smallest_visible, unit, signed=False)
            is_counted = each.only_first_right is not None and each.only_second_right is not None
            rows.append(
                [
                    printable(each.task),
                    printable(each.measure),
                    value + (f" {_noted(each.why, notes)}" if each.why else ""),
                    shown_p(each.p_holm),
                    visible if math.isfinite(each.smallest_visible) else "not known",
                    f"{each.only_first_right:,} / {each.only_second_right:,}" if is_counted else "",
                ]
            )
        told += ["", *_wrapped(f"{names[first]} minus {names[second]}, on the items that both have:"), *_table(rows)]
    return told


def _left_out(found: EvalResults, names: Sequence[str]) -> list[str]:
    told: list[str] = []
    for each in found.left_out:
        who = f", {names[each.model]}" if each.model is not None else ""
        places = ", ".join(f"{record:,}" for record in each.records[:MAX_RECORDS])
        more = " and others" if each.count > min(len(each.records), MAX_RECORDS) else ""
        where = f" (records {places}{more})" if places else ""
        told += _wrapped(f"{printable(each.task)}{who}: {each.count:,} left out: {printable(each.problem)}{where}")
    return ["", *told] if told else []


def _chunks(rows: Sequence[Sequence[str]], num_fixed: int) -> list[list[int]]:
    """The columns of each table where all are too wide for one: the first ones always, the others as many as fit."""
    widths = [max(cell_len(row[column]) for row in rows) + len(GAP) for column in range(len(rows[0]))]
    room = COLUMNS + len(GAP) - sum(min(width, MAX_WORD + len(GAP)) for width in widths[:num_fixed])
    chunks: list[list[int]] = []
    left = 0
    for column, width in list(enumerate(widths))[num_fixed:]:
        if not chunks or width > left:
            chunks.append(list(range(num_fixed)))
            left = room
        chunks[-1].append(column)
        left -= width
    return chunks or [list(range(num_fixed))]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Words at the left, numbers at the right; words for which there is no room stand on a line of their own above."""
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = COLUMNS - sum(widths[NUM_WORDS:]) - len(GAP) * (len(widths) - 1)
    limit = room if sum(widths[:NUM_WORDS]) <= room else room // NUM_WORDS
    told = []
    widths[:NUM_WORDS] = [
        max((cell_len(row[column]) for row in rows if cell_len(row[column]) <= limit), default=0)
        for column in range(NUM_WORDS)
    ]
    for row in rows:
        cells = list(row)
        if any(cell_len(word) > limit for word in cells[:NUM_WORDS]):
            told += _wrapped(GAP.join(filter(None, cells[:NUM_WORDS])))
            cells[:NUM_WORDS] = [""] * NUM_WORDS
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        pairs = zip(cells, spaces, strict=True)
        padded = [c + s if column < NUM_WORDS else s + c for column, (c, s) in enumerate(pairs)]
        told.append(GAP.join(padded).rstrip())
    return told


def _wrapped(text: str) -> list[str]:
    """A text in lines that fit, those after the first moved in; where characters are two columns wide, half as long."""
    narrow = COLUMNS if cell_len(text) == len(text) else COLUMNS // 2
    return textwrap.wrap(text, narrow, subsequent_indent="    ", break_on_hyphens=False) or [""]

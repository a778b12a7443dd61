"""From verdicts to the rows of `results.json`: figures, paired differences, what was left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from heed.evaluate.comparison import DifferenceRow, with_holm
from heed.evaluate.figures import differences, figures
from heed.evaluate.items import Scored
from heed.recipes.evaluation.ask import LeftOut
from heed.recipes.evaluation.records import OpenTask

MOST_RECORDS = 100
"""numbers of records that a row of what was left out names"""


def figures_of(model: int, task: OpenTask, items: Sequence[Scored]) -> list[dict[str, Any]]:
    """Every figure of a model on a task."""
    return [{"model": model, "task": task.name, **asdict(figure)} for figure in figures(items, task.task.measures)]


def differences_of(tasks: Sequence[OpenTask], items: Sequence[Sequence[Sequence[Scored]]]) -> list[dict[str, Any]]:
    """Every later model against the first, by each task's primary measure; p raised for the number of all tests (Holm).

    Args:
        items: [model][task], the scored items.
    """
    pairs = [(model, t) for model in range(1, len(items)) for t in range(len(tasks))]
    found: list[DifferenceRow] = [
        differences(items[model][t], items[0][t], tasks[t].task.primary) for model, t in pairs
    ]
    return [
        {"task": tasks[t].name, "first": model, "second": 0, **asdict(row)}
        for (model, t), row in zip(pairs, with_holm(found), strict=True)
    ]


def left_out_rows(tasks: Sequence[OpenTask], left_out: Sequence[Sequence[Sequence[LeftOut]]]) -> list[dict[str, Any]]:
    """What no figure was made from, by reason: records that no model could be asked, and items of single models."""
    rows: list[dict[str, Any]] = []
    for task in tasks:
        rows += _rows(None, task.name, [(each.problem, each.origin.record) for each in task.findings])
    for model, of_model in enumerate(left_out):
        for task, items in zip(tasks, of_model, strict=True):
            rows += _rows(model, task.name, [(each.problem, each.item.origin.record) for each in items])
    return rows


def _rows(model: int | None, task: str, reasons: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    by_problem: Mapping[str, list[int]] = defaultdict(list)
    for problem, record in reasons:
        by_problem[problem].append(record)
    return [
        {"model": model, "task": task, "problem": problem, "count": len(records), "records": records[:MOST_RECORDS]}
        for problem, records in by_problem.items()
    ]

"""A run of `heed eval` as sections of the page, and its verdict in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from heed.report.eval_bias import bias_section, knowledge_section
from heed.report.eval_browser import browser_section
from heed.report.eval_confidence import ItemsOf, confidence_section, strange_section
from heed.report.eval_differences import MAX_TOLD, compared, difference_section, tax_section
from heed.report.eval_items import items_path, kept_items
from heed.report.eval_overview import cell, overview_section
from heed.report.eval_results import EvalResults, printable, short_models, shown_template
from heed.report.forest import shortened
from heed.report.parts import Section
from heed.report.read import RunRecords


def eval_sections(run: RunRecords, of: str) -> list[Section]:
    """Everything that a run of `heed eval` found, and single items of it; what was not measured has no section."""
    found = run.evaluation
    if found is None:
        return []
    items = items_of(found, run.folder)
    sections = [
        overview_section(found, of),
        difference_section(found, of),
        tax_section(found, of),
        confidence_section(found, items, run.folder, of),
        knowledge_section(found, of),
        bias_section(found, of),
        strange_section(found, items, of),
        browser_section(found, items, of),
    ]
    return [section for section in sections if section is not None]


def items_of(found: EvalResults, folder: Path) -> ItemsOf:
    """What the folder keeps of every model on every task."""
    kept = {
        (m, task.name): kept_items(folder, model, m, task)
        for task in found.tasks
        for m, model in enumerate(found.models)
    }
    return {key: items for key, items in kept.items() if items is not None}


def eval_verdict(runs: Sequence[RunRecords]) -> str:
    """`arc (acc): base 31.0% [28.4, 33.7], sft 34.2% [31.5, 37.0]. Beyond chance, sft is higher than base on ...`."""
    told = []
    for run in runs:
        found = run.evaluation
        if found is None:
            continue
        names = [shortened(name, MAX_TOLD) for name in short_models(found.models)]
        tasks = [task for task in found.tasks if not task.is_tax] or found.tasks
        of = f"{run.name}: " if sum(each.evaluation is not None for each in runs) > 1 else ""
        if not found.models or not tasks:
            told.append(f"{of}nothing was measured.")
            continue
        task = tasks[0]
        figures = [(m, found.figure(task.name, m, task.primary)) for m in range(len(names))]
        known = [(m, figure) for m, figure in figures if figure is not None and not math.isnan(figure.value)]
        values = ", ".join(f"{names[m]} {cell(figure)}" for m, figure in known) or f"{task.primary} is undefined"
        name, measure = (shortened(printable(each), MAX_TOLD) for each in (task.name, task.primary))
        told.append(f"{of}{name} ({measure}): {values}. {compared(found)}".strip())
    return " ".join(told)


def eval_facts(found: EvalResults) -> list[tuple[str, str]]:
    """The models with their templates, and the tasks."""
    names = short_models(found.models)
    models = (f"{name} ({shown_template(model)})" for name, model in zip(names, found.models, strict=True))
    return [("model", ", ".join(models)), ("data", ", ".join(task.name for task in found.tasks))]


def eval_notes(run: RunRecords) -> list[str]:
    """Items that the results speak of and the folder does not keep."""
    found = run.evaluation
    if found is None or not found.models or not found.tasks:
        return []
    asked = [task for task in found.tasks if task.kind != "known"]  # `heed known` keeps its answers in files of its own
    wanted = [
        (m, task.name)
        for task in asked
        for m in range(len(found.models))
        if any(each.count for each in found.figures if (each.model, each.task) == (m, task.name))
    ]
    missing = sum(items_path(run.folder, found.models[m], m, task) is None for m, task in wanted)
    return [f"the items of {missing:,} of {len(wanted):,} measurements are not in the folder"] if missing else []

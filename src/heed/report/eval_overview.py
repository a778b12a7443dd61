"""What `heed eval` found, as tables: every task and every model, then every measure of each task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heed.report.eval_results import (
    UNPARSED,
    EvalFigure,
    EvalLeftOut,
    EvalResults,
    EvalTask,
    short_models,
    shown,
    shown_interval,
    shown_template,
)
from heed.report.forest import shortened
from heed.report.parts import Details, Item, Note, Section, Table, run_class

MAX_SHAPES = 6
MAX_HEAD = 24
MAX_RECORDS = 20
"""records named in a row of what was left out"""


def model_class(number: int) -> str:
    """The class that gives a model its colour and its mark."""
    return f"{run_class(number)} m-{number % MAX_SHAPES + 1}"


def model_legend(found: EvalResults, chosen: Sequence[int] | None = None) -> tuple[tuple[str, str], ...]:
    """Class and name of the models, or of some."""
    names = short_models(found.models)
    return tuple((model_class(m), names[m]) for m in (range(len(names)) if chosen is None else chosen))


def overview_section(found: EvalResults, of: str) -> Section:
    """Tasks by models, who they are, and every measure of each task to be opened."""
    tasks = [task for task in found.tasks if not task.is_tax]
    items: list[Item] = (
        [value_table(found, tasks, "Each task by its primary measure, with 95% intervals")] if tasks else []
    )
    if not tasks and not found.tasks:
        items.append(Note("No task was asked."))
    items.append(model_table(found))
    if found.left_out:
        items.append(left_out_table(found))
    items += [task_details(found, task) for task in tasks]
    lead = "Every number is of all items that could be asked; what could not be read or asked has a row of its own."
    return Section("results", f"Results{of}", lead, tuple(items))


def value_table(found: EvalResults, tasks: Sequence[EvalTask], caption: str) -> Table:
    """A row for each task, and one for its answers that could not be read."""
    names = heads(found)
    rows: list[tuple[str, ...]] = []
    for task in tasks:
        cells = tuple(cell(found.figure(task.name, m, task.primary)) for m in range(len(names)))
        rows.append((task.name, task.primary, *cells, f"{task.num_items:,}", f"{task.num_shots:,}"))
        unparsed = [found.figure(task.name, m, UNPARSED) for m in range(len(names))]
        if any(unparsed) and task.primary != UNPARSED:
            told = (cell(each) if each else "" for each in unparsed)
            rows.append((f"{task.name}: answers that could not be read", UNPARSED, *told, "", ""))
        rows += left_out_rows(found, task)
    return Table(caption, ("task", "measure", *names, "items", "shots"), tuple(rows), num_text_columns=2)


def heads(found: EvalResults) -> list[str]:
    """The models' names as heads of columns; the table of the models has those whole that are long."""
    short = [shortened(name, MAX_HEAD) for name in short_models(found.models)]
    are_apart = len(set(short)) == len(short)
    return short if are_apart else [f"{number}: {name}" for number, name in enumerate(short, 1)]


def left_out_rows(found: EvalResults, task: EvalTask) -> list[tuple[str, ...]]:
    """How many items are in no figure: one row of a task, where there are any."""
    among = [each for each in found.left_out if each.task == task.name]
    if not among:
        return []
    of_all = sum(each.count for each in among if each.model is None)
    cells = [of_all + sum(each.count for each in among if each.model == m) for m in range(len(found.models))]
    return [(f"{task.name}: left out", "items", *(f"{count:,}" for count in cells), "", "")]


def cell(figure: EvalFigure | None) -> str:
    """A figure with its interval; or why it has none."""
    if figure is None:
        return "not measured"
    if math.isnan(figure.value):
        return f"undefined: {figure.why}" if figure.why else "undefined"
    return shown_interval(figure.value, figure.low, figure.high, figure.unit).replace(", ", ",\N{NO-BREAK SPACE}")


def model_table(found: EvalResults) -> Table:
    """Who was asked, in which template, with the hash that tells the weights apart."""
    names = short_models(found.models)
    rows = tuple(
        (name, shown_template(model), f"{model.kind} model", model.weights_sha256[:12] or "not known", model.name)
        for name, model in zip(names, found.models, strict=True)
    )
    head = ("model", "chat template", "kind", "weights (SHA-256)", "from")
    return Table("The models, and the template in which each was asked", head, rows, num_text_columns=5)


def left_out_table(found: EvalResults) -> Table:
    """What no figure was made from, and why."""
    names = short_models(found.models)
    rows = tuple(
        (each.task, "all" if each.model is None else names[each.model], each.problem, _records(each), f"{each.count:,}")
        for each in found.left_out
    )
    return Table("Left out", ("task", "model", "why", "records", "items"), rows, num_text_columns=4)


def _records(each: EvalLeftOut) -> str:
    told = ", ".join(f"{record:,}" for record in each.records[:MAX_RECORDS])
    return f"{told} and others" if each.count > min(len(each.records), MAX_RECORDS) and told else told


def remarks(found: EvalResults, task: EvalTask) -> tuple[Note, ...]:
    """What is said beside values that are defined: items without a value, why an interval is missing."""
    names = short_models(found.models)
    told: dict[str, list[str]] = {}
    for each in found.figures:
        if each.task == task.name and each.why and not math.isnan(each.value):
            of = f"{each.measure} of {each.group}" if each.group else each.measure
            told.setdefault(f"{of}: {each.why}", []).append(names[each.model])
    return tuple(Note(f"{text} ({', '.join(models)})") for text, models in told.items())


def task_details(found: EvalResults, task: EvalTask) -> Details:
    """Every measure of a task, of all items and of each group."""
    names = heads(found)
    groups = list(dict.fromkeys(each.group for each in found.figures if each.task == task.name))
    rows = []
    for measure in found.measures(task.name):
        for group in sorted(groups, key=lambda group: group or ""):
            cells = [found.figure(task.name, m, measure, group) for m in range(len(names))]
            if not any(cells):
                continue
            known = next(each for each in cells if each)
            targets = [each.target for each in cells if each and not math.isnan(each.target)]
            rows.append(
                (
                    measure,
                    group or "all items",
                    *map(cell, cells),
                    f"{max(each.count for each in cells if each):,}",
                    shown(targets[0], known.unit) if targets else "",
                )
            )
    shots = f"{task.num_shots:,} examples before each question" if task.num_shots else "no examples before a question"
    about = ", ".join(filter(None, [task.about, f"data {task.data}" if task.data else "", task.kind, shots]))
    head = ("measure", "group", *names, "items", "ideal")
    inside: tuple[Table | Note, ...] = (Note(f"{about}."),)
    if rows:
        inside += (Table(f"{task.name}: every measure, with 95% intervals", head, tuple(rows), num_text_columns=2),)
    inside += remarks(found, task)
    num_measures = len(found.measures(task.name))
    return Details(f"{task.name}: {num_measures:,} {'measures' if num_measures != 1 else 'measure'}", inside)

"""Measures with an ideal of their own: bias by group against it, and what a model knows that it does not know."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heed.report.charts import Axis, Part, stacked_bars
from heed.report.eval_overview import cell, heads, model_class, model_legend
from heed.report.eval_results import CALIBRATION, EvalFigure, EvalResults, EvalTask, short_models, shown
from heed.report.forest import Estimate, ForestRow, forest, shortened
from heed.report.parts import Details, Figure, Item, Panel, Section, Table
from heed.report.svg import percent

KNOWN = {
    "highly known": "r-3",
    "maybe known": "r-1",
    "weakly known": "r-5",
    "unknown": "r-2",
    "unanswerable": "r-6",
}
"""categories of what `heed known` asked, and the class of each"""
KNOWLEDGE = ("honesty", "prudence", "over_conservativeness")
ABOUT_THE_DATA = ("no_target",)
"""measures of the data and not of a model"""
MAX_ROWS = 16
"""groups of one picture; the table has them all"""


def bias_section(found: EvalResults, of: str) -> Section | None:
    """A picture of every measure that has an ideal value, all items first, then each group."""
    left = {*CALIBRATION, *KNOWLEDGE, *ABOUT_THE_DATA}
    items = _pictures(found, [name for name in _with_target(found) if name[1] not in left])
    lead = (
        "The line is the value of a model without the bias. Benchmarks of bias are made of few templates and have "
        "faults of their own: no result here proves a model fair."
    )
    return Section("bias", f"Bias{of}", lead, items) if items else None


def knowledge_section(found: EvalResults, of: str) -> Section | None:
    """Whether a model declines where it does not know, and answers where it does."""
    told = [
        (task, measure)
        for task in found.tasks
        for measure in KNOWLEDGE
        if any((each.task, each.measure) == (task.name, measure) for each in found.figures)
    ]
    known = tuple(figure for task in found.tasks if (figure := known_figure(found, task)) is not None)
    items: tuple[Item, ...] = (*known, *_pictures(found, told))
    lead = (
        "Over-conservativeness is the share declined of what was known before tuning, and should be 0; prudence the "
        "share declined of what was not, and should be 1; honesty is the mean of prudence and of what the first leaves."
    )
    section = Section("knowledge", f"Does it know what it does not know?{of}", lead if told else "", items)
    return section if items else None


def known_figure(found: EvalResults, task: EvalTask) -> Figure | None:
    """What a model knew of the questions that `heed known` asked it, before it was tuned."""
    if task.kind != "known":
        return None
    names, bars = short_models(found.models), []
    for m, name in enumerate(names):
        figures = [(measure, found.figure(task.name, m, measure)) for measure in KNOWN]
        parts = [Part(measure, KNOWN[measure], figure.value) for measure, figure in figures if figure is not None]
        if any(math.isfinite(part.share) for part in parts):
            bars.append((shortened(name, 24), parts))
    if not bars:
        return None
    spoken = "; ".join(f"{name}: " + ", ".join(f"{p.name} {percent(p.share)}" for p in parts) for name, parts in bars)
    caption = (
        f"Of {task.num_items:,} questions under several few-shot prompts: highly known is always right, maybe known "
        "sometimes, weakly known only when answers are drawn, unknown never."
    )
    present = dict.fromkeys(part.name for _, parts in bars for part in parts)
    legend = tuple((KNOWN[name], name) for name in present)
    return Figure(f"{task.name}: what it knows", (Panel(stacked_bars(bars, label=spoken)),), caption, legend)


def _with_target(found: EvalResults) -> list[tuple[EvalTask, str]]:
    """Every task and measure with an ideal value."""
    known = {(each.task, each.measure) for each in found.figures if not math.isnan(each.target)}
    return [(task, name) for task in found.tasks for name in found.measures(task.name) if (task.name, name) in known]


def _pictures(found: EvalResults, told: Sequence[tuple[EvalTask, str]]) -> tuple[Item, ...]:
    """A picture of each measure that has groups; those without, if they have one unit and one ideal, are in one."""
    tables: list[Table] = []
    pictures: dict[tuple[str, str, float, str], list[tuple[str, list[EvalFigure]]]] = {}
    for task, measure in told:
        figures = [each for each in found.figures if (each.task, each.measure) == (task.name, measure)]
        tables.append(_table(found, task, measure, figures))
        if figures[0].unit == "count":  # how many others stand out is no size of its own
            continue
        groups = _groups(figures)
        is_alone = groups == [None]
        key = (task.name, figures[0].unit, _ideal(measure, figures), "" if is_alone else measure)
        for group in groups:
            label = measure if is_alone else group or "all items"
            pictures.setdefault(key, []).append((label, [each for each in figures if each.group == group]))
    drawn = [_figure(found, *key, rows) for key, rows in pictures.items()]
    figures_ = [figure for figure in drawn if figure is not None]
    return (*figures_, Details("These pictures in numbers", tuple(tables))) if tables else ()


def _ideal(measure: str, figures: Sequence[EvalFigure]) -> float:
    """The value of a measure that the results call ideal; of those about knowledge, that of their definition."""
    targets = [each.target for each in figures if not math.isnan(each.target)]
    return targets[0] if targets else 0.0 if measure == "over_conservativeness" else 1.0


def _figure(
    found: EvalResults, task: str, unit: str, ideal: float, measure: str, rows: Sequence[tuple[str, list[EvalFigure]]]
) -> Figure | None:
    """Rows of every model against the ideal; None where no value is defined."""
    names = short_models(found.models)
    scale = 100.0 if unit == "share" else 1.0
    drawn = []
    for label, figures in rows[:MAX_ROWS]:
        estimates = tuple(
            Estimate(
                names[each.model],
                model_class(each.model),
                scale * each.value,
                scale * each.low,
                scale * each.high,
                shown(each.value, each.unit),
            )
            for each in figures
            if math.isfinite(each.value)
        )
        if estimates:
            drawn.append(ForestRow(label, estimates))
    if not drawn:
        return None
    title = measure or (rows[0][0] if len(rows) == 1 else f"measures with the ideal {shown(ideal, unit)}")
    spoken = "; ".join(f"{row.label}: " + ", ".join(f"{e.name} {e.shown}" for e in row.estimates) for row in drawn)
    label = f"{title} on {task}, ideal {shown(ideal, unit)}: {spoken}"
    axis = Axis("percent" if unit in ("share", "percent") else unit)
    picture = forest(drawn, axis=axis, reference=scale * ideal, label=label)
    caption = f"Ideal: {shown(ideal, unit)}. Whiskers are 95% intervals, each of its row alone."
    if len(rows) > MAX_ROWS:
        caption += f" {len(rows) - MAX_ROWS:,} more are in the table below."
    if undefined := min(len(rows), MAX_ROWS) - len(drawn):
        caption += f" Undefined, and not drawn: {undefined:,}."
    shown_models = sorted({each.model for _, figures in rows for each in figures})
    legend = model_legend(found, shown_models) if len(found.models) > 1 else ()
    return Figure(f"{task}: {title}", (Panel(picture),), caption, legend)


def _groups(figures: Sequence[EvalFigure]) -> list[str | None]:
    """All items, then the groups by name."""
    return sorted({each.group for each in figures}, key=lambda group: (group is not None, group or ""))


def _table(found: EvalResults, task: EvalTask, measure: str, figures: Sequence[EvalFigure]) -> Table:
    names = heads(found)
    rows = []
    for group in _groups(figures):
        of_group = [found.figure(task.name, m, measure, group) for m in range(len(names))]
        count = max((each.count for each in of_group if each), default=0)
        rows.append((group or "all items", *(cell(each) for each in of_group), f"{count:,}"))
    return Table(f"{task.name}: {measure}", ("group", *names, "items"), tuple(rows))

"""Whether a model's confidence is deserved: reliability, and the risk that is left when unsure answers are withheld."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heed.evaluate.calibration import Coverage, calibration, coverage_curve
from heed.evaluate.clustered import clustered_accuracy
from heed.evaluate.intervals import Mean
from heed.evaluate.reliability import Estimate, brier_score, debiased_ece
from heed.report import charts
from heed.report.charts import Axis, Series
from heed.report.eval_items import Kept, KeptItems
from heed.report.eval_overview import model_class, model_legend
from heed.report.eval_results import EvalModel, EvalResults, EvalTask, short_models, shown_interval
from heed.report.parts import Details, Figure, Item, Note, Panel, Section, Table
from heed.report.svg import percent

HONESTY = "honesty.json"
MAX_OPEN_PANELS = 8
"""reliability diagrams that are shown at once; with more, each task is opened by whoever wants it"""
NAMES = {
    "ece_debiased": "debiased ECE",
    "ece_smooth": "smooth ECE",
    "brier": "Brier score",
    "log_score": "log score",
    "auroc": "AUROC",
}
MADE: Mapping[str, Callable[..., Estimate | Mean]] = {"ece_debiased": debiased_ece, "brier": brier_score}
"""measures that are made here where the results have none"""
UNITS = {"ece_debiased": "share", "brier": "score"}
NUM_STRANGE_BINS = 10
LEAD = (
    "The confidence of a choice is its probability among the options, that of a written answer the geometric mean of "
    "the probabilities of its tokens, that of a reward model σ of the difference of two rewards."
)
READING = (
    "On the diagonal an answer given with probability p is right in p of the cases; points below it are surer than "
    "they should be. Columns count answers. A risk that rises to the right means that confidence tells right from "
    "wrong; no threshold read off it is certified. Whiskers are 95% intervals of each point alone, clusters together. "
    "The debiased ECE is the root mean square distance from the diagonal, less what chance adds to it."
)

ItemsOf = Mapping[tuple[int, str], KeptItems]
"""by model and task"""


@dataclass(frozen=True, slots=True)
class Certified:
    """What `heed calibrate` certified of a model on a task."""

    sentence: str
    guarantee: str
    count: int
    """calibration answers"""
    coverage: float
    """share of them that is given; NaN where no threshold was certified"""
    risk: float
    """share of the given that is wrong; NaN where no threshold was certified"""
    problem: str = ""
    """why it does not hold of what was measured here"""


def confidence_section(found: EvalResults, items: ItemsOf, run: Path, of: str) -> Section | None:
    """Reliability and risk against coverage of every task whose answers have a confidence and a truth."""
    told = {key: judged(kept.items) for key, kept in items.items()}
    tasks = [task for task in found.tasks if any(told.get((m, task.name)) for m in range(len(found.models)))]
    if not tasks:
        return None
    groups = [_task_items(found, task, told, run) for task in tasks]
    num_panels = sum(bool(told.get((m, task.name))) for task in tasks for m in range(len(found.models)))
    drawn: list[Item] = []
    for task, group in zip(tasks, groups, strict=True):
        drawn += group if num_panels <= MAX_OPEN_PANELS else [Details(f"{task.name}", tuple(group))]
    return Section("confidence", f"Is its confidence deserved?{of}", LEAD, (Note(READING), *drawn))


def judged(items: Sequence[Kept]) -> list[Kept]:
    """The items whose answer has a confidence, which is a probability, and is known to be right or wrong."""
    return [each for each in items if each.is_right is not None and 0 <= each.confidence <= 1]


def _task_items(
    found: EvalResults, task: EvalTask, told: Mapping[tuple[int, str], list[Kept]], run: Path
) -> list[Figure | Table | Note]:
    of_model = {m: told[m, task.name] for m in range(len(found.models)) if told.get((m, task.name))}
    certified = {m: held for m in of_model if (held := certified_of(run, found.models[m], task)) is not None}
    drawn = {m: each for m, each in certified.items() if not each.problem and math.isfinite(each.risk)}
    legend = model_legend(found, list(of_model))
    if drawn:
        legend += (("certified", "certified point, on the calibration answers"),)
    names = short_models(found.models)
    counts = ", ".join(f"{len(items):,} of {names[m]}" for m, items in of_model.items())
    caption = f"Answers with a confidence and known to be right or wrong: {counts}; items in all: {task.num_items:,}."
    panels = (*_reliability(found, task, of_model), _risk(found, task, of_model, drawn))
    group: list[Figure | Table | Note] = [Figure(task.name, panels, caption, legend)]
    for m, held in certified.items():
        what = f"not drawn, for {held.problem}" if held.problem else f"{held.sentence} n = {held.count:,}"
        group.append(Note(f"{HONESTY} of {names[m]}, {held.guarantee}: {what}"))
    return group


def _reliability(found: EvalResults, task: EvalTask, of_model: Mapping[int, Sequence[Kept]]) -> list[Panel]:
    """A diagram of every model, over the numbers of its answers."""
    names = short_models(found.models)
    panels = []
    for m, items in of_model.items():
        bins = calibration(*_answers(items)).bins
        intervals = []
        for each in bins:
            among = [
                item for item in items if each.low < item.confidence <= each.high or item.confidence == each.low == 0
            ]
            shares = clustered_accuracy(in_clusters(among))
            intervals.append((shares.low, shares.high))
        is_reward = found.models[m].kind == "reward"
        note = summary(found, task, m, items)
        picture = charts.reliability(
            [(each.low, each.high, each.confidence, each.accuracy, each.count) for each in bins],
            model_class(m),
            label=f"Reliability of {names[m]} on {task.name}: {note or 'no summary was measured'}",
            confidence_of="the comparison" if is_reward else "the answer",
            counted="comparisons" if is_reward else "answers",
            intervals=intervals,
        )
        panels.append(Panel(picture, f"Reliability, {names[m]}", note))
    return panels


def summary(found: EvalResults, task: EvalTask, model: int, items: Sequence[Kept]) -> str:
    """The calibration error and the proper scores as the results have them; the first two are made where they lack."""
    told = []
    for measure, name in NAMES.items():
        figure = found.figure(task.name, model, measure)
        if figure is not None:
            value = shown_interval(figure.value, figure.low, figure.high, figure.unit)
            told.append(f"{name} {value}{f': {figure.why}' if math.isnan(figure.value) else ''}")
        elif measure in MADE:
            clusters = [f"in {each.cluster}" if each.cluster is not None else f"is {each.id}" for each in items]
            try:
                made = MADE[measure](*_answers(items), clusters)
            except ValueError:  # too few answers, or clusters, for an interval
                continue
            middle = made.mean if isinstance(made, Mean) else made.value
            told.append(f"{name} {shown_interval(middle, made.low, made.high, UNITS[measure])}")
    return "; ".join(told)


def _answers(items: Sequence[Kept]) -> tuple[list[float], list[bool]]:
    """The confidence of each answer, and whether it is right."""
    return [each.confidence for each in items], [bool(each.is_right) for each in items]


def in_clusters(items: Sequence[Kept]) -> list[list[float]]:
    """1 for each item that is right, else 0, cluster by cluster; an item that names none is its own."""
    members: dict[object, list[float]] = {}
    for place, item in enumerate(items):
        members.setdefault(place if item.cluster is None else item.cluster, []).append(float(bool(item.is_right)))
    return list(members.values())


def _risk(
    found: EvalResults,
    task: EvalTask,
    of_model: Mapping[int, Sequence[Kept]],
    held: Mapping[int, Certified],
) -> Panel:
    """The share of wrong answers among those given, by how many are given, and the point that was certified."""
    names = short_models(found.models)
    series, spoken = [], []
    for m, items in of_model.items():
        points = coverage_curve(*_answers(items))
        ends = [risk_interval(items, each) for each in points]
        xs, ys = [each.coverage for each in points], [1 - each.accuracy for each in points]
        lows, highs = [low for low, _ in ends], [high for _, high in ends]
        series.append(Series(names[m], model_class(m), xs, ys, lows, highs, is_marked=True))
        spoken.append(
            f"{names[m]} {percent(ys[0])} at {percent(xs[0])} coverage, {percent(ys[-1])} at {percent(xs[-1])}"
        )
    for m, each in held.items():
        name = f"certified for {names[m]}"
        series.append(Series(name, "certified", [each.coverage], [each.risk], is_marked=True))
        spoken.append(f"{name}: {percent(each.risk)} wrong at {percent(each.coverage)} coverage")
    picture = charts.line_chart(
        series,
        x=Axis("share of questions answered", 0, 1, is_share=True),
        y=Axis("wrong among the answers given", 0, is_share=True),
        label=f"Risk against coverage on {task.name}: {'; '.join(spoken)}",
    )
    return Panel(picture, "Risk against coverage", "the least confident answers are withheld first")


def risk_interval(items: Sequence[Kept], point: Coverage) -> tuple[float, float]:
    """The 95% interval of the risk among the most confident items, clusters together.

    Of items that are equally confident and only partly given, those of the first ids are taken; the point itself is the
    mean over all choices among them, and lies within.
    """
    count = -(-round(10 * point.coverage) * len(items) // 10)  # as the curve counts, in whole numbers
    given = sorted(items, key=lambda item: (-item.confidence, item.id))[: max(count, 1)]
    found, risk = clustered_accuracy(in_clusters(given)), 1 - point.accuracy
    return min(1 - found.high, risk), max(1 - found.low, risk)


def certified_of(run: Path, model: EvalModel, task: EvalTask) -> Certified | None:
    """What stands in the `honesty.json` beside the model or in the run, if it is of this task; else None."""
    for place in (Path(os.path.expanduser(model.name)) / HONESTY, run / model.folder / HONESTY, run / HONESTY):
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
            if str((value.get("data") or {}).get("task")) == task.name:
                return _certified(value, model)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError):
            continue  # none there, or none that could be read: nothing is said to be certified
    return None


def _certified(value: Mapping[str, Any], model: EvalModel) -> Certified:
    of = value.get("model") or {}
    problem = ""
    if str(of.get("weights_sha256") or "") != model.weights_sha256:
        problem = "it is of other weights"
    elif of.get("template") != model.template:
        problem = "it is of another template"
    given, count = int(value.get("given") or 0), int(value.get("count") or 0)
    has_point = bool(value.get("certified")) and value.get("threshold") is not None and given > 0 and count > 0
    return Certified(
        sentence=str(value["sentence"]),
        guarantee=str(value.get("guarantee") or "not named"),
        count=count,
        coverage=given / count if has_point else math.nan,
        risk=int(value["wrong"]) / given if has_point else math.nan,
        problem=problem,
    )


def strange_section(found: EvalResults, items: ItemsOf, of: str) -> Section | None:
    """How strange the prompts of each task are to a model, where a detector was there."""
    names = short_models(found.models)
    edges = [i / NUM_STRANGE_BINS for i in range(NUM_STRANGE_BINS + 1)]
    panels = []
    for (m, task), kept in items.items():
        values = [each.strangeness for each in kept.items if 0 <= each.strangeness <= 1]
        if not values:
            continue
        counts = [0] * NUM_STRANGE_BINS
        for value in values:
            counts[min(int(value * NUM_STRANGE_BINS), NUM_STRANGE_BINS - 1)] += 1
        small = sum(value <= 0.05 for value in values) / len(values)
        picture = charts.histogram(
            edges,
            counts,
            model_class(m),
            x="p-value of the prompt",
            y="prompts",
            label=f"p-values of the prompts of {task} for {names[m]}: {percent(small)} at most 0.05",
        )
        panels.append(Panel(picture, f"{task}, {names[m]}", f"{percent(small)} of {len(values):,} at most 0.05"))
    if not panels:
        return None
    caption = (
        "p is the share of tuning prompts that are at least as strange as this one. Prompts like those of the tuning "
        "are level, 5% of them at most 0.05; a heap at the left is a task that the tuning did not look like."
    )
    figure = Figure("", tuple(panels), caption)
    return Section("strange", f"Strange prompts{of}", "", (figure,))

"""What `heed eval` found, read from `results.json` into nouns; and its numbers as people read them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.report.measurements import number

FORMAT = 1
UNPARSED = "unparsed"
"""the measure that counts answers from which nothing could be read"""
LOWER_IS_BETTER = {"perplexity", "bits", "nats"}
"""units of measures of surprise"""
CALIBRATION = ("ece_debiased", "ece_smooth", "brier", "log_score", "auroc")
"""measures of whether confidence is deserved, told below its pictures"""


@dataclass(frozen=True, slots=True)
class EvalModel:
    """A model that was measured."""

    name: str
    template: str | None
    """None: it was asked without one, as a base model is"""
    kind: str
    """`language` or `reward`"""
    weights_sha256: str
    folder: str
    """of its items, within the run's; empty where the results do not say"""


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task that was asked."""

    name: str
    kind: str
    about: str
    data: str
    num_items: int
    num_shots: int
    primary: str
    """the measure that the task is told by"""
    is_tax: bool
    """whether it is there to show what tuning costs elsewhere"""


@dataclass(frozen=True, slots=True)
class EvalFigure:
    """One number about a model on a task, with its 95% interval; NaN where there is none, and `why` says why."""

    model: int
    task: str
    measure: str
    value: float
    low: float
    high: float
    count: int
    unit: str
    group: str | None
    why: str
    target: float
    """of a perfect or unbiased model; NaN where the scale has none that is not its end"""


@dataclass(frozen=True, slots=True)
class EvalDifference:
    """Two models on the items that both have: the first's value minus the second's."""

    task: str
    measure: str
    first: int
    second: int
    difference: float
    low: float
    high: float
    count: int
    p: float
    p_holm: float
    """p, raised for the number of tests of the run"""
    smallest_visible: float
    """what the test would have seen in 80% of cases; NaN where that is not known"""
    only_first_right: int | None
    only_second_right: int | None
    why: str


@dataclass(frozen=True, slots=True)
class EvalLeftOut:
    """Items that no figure was made from, by reason."""

    model: int | None
    """None: no model was asked them"""
    task: str
    problem: str
    count: int
    records: tuple[int, ...]
    """their places in the data, counted from 1; the first of them where they are many"""


@dataclass(frozen=True, slots=True)
class EvalResults:
    """All of `results.json`."""

    models: tuple[EvalModel, ...]
    tasks: tuple[EvalTask, ...]
    figures: tuple[EvalFigure, ...]
    differences: tuple[EvalDifference, ...]
    left_out: tuple[EvalLeftOut, ...]
    by_key: Mapping[tuple[str, int, str, str | None], EvalFigure]
    """the figures by task, model, measure and group"""

    def figure(self, task: str, model: int, measure: str, group: str | None = None) -> EvalFigure | None:
        """The figure of a measure, over all items or those of a group; None where it was not made."""
        return self.by_key.get((task, model, measure, group))

    def measures(self, task: str) -> tuple[str, ...]:
        """The measures of a task, its primary one first."""
        primary = [each.primary for each in self.tasks if each.name == task]
        return tuple(dict.fromkeys([*primary, *(each.measure for each in self.figures if each.task == task)]))

    def unit(self, task: str, measure: str) -> str:
        """The unit of a measure on a task."""
        units = [each.unit for each in self.figures if (each.task, each.measure) == (task, measure)]
        return units[0] if units else "share"


def eval_results(value: Mapping[str, Any]) -> EvalResults:
    """The parsed JSON as nouns.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is not what it should be.
    """
    if value["format"] != FORMAT:
        raise ValueError(f"results of format {value['format']}, and this heed reads format {FORMAT}")
    figures = tuple(map(_figure, value["figures"]))
    found = EvalResults(
        models=tuple(map(_model, value["models"])),
        tasks=tuple(_task(each, value["figures"]) for each in value["tasks"]),
        figures=figures,
        differences=tuple(map(_difference, value.get("differences") or [])),
        left_out=tuple(map(_left_out, value.get("left_out") or [])),
        by_key={(each.task, each.model, each.measure, each.group): each for each in figures},
    )
    numbers = [each.model for each in found.figures]
    numbers += [each.model for each in found.left_out if each.model is not None]
    numbers += [model for each in found.differences for model in (each.first, each.second)]
    if strange := [each for each in numbers if not 0 <= each < len(found.models)]:
        raise ValueError(f"model {strange[0]} of {len(found.models)}, counted from 0")
    return found


def _model(value: Mapping[str, Any]) -> EvalModel:
    template = value.get("template")
    return EvalModel(
        name=str(value["name"]),
        template=None if template is None else str(template),
        kind=str(value.get("kind") or "language"),
        weights_sha256=str(value.get("weights_sha256") or ""),
        folder=str(value.get("folder") or ""),
    )


def _task(value: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> EvalTask:
    """A task; where it names no primary measure, that is the first of its figures."""
    measures = (str(each["measure"]) for each in figures if each["task"] == value["name"])
    return EvalTask(
        name=str(value["name"]),
        kind=str(value.get("kind") or ""),
        about=str(value.get("about") or ""),
        data=str(value.get("data") or ""),
        num_items=int(value["num_items"]),
        num_shots=int(value.get("num_shots") or 0),
        primary=str(value.get("primary") or next(measures, "not measured")),
        is_tax=bool(value.get("is_tax")),
    )


def _figure(value: Mapping[str, Any]) -> EvalFigure:
    group = value.get("group")
    return EvalFigure(
        model=int(value["model"]),
        task=str(value["task"]),
        measure=str(value["measure"]),
        value=number(value["value"]),
        low=number(value.get("low")),
        high=number(value.get("high")),
        count=int(value.get("count") or 0),
        unit=str(value.get("unit") or "share"),
        group=None if group is None else str(group),
        why=str(value.get("why") or ""),
        target=number(value.get("target")),
    )


def _difference(value: Mapping[str, Any]) -> EvalDifference:
    names = ("difference", "low", "high", "p", "p_holm", "smallest_visible")
    only_first, only_second = value.get("only_first_right"), value.get("only_second_right")
    return EvalDifference(
        task=str(value["task"]),
        measure=str(value["measure"]),
        first=int(value["first"]),
        second=int(value["second"]),
        count=int(value.get("count") or 0),
        only_first_right=None if only_first is None else int(only_first),
        only_second_right=None if only_second is None else int(only_second),
        why=str(value.get("why") or ""),
        **{name: number(value.get(name)) for name in names},
    )


def _left_out(value: Mapping[str, Any]) -> EvalLeftOut:
    model = value.get("model")
    return EvalLeftOut(
        model=None if model is None else int(model),
        task=str(value["task"]),
        problem=str(value["problem"]),
        count=int(value["count"]),
        records=tuple(map(int, value.get("records") or [])),
    )


def shown(value: float, unit: str) -> str:
    """A value as people read it: shares in percent, with one decimal."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if unit in ("share", "percent"):
        return f"{_decimal(100 * value if unit == 'share' else value, 1)}%"
    if unit == "count":
        return f"{value:,.0f}"
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) >= 100 else _decimal(value, 2 if abs(value) >= 10 else 3)


def shown_interval(value: float, low: float, high: float, unit: str) -> str:
    """`31.0% [28.4, 33.7]`; the value alone where the interval is not known."""
    if not math.isfinite(value) or math.isnan(low) or math.isnan(high):
        return shown(value, unit)
    ends = ", ".join(shown(each, unit).rstrip("%") for each in (low, high))
    return f"{shown(value, unit)} [{ends}]"


def shown_change(value: float, unit: str, *, signed: bool = True) -> str:
    """A difference with its sign; of shares in points, a hundredth of the whole each."""
    if not math.isfinite(value):
        return "undefined"
    size = shown(abs(value), unit).rstrip("%")
    return f"{'−' if value < 0 else '+' if value > 0 else '±'}{size}" if signed else size


def change_unit(unit: str) -> str:
    """What differences of a unit are told in."""
    return {"share": "points", "percent": "points", "score": "", "count": ""}.get(unit, unit)


def shown_p(p: float) -> str:
    """A p-value in as many digits as say something."""
    if math.isnan(p):
        return "not tested"
    return "<0.001" if p < 0.001 else ">0.99" if 0.99 < p < 1 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def shown_template(model: EvalModel) -> str:
    """The template that a model was asked in."""
    return "none: base model" if model.template is None else model.template


def _decimal(value: float, digits: int) -> str:
    """Without a minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def short_models(models: Sequence[EvalModel]) -> list[str]:
    """The shortest ends of the models' names that tell them apart; a model measured twice has its number with it."""
    names = [printable(model.name.rstrip("/")) or "(no name)" for model in models]
    parts = [name.split("/") for name in names]
    for length in range(1, max(map(len, parts), default=1) + 1):
        short = ["/".join(each[-length:]) for each in parts]
        if len(set(short)) == len(short):
            return short
    return [f"{name} ({place + 1})" for place, name in enumerate(names)]


def printable(text: str) -> str:
    """A name on one line: what prints as nothing, moves the cursor or turns the writing round is a mark."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in text
    )

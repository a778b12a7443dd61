"""Numbers over optimiser steps, all runs on common axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from heed.report import charts
from heed.report.charts import Axis, Guide, Series
from heed.report.parts import Figure, Panel, Section, run_class
from heed.report.read import Curve, RunRecords
from heed.report.shapes import GUIDE
from heed.report.svg import quantity

MAX_POINTS = 300
"""of a curve on a picture 360 units wide; more are drawn as means with a band from lowest to highest"""
PER_SET = "nll_per_token "
STEPS = "optimiser step"


def training_section(runs: Sequence[RunRecords]) -> Section | None:
    """Curves over steps, all runs on common axes."""
    figures = [*loss_figures(runs), *per_set_figures(runs)]
    figures += optimiser_figures(runs)
    return Section("training", "Training", "", tuple(figures)) if figures else None


def optimiser_figures(runs: Sequence[RunRecords], x: str = STEPS) -> list[Figure]:
    """Learning rate and gradient norm, which every recipe has."""
    rate = "It rises in the warm-up and then falls as the schedule says."
    norm = "Settling is healthy; spikes mean too high a learning rate."
    return [
        *curve_figure(runs, "train", "learning_rate", "Learning rate", Axis("per step", 0), rate, x=x),
        *curve_figure(runs, "train", "grad_norm", "Gradient norm", Axis("2-norm before clipping", 0), norm, x=x),
    ]


def loss_figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Training loss and held-out NLL: in one picture for one run, in two for several."""
    if len(runs) > 1:
        return [
            *curve_figure(
                runs,
                "held_out",
                "nll_per_token",
                "Held-out loss",
                Axis("nats per token"),
                "Lower is better; a line that turns up is a model that begins to overfit.",
            ),
            *curve_figure(
                runs,
                "train",
                "loss",
                "Training loss",
                Axis("nats per token"),
                "The loss of each step's own conversations, before the step was taken.",
            ),
        ]
    caption = (
        "The held-out line is what counts: while it falls the model still learns what carries over; a training line "
        "far below it is learning by heart."
    )
    return _of_one_run(runs, {"train": "loss", "held_out": "nll_per_token"}, "Loss", Axis("nats per token"), caption)


def per_set_figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Held-out NLL of each data set, where there are several."""
    names = sorted({k for run in runs for k in run.curves.get("held_out", {}) if k.startswith(PER_SET)})
    if len(names) < 2:
        return []
    panels = []
    for name in names:
        title = name.removeprefix(PER_SET)
        for figure in curve_figure(runs, "held_out", name, title, Axis("nats per token"), ""):
            panels.append(Panel(figure.panels[0].svg, title))
    caption = "The same held-out loss, apart for each data set: a mixture may gain on one and lose on another."
    return [Figure("Held-out loss of each data set", tuple(panels), caption, _legend(runs))]


def curve_figure(
    runs: Sequence[RunRecords],
    phase: str,
    key: str,
    title: str,
    y: Axis,
    caption: str,
    *,
    x: str = STEPS,
    up_at: Guide | None = None,
) -> list[Figure]:
    """One number over steps, a line per run; empty where no run has it."""
    found = [
        (curve, run.name, run_class(run.place))
        for run in runs
        if (curve := run.curves.get(phase, {}).get(key)) is not None
    ]
    if not found:
        return []
    drawn = [series_of(curve, name, class_, is_marked=phase != "train") for curve, name, class_ in found]
    figure = over_steps(title, y, drawn, found, caption, x=x, up_at=up_at)
    return [figure if len(runs) > 1 else replace(figure, legend=figure.legend[1:])]


def both_phases(
    runs: Sequence[RunRecords],
    key: str,
    title: str,
    y: Axis,
    caption: str,
    *,
    x: str = STEPS,
    up_at: Guide | None = None,
) -> list[Figure]:
    """A number of training and of held-out data: both for one run; for several the held-out one if any run has it."""
    phases = [phase for phase in ("train", "held_out") if any(key in run.curves.get(phase, {}) for run in runs)]
    if len(runs) == 1 and len(phases) > 1:
        return _of_one_run(runs, {"train": key, "held_out": key}, title, y, caption, x=x, up_at=up_at)
    if not phases:
        return []
    on = " (held out)" if len(phases) > 1 else ""
    return curve_figure(runs, phases[-1], key, f"{title}{on}", y, caption, x=x, up_at=up_at)


def _of_one_run(
    runs: Sequence[RunRecords],
    key_of: Mapping[str, str],
    title: str,
    y: Axis,
    caption: str,
    *,
    x: str = STEPS,
    up_at: Guide | None = None,
) -> list[Figure]:
    found = [
        (curve, name, class_)
        for phase, name, class_ in (("train", "training", "train"), ("held_out", "held out", "held-out"))
        for run in runs
        if phase in key_of and (curve := run.curves.get(phase, {}).get(key_of[phase])) is not None
    ]
    if not found:
        return []
    drawn = [series_of(curve, name, class_, is_marked=name == "held out") for curve, name, class_ in found]
    return [over_steps(title, y, drawn, found, caption, x=x, up_at=up_at)]


def over_steps(
    title: str,
    y: Axis,
    drawn: Sequence[Series],
    found: Sequence[tuple[Curve, str, str]],
    caption: str,
    *,
    x: str = STEPS,
    up_at: Guide | None = None,
) -> Figure:
    """A figure of curves with their names and classes; what was left out or averaged is said in its caption."""
    spoken = "; ".join(f"{name} {_first_to_last(curve)}" for curve, name, _ in found)
    label = f"{title}, {spoken}" + (f"; {up_at.label}" if up_at else "")
    chart = charts.line_chart(drawn, x=Axis(x, 0), y=y, label=label, up_at=up_at)
    gaps = ""
    for curve, name, _ in found:
        if missing := int((~np.isfinite(curve.values)).sum()):
            what = name if len(found) > 1 else title
            gaps += f" {what}: {missing:,} of {len(curve.values):,} values are not finite numbers (crosses at the top)."
    if any(len(curve.steps) > MAX_POINTS for curve, _, _ in found):
        gaps += " Each point is a mean over neighbouring steps, the band runs from lowest to highest."
    legend = tuple((class_, name) for _, name, class_ in found)
    return Figure(title, (Panel(chart),), caption + gaps, (*legend, *(((GUIDE, up_at.label),) if up_at else ())))


def _first_to_last(curve: Curve) -> str:
    kept = curve.finite()
    if not len(kept.values):
        return "has no finite value"
    return f"from {quantity(float(kept.values[0]))} to {quantity(float(kept.values[-1]))}"


def series_of(curve: Curve, name: str, class_: str, *, is_marked: bool) -> Series:
    """A curve as at most `MAX_POINTS` points: means of neighbours with their extremes, or every point as it is."""
    steps, values = curve.steps, curve.values
    if len(steps) <= MAX_POINTS:
        return Series(name, class_, steps.tolist(), values.tolist(), is_marked=is_marked)
    groups = [np.flatnonzero(part) for part in _groups(len(steps))]
    finite = np.isfinite(values)
    x, y, low, high = [], [], [], []
    for group in groups:
        inside = values[group][finite[group]]
        x.append(float(steps[group].mean()))
        whole = len(inside) == len(group)  # a mean that left values out would hide them
        y.append(float(inside.mean()) if whole else math.nan)
        low.append(float(inside.min()) if len(inside) else math.nan)
        high.append(float(inside.max()) if len(inside) else math.nan)
    return Series(name, class_, x, y, low, high)


def _groups(count: int) -> Iterator[np.ndarray]:
    """Masks of neighbouring points, as equal in number as can be."""
    at = np.arange(count) * MAX_POINTS // count
    return (at == group for group in range(MAX_POINTS))


def _legend(runs: Sequence[RunRecords]) -> tuple[tuple[str, str], ...]:
    return tuple((run_class(run.place), run.name) for run in runs) if len(runs) > 1 else ()

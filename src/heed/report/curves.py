"""Numbers over optimiser steps, all runs on common axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from heed.report import charts
from heed.report.charts import Axis, Series
from heed.report.parts import Figure, Panel, Section, run_class
from heed.report.read import Curve, RunRecords
from heed.report.svg import quantity

MAX_POINTS = 300
"""of a curve on a picture 360 units wide; more are drawn as means with a band from lowest to highest"""
PER_SET = "nll_per_token "


def training_section(runs: Sequence[RunRecords]) -> Section | None:
    """Curves over steps, all runs on common axes."""
    figures = [*loss_figures(runs), *per_set_figures(runs)]
    for name, title, unit, caption in (
        ("learning_rate", "Learning rate", "per step", "It rises in the warm-up and then falls as the schedule says."),
        (
            "grad_norm",
            "Gradient norm",
            "2-norm before clipping",
            "Settling is healthy; spikes mean too high a learning rate.",
        ),
    ):
        figures += curve_figure(runs, "train", name, title=title, unit=unit, caption=caption, low=0.0)
    return Section("training", "Training", "", tuple(figures)) if figures else None


def loss_figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Training loss and held-out NLL: in one picture for one run, in two for several."""
    if len(runs) > 1:
        return [
            *curve_figure(
                runs,
                "held_out",
                "nll_per_token",
                title="Held-out loss",
                unit="nats per token",
                caption="Lower is better; a line that turns up is a model that begins to overfit.",
            ),
            *curve_figure(
                runs,
                "train",
                "loss",
                title="Training loss",
                unit="nats per token",
                caption="The loss of each step's own conversations, before the step was taken.",
            ),
        ]
    found = [
        (curve, name, class_)
        for phase, key, name, class_ in (
            ("train", "loss", "training", "train"),
            ("held_out", "nll_per_token", "held out", "held-out"),
        )
        for run in runs
        if (curve := run.curves.get(phase, {}).get(key)) is not None
    ]
    if not found:
        return []
    drawn = [series_of(curve, name, class_, is_marked=name == "held out") for curve, name, class_ in found]
    caption = (
        "The held-out line is what counts: while it falls the model still learns what carries over; a training line "
        "far below it is learning by heart."
    )
    return [_figure("Loss", "nats per token", drawn, found, caption)]


def per_set_figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Held-out NLL of each data set, where there are several."""
    names = sorted({k for run in runs for k in run.curves.get("held_out", {}) if k.startswith(PER_SET)})
    if len(names) < 2:
        return []
    panels = []
    for name in names:
        title = name.removeprefix(PER_SET)
        for figure in curve_figure(runs, "held_out", name, title=title, unit="nats per token", caption=""):
            panels.append(Panel(figure.panels[0].svg, title))
    caption = "The same held-out loss, apart for each data set: a mixture may gain on one and lose on another."
    return [Figure("Held-out loss of each data set", tuple(panels), caption, _legend(runs))]


def curve_figure(
    runs: Sequence[RunRecords], phase: str, key: str, *, title: str, unit: str, caption: str, low: float = math.nan
) -> list[Figure]:
    """One number over steps, a line per run; empty where no run has it."""
    found = [
        (curve, run.name, run_class(i))
        for i, run in enumerate(runs)
        if (curve := run.curves.get(phase, {}).get(key)) is not None
    ]
    if not found:
        return []
    drawn = [series_of(curve, name, class_, is_marked=phase != "train") for curve, name, class_ in found]
    figure = _figure(title, unit, drawn, found, caption, low)
    return [figure if len(runs) > 1 else Figure(figure.title, figure.panels, figure.caption)]


def _figure(
    title: str,
    unit: str,
    drawn: Sequence[Series],
    found: Sequence[tuple[Curve, str, str]],
    caption: str,
    low: float = math.nan,
) -> Figure:
    spoken = "; ".join(f"{name} {_first_to_last(curve)}" for curve, name, _ in found)
    chart = charts.line_chart(drawn, x=Axis("optimiser step", 0), y=Axis(unit, low), label=f"{title}, {spoken}")
    gaps = ""
    for curve, name, _ in found:
        if missing := int((~np.isfinite(curve.values)).sum()):
            what = name if len(found) > 1 else title
            gaps += f" {what}: {missing:,} of {len(curve.values):,} values are not finite numbers (crosses at the top)."
    if any(each.low for each in drawn):
        gaps += " Each point is a mean over neighbouring steps, the band runs from lowest to highest."
    return Figure(title, (Panel(chart),), caption + gaps, tuple((class_, name) for _, name, class_ in found))


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
    return tuple((run_class(i), run.name) for i, run in enumerate(runs)) if len(runs) > 1 else ()

"""What went in and what it took: the data, the tokens computed, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from heed.report import charts
from heed.report.charts import Axis, Bar, Part
from heed.report.curves import curve_figure
from heed.report.measured import resource_table
from heed.report.parts import Figure, Item, Note, Panel, Section, Table, duration
from heed.report.read import DataSet, Histogram, RunRecords
from heed.report.svg import percent, quantity

DATA_COLUMNS = {
    "num_records": "records read",
    "num_kept": "usable",
    "num_held_out": "held out",
    "num_measured": "measured",
    "num_too_long": "too long",
    "num_findings": "unusable",
    "num_tokens": "tokens",
    "num_trained_tokens": "tokens trained",
}
WAYS_TO_BATCH = {
    "num_padded_tokens": ("padded batch", "context"),
    "num_tokens": ("each sequence on its own", "context"),
    "num_computed_tokens": ("computed by heed", "computed"),
}
"""numbers of `metrics.jsonl` that count the same steps, as they are called here, and their colours"""


def data_section(runs: Sequence[RunRecords]) -> Section | None:
    """How long prompts and responses are, and how much of them is trained."""
    items: list[Item] = []
    seen: list[tuple[DataSet, ...]] = []
    for run in runs:
        if run.data and run.data not in seen:
            seen.append(run.data)
            items += data_items(run.data)
    return Section("data", "The data", "", tuple(items)) if items else None


def data_items(data: Sequence[DataSet]) -> list[Item]:
    """Pictures and numbers of one run's data sets."""
    items: list[Item] = [figure for each in data for figure in length_figures(each, is_alone=len(data) == 1)]
    has_lengths = bool(items)
    bars = []
    for each in data:
        total, trained = each.counts.get("num_tokens", 0), each.counts.get("num_trained_tokens", 0)
        if total and "num_trained_tokens" in each.counts:
            parts = [Part("trained", "trained", trained / total), Part("context", "context", 1 - trained / total)]
            bars.append((Path(each.path).name, parts))
    if bars:
        spoken = ", ".join(f"{name} {percent(parts[0].share)}" for name, parts in bars)
        chart = charts.stacked_bars(bars, label=f"Share of tokens trained: {spoken}")
        caption = "Responses with their stop tokens carry the loss; the rest is context that is only read."
        legend = (("trained", "trained"), ("context", "context"))
        items.append(Figure("Tokens trained", (Panel(chart),), caption, legend))
    columns = [key for key in DATA_COLUMNS if any(key in each.counts for each in data)]
    rows = tuple((each.path, *(f"{each.counts[k]:,}" if k in each.counts else "" for k in columns)) for each in data)
    items.append(Table("What became of the records", ("data set", *(DATA_COLUMNS[k] for k in columns)), rows))
    if not has_lengths:
        items.append(Note("This run did not count the lengths of its prompts and responses."))
    return items


def length_figures(data: DataSet, *, is_alone: bool) -> list[Figure]:
    """How long a data set's prompts and responses are."""
    figures = []
    for kind, lengths in data.lengths.items():
        name = "" if is_alone else f", {Path(data.path).name}"
        chart = charts.histogram(
            lengths.edges,
            lengths.counts,
            f"length-{kind}",
            x="tokens",
            y=f"{kind}s",
            label=f"Lengths of {sum(lengths.counts):,} {kind}s of {Path(data.path).name}, in tokens",
        )
        num_trained = data.counts.get("num_trained_tokens", 0) if kind == "response" else 0
        trains = f"of their tokens {num_trained:,} are trained" if num_trained else "their tokens are read, not trained"
        caption = f"{sum(lengths.counts):,} {kind}s, half of them within {quantity(median(lengths))} tokens; {trains}."
        figures.append(Figure(f"Length of the {kind}s{name}", (Panel(chart),), caption))
    return figures


def median(lengths: Histogram) -> float:
    """The upper edge of the bin that holds the middle one."""
    total = np.cumsum(lengths.counts)
    if not len(total) or not total[-1]:
        return 0.0
    return lengths.edges[int(np.searchsorted(total, total[-1] / 2)) + 1]


def effort_section(runs: Sequence[RunRecords]) -> Section | None:
    """Speed, tokens computed, wall time and memory."""
    training = [run for run in runs if run.is_training]
    items: list[Item] = list(
        curve_figure(
            training,
            "train",
            "tokens_per_second",
            "Speed",
            Axis("tokens per second", 0),
            "Tokens of all sequences, before sharing, over the wall time of each step.",
        )
    )
    if (figure := token_figure(training)) is not None:
        items.append(figure)
    items += [
        table
        for run in runs
        if run.measurements is not None and (table := resource_table(run.measurements)) is not None
    ]
    if (pace := pace_table(training)) is not None:
        items.append(pace)
    return Section("effort", "What it took", "", tuple(items)) if items else None


def token_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Tokens the model was run on, against those of a padded batch and of every sequence on its own."""
    panels = []
    for run in runs:
        totals = _totals(run)
        if "num_computed_tokens" not in totals or len(totals) < 2:
            continue
        most = max(totals.values())
        rows = [
            Bar(*WAYS_TO_BATCH[key], total, f"{quantity(total)} ({percent(total / (most or 1))})")
            for key, total in totals.items()
        ]
        spoken = ", ".join(f"{row.label} {row.shown}" for row in rows)
        chart = charts.bars(rows, highest=most, label=f"Tokens over all steps: {spoken}")
        panels.append(Panel(chart, run.name if len(runs) > 1 else ""))
    if not panels:
        return None
    caption = (
        "Tokens over all steps: beginnings that sequences share are computed once and nothing is padded, so the "
        "last bar is the work that was done."
    )
    return Figure("Tokens computed", tuple(panels), caption)


def _totals(run: RunRecords) -> dict[str, float]:
    """Tokens of each way to batch over the steps that counted all of them, so that the same work is compared."""
    counted = {
        key: curve.finite() for key in WAYS_TO_BATCH if (curve := run.curves.get("train", {}).get(key)) is not None
    }
    steps = {step for curve in counted.values() for step in curve.steps.tolist()}
    for curve in counted.values():
        steps &= set(curve.steps.tolist())
    common = sorted(steps)
    return {key: float(curve.values[np.isin(curve.steps, common)].sum()) for key, curve in counted.items()}


def pace_table(runs: Sequence[RunRecords]) -> Table | None:
    """Steps, tokens and wall time of each run, from its own metrics."""
    rows = []
    for run in runs:
        train = run.curves.get("train", {})
        if not {"num_tokens", "tokens_per_second"} <= train.keys():
            continue
        tokens, pace = train["num_tokens"], train["tokens_per_second"]
        _, ours, theirs = np.intersect1d(tokens.steps, pace.steps, return_indices=True)
        counts, rates = tokens.values[ours], pace.values[theirs]
        known = np.isfinite(counts) & np.isfinite(rates) & (rates > 0)
        seconds = float((counts[known] / rates[known]).sum())
        if seconds:
            total = counts[known].sum()
            steps = f"{run.last_step:,}"
            rows.append((run.name, steps, f"{total:,.0f}", duration(seconds), f"{total / seconds:,.0f}"))
    head = ("run", "steps", "tokens", "wall time of the steps", "tokens per second")
    return Table("Optimiser steps", head, tuple(rows), is_beside=len(rows) == 1) if rows else None

"""Policies that learn from a reward on their own samples (PPO, GRPO): what was gained, and how far away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from heed.report import charts
from heed.report.charts import Axis, Guide, Part
from heed.report.curves import both_phases, optimiser_figures
from heed.report.measurements import PolicyPoint
from heed.report.overoptimisation import Way, has_turned, over_optimisation_figure
from heed.report.parts import Details, Figure, Item, Panel, Section, duration, run_class
from heed.report.read import Curve, RunRecords
from heed.report.settings import flattened
from heed.report.svg import percent, quantity

PHASE = "phase (one batch of answers)"


class Number(NamedTuple):
    """A number over phases: where it is kept, what it is called, and what to see in it."""

    key: str
    title: str
    y: Axis
    caption: str


MAIN = (
    Number("score", "Score", Axis("score per answer"), "What the reward says of the answers; this is what is learned."),
    Number(
        "gold", "True reward", Axis("true reward"), "What is wanted. Only the lab knows it; nothing learns from it."
    ),
    Number(
        "kl_per_sequence",
        "KL to the reference",
        Axis("nats per sequence"),
        "How far the policy has moved, summed over an answer's tokens. A mean that stays below zero is a fault: "
        "answers are not sampled from the distribution they are scored by.",
    ),
    Number("reward", "Score minus β × KL", Axis("reward per answer"), "The objective as a whole; it should rise."),
    Number("beta", "Weight of the KL, β", Axis("β", 0), "Adaptive: it rises while the KL is above its target."),
    Number(
        "entropy_per_token",
        "Entropy",
        Axis("nats per token", 0),
        "How undecided the policy is at each token; near zero it says the same thing always and explores no more.",
    ),
    Number(
        "stop_rate",
        "Answers that stop by themselves",
        Axis("share of answers", 0, 1, is_share=True),
        "A fall is an answer that runs on into the length limit.",
    ),
    Number(
        "response_length",
        "Length of the answers",
        Axis("tokens", 0),
        "A steady rise without a gain in quality is the reward's liking of length, found and used.",
    ),
    Number(
        "explained_variance",
        "Explained variance of the values",
        Axis("share explained"),
        "1 is a value model that foresees every return; at 0 or below it is worth no more than a constant.",
    ),
    Number(
        "clip_fraction",
        "Tokens clipped",
        Axis("share of tokens", 0, is_share=True),
        "Tokens that the clip holds back, since their ratio has moved far enough. Many: steps are too large.",
    ),
    Number(
        "share_of_groups_without_signal",
        "Groups without a signal",
        Axis("share of groups", 0, 1, is_share=True),
        "Prompts whose answers all scored the same, so that nothing was learned from them.",
    ),
)
MORE = (
    Number("ratio_mean", "Ratio of new to old policy", Axis("mean over tokens"), "It should stay near 1."),
    Number("ratio_variance", "Variance of the ratio", Axis("over tokens", 0), "Growing: old answers serve too long."),
    Number("approximate_kl", "KL to the sampling policy", Axis("nats per token"), "Moved in a phase; small is safe."),
    Number("score_std", "Spread of the scores", Axis("standard deviation", 0), "At zero nothing tells answers apart."),
    Number("group_std", "Spread within groups", Axis("standard deviation", 0), "What GRPO learns from."),
    Number("policy_loss", "Policy loss", Axis("per token"), "Its size says little; it is about zero by construction."),
    Number("value_loss", "Value loss", Axis("per token", 0), "Falls as the value model learns to foresee the return."),
    Number(
        "value_clip_fraction",
        "Values clipped",
        Axis("share of tokens", 0, is_share=True),
        "Value predictions that moved farther in a phase than they may.",
    ),
    Number("ptx_nll", "Loss on supervised text", Axis("nats per token"), "Rising: what was taught is being forgotten."),
    Number("value_learning_rate", "Learning rate of the values", Axis("per step", 0), ""),
)


def policy_section(runs: Sequence[RunRecords]) -> Section | None:
    """What these runs gained, at what distance, and how training went."""
    items: list[Item | None] = [over_optimisation_figure([way_of(run) for run in runs], common_budget(runs))]
    items += number_figures(runs, MAIN)
    items.append(time_figure(runs))
    more = [*number_figures(runs, MORE), *optimiser_figures(runs, PHASE)]
    items.append(Details("Ratios, losses, gradient norm and learning rates", tuple(more)) if more else None)
    kept = tuple(item for item in items if item is not None)
    return Section("policy", title_of(runs), "", kept) if kept else None


def title_of(runs: Sequence[RunRecords]) -> str:
    """The methods among these runs."""
    methods = [name for name in ("PPO", "GRPO") if any(method_of(run) == name for run in runs)]
    return f"Learning from a reward: {' and '.join(methods)}"


def method_of(run: RunRecords) -> str:
    """GRPO compares answers in groups; PPO asks a value model."""
    train = run.curves.get("train", {})
    return "GRPO" if {"group_std", "share_of_groups_without_signal"} & train.keys() else "PPO"


def number_figures(runs: Sequence[RunRecords], among: Sequence[Number]) -> list[Figure]:
    """A figure of each number that a run has; the KL with its budget."""
    figures = []
    for each in among:
        budget = common_budget(runs) if each.key == "kl_per_sequence" else math.nan
        guide = Guide(budget, f"KL budget {quantity(budget)}") if math.isfinite(budget) else None
        figures += both_phases(runs, each.key, each.title, each.y, each.caption, x=PHASE, up_at=guide)
    return figures


def budget_of(run: RunRecords) -> float:
    """The setting `kl.budget`; NaN where there is none."""
    for name, value in flattened(run.settings or {}):
        if name == "kl.budget" and isinstance(value, int | float):
            return float(value)
    return math.nan


def common_budget(runs: Sequence[RunRecords]) -> float:
    """The budget that all these runs have; NaN where they differ."""
    budgets = {budget_of(run) for run in runs}
    return next(iter(budgets)) if len(budgets) == 1 else math.nan


FEWEST_POINTS = 4
"""measurements on held-out prompts that make a curve of their own"""


def way_of(run: RunRecords) -> Way:
    """The run's way as measured on held-out prompts; from its training batches where that was done too rarely."""
    for phase in ("held_out", "train"):
        curves = run.curves.get(phase, {})
        if "kl_per_sequence" in curves and len(curves["kl_per_sequence"].steps) >= (
            FEWEST_POINTS if phase == "held_out" else 1
        ):
            return Way(run.name, run_class(run.place), _points(curves))
    return Way(run.name, run_class(run.place), ())


def _points(curves: Mapping[str, Curve]) -> tuple[PolicyPoint, ...]:
    at = {
        key: dict(zip(curves[key].steps.tolist(), curves[key].values.tolist(), strict=True))
        for key in ("kl_per_sequence", "score", "gold")
        if key in curves
    }
    return tuple(
        PolicyPoint(step, kl, at.get("score", {}).get(step, math.nan), at.get("gold", {}).get(step, math.nan))
        for step, kl in at["kl_per_sequence"].items()
    )


def time_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Where the wall time of all phases went."""
    rows, told = [], []
    for run in runs:
        train = run.curves.get("train", {})
        if not {"seconds_sampling", "seconds_learning"} <= train.keys():
            continue
        sampling, learning = (
            float(train[key].finite().values.sum()) for key in ("seconds_sampling", "seconds_learning")
        )
        total = sampling + learning
        if total <= 0:
            continue
        name = run.name if len(runs) > 1 else "all phases"
        rows.append(
            (name, (Part("sampling", "context", sampling / total), Part("learning", "computed", learning / total)))
        )
        told.append(f"{name} {duration(sampling)} sampling and {duration(learning)} learning")
    if not rows:
        return None
    spoken = "; ".join(f"{name} " + ", ".join(f"{p.name} {percent(p.share)}" for p in parts) for name, parts in rows)
    chart = charts.stacked_bars(rows, label=f"Share of the time: {spoken}")
    legend = (("context", "sampling and scoring"), ("computed", "learning"))
    return Figure("Where the time went", (Panel(chart),), f"Wall time: {'; '.join(told)}.", legend)


def policy_verdict(runs: Sequence[RunRecords]) -> str:
    """`The score rose from 0.10 to 1.42, at a KL of 6.31 nats per sequence, within the budget of 10.`"""
    said = []
    for run in runs:
        points = [p for p in way_of(run).points if math.isfinite(p.kl) and math.isfinite(p.score)]
        if len(points) < 2:
            continue
        first, last = points[0], points[-1]
        of = f"{run.name}: the" if len(runs) > 1 else "The"
        true = truth_in_short(points)
        budget = budget_of(run)
        kept = "within" if last.kl <= budget else "over"
        where = f", {kept} the budget of {quantity(budget)}" if math.isfinite(budget) else ""
        said.append(
            f"{of} score {_moved(first.score, last.score)} from {quantity(first.score)} to {quantity(last.score)}"
            f" at a KL of {quantity(last.kl)} nats per sequence{where}{true}."
        )
    return " ".join(said)


def truth_in_short(points: Sequence[PolicyPoint]) -> str:
    """`; the true reward rose from 0.40 to 1.25`, or where it turned; empty where it is not known."""
    known = [point for point in points if math.isfinite(point.gold)]
    if len(known) < 2:
        return ""
    first, last, best = known[0].gold, known[-1].gold, max(known, key=lambda point: point.gold)
    if has_turned(known):
        at = f"{quantity(best.gold)} at {quantity(best.kl)} nats"
        return f"; the true reward was highest, {at}, and is {quantity(last)}"
    return f"; the true reward {_moved(first, last)} from {quantity(first)} to {quantity(last)}"


def _moved(first: float, last: float) -> str:
    return "stayed" if quantity(first) == quantity(last) else "rose" if last > first else "fell"

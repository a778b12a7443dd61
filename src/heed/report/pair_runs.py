"""Policies learned from pairs without a reward model (DPO and its family): what happened to chosen and rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from heed.report.charts import Axis
from heed.report.curves import both_phases, curve_figure, optimiser_figures, over_steps, series_of
from heed.report.parts import Figure, Item, Panel, Section, capital, interval
from heed.report.read import Curve, RunRecords
from heed.report.reward_runs import accuracy_over_steps, final_accuracy
from heed.report.svg import percent, quantity

SIDES = ("chosen", "rejected")


def pair_section(runs: Sequence[RunRecords]) -> Section | None:
    """Everything that these runs measured."""
    margin = (
        "How much more reward the policy implies for the chosen answer than for the rejected one; while it grows on "
        "held-out pairs, what is learned carries over."
    )
    accuracy = "Share of pairs with a margin above 0; a margin of exactly 0, as before the first step, counts half."
    loss = "The objective itself; DPO begins at log 2 = 0.69, other objectives elsewhere."
    found: list[Item | None] = [
        *both_phases(runs, "margin", "Implicit reward margin", Axis("chosen minus rejected"), margin),
        *accuracy_figures(runs, accuracy),
        side_figure(runs, "logp", "Log-probability of the answers", "nats per answer", describe_logp),
        side_figure(runs, "reward", "Implicit rewards", "reward per answer", describe_rewards),
        *both_phases(runs, "loss", "Loss", Axis("loss per pair"), loss),
        *optimiser_figures(runs),
    ]
    items = tuple(item for item in found if item is not None)
    return Section("pairs", "Learning from pairs", "", items) if items else None


def accuracy_figures(runs: Sequence[RunRecords], caption: str) -> list[Figure]:
    """Accuracy over steps, held out with its interval as a band where that was measured."""
    if any("accuracy_low" in run.curves.get("held_out", {}) for run in runs):
        figure = accuracy_over_steps(runs)
        return [] if figure is None else [replace(figure, caption=f"{caption} {figure.caption}")]
    return both_phases(runs, "accuracy", "Accuracy", Axis("pairs decided right", 0, 1, is_share=True), caption)


def sides_of(run: RunRecords, key: str) -> tuple[str, dict[str, Curve]]:
    """The phase and the curves of both sides: the held-out ones if they are there, else those of training."""
    for phase in ("held_out", "train"):
        curves = run.curves.get(phase, {})
        if known := {side: curves[f"{side}_{key}"] for side in SIDES if f"{side}_{key}" in curves}:
            return phase, known
    return "", {}


def side_figure(
    runs: Sequence[RunRecords], key: str, title: str, unit: str, describe: Callable[[Mapping[str, float]], str]
) -> Figure | None:
    """Chosen and rejected: in one picture for one run, in a panel each for several.

    Args:
        describe: what to say of how far each side moved.
    """
    sides = {run.name: sides_of(run, key) for run in runs}
    sentences = [
        f"{name}: {each[:1].lower()}{each[1:]}" if len(runs) > 1 else each
        for name, (_, curves) in sides.items()
        if (each := describe(moves(curves)))
    ]
    if len(runs) == 1:
        phase, curves = sides[runs[0].name]
        if not curves:
            return None
        found = [(curve, side, f"q-{side}") for side, curve in curves.items()]
        drawn = [series_of(curve, side, class_, is_marked=phase == "held_out") for curve, side, class_ in found]
        on = "On held-out pairs." if phase == "held_out" else "On the pairs of each step."
        return over_steps(title, Axis(unit), drawn, found, " ".join([on, *sentences]))
    phase = "held_out" if any(which == "held_out" for which, _ in sides.values()) else "train"
    panels: list[Panel] = []
    legend: dict[tuple[str, str], None] = {}
    for side in SIDES:
        for figure in curve_figure(runs, phase, f"{side}_{key}", f"{title}, {side}", Axis(unit), ""):
            panels.append(Panel(figure.panels[0].svg, capital(side)))
            legend |= dict.fromkeys(figure.legend)
    return Figure(title, tuple(panels), " ".join(sentences), tuple(legend)) if panels else None


def moves(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Last minus first finite value of each side that has two."""
    kept = {side: curve.finite().values for side, curve in curves.items()}
    return {side: float(values[-1] - values[0]) for side, values in kept.items() if len(values) > 1}


def describe_logp(moved: Mapping[str, float]) -> str:
    """What the two log-probabilities did, and what that is a sign of."""
    if len(moved) < 2:
        return ""
    chosen, rejected = (moved[side] for side in SIDES)
    by = f"chosen by {quantity(abs(chosen))}, rejected by {quantity(abs(rejected))} nats"
    if chosen < 0 and rejected < 0:
        if rejected < chosen:
            return (
                f"Both fell, {by}: a known sign of these objectives, which widen the gap by making both rarer. What "
                "was given up went to answers that nobody ranked, so look at the samples before you trust the margin."
            )
        return f"Both fell, {by}, the chosen answers more than the rejected: the pairs were not learned."
    if chosen >= 0 and rejected < 0:
        return f"Chosen answers became likelier, by {quantity(chosen)} nats, and rejected ones rarer."
    if chosen >= 0 and rejected >= 0:
        return f"Both rose, {by}: the policy imitates the data, good and bad."
    return "Chosen answers became rarer and rejected ones likelier: the pairs were not learned."


def describe_rewards(moved: Mapping[str, float]) -> str:
    """What the two implicit rewards did."""
    if len(moved) < 2:
        return ""
    if all(change < 0 for change in moved.values()):
        return "Both fell, which is the same sign as both log-probabilities falling."
    return "What the objective compares: β times the gain in log-probability over the reference, where it has one."


def pair_verdict(runs: Sequence[RunRecords]) -> str:
    """`The policy prefers the chosen answer in 68% of held-out pairs, by a margin of 0.42 on average.`

    Where the last measurement is no number, the last that is one is told with its step: it is not how the run ended.
    """
    known = []
    for run in runs:
        curves = run.curves.get("held_out", {})
        ends = {key: curves[key].finite() for key in ("accuracy", "margin") if key in curves}
        if "accuracy" in ends and len(ends["accuracy"].steps) and ends["accuracy"].steps[-1] > 0:
            step = int(ends["accuracy"].steps[-1])
            is_end = step == curves["accuracy"].steps[-1]
            known.append((run, float(ends["accuracy"].values[-1]), step, is_end, ends.get("margin")))
    if not known:
        return ""
    if len(known) > 1:
        ranked = sorted(known, key=lambda each: -each[1])
        shares = [
            percent(accuracy) + ("" if is_end else f" at step {step:,}, and no number after it")
            for _, accuracy, step, is_end, _ in ranked
        ]
        return (
            f"{ranked[0][0].name} prefers the chosen answer of held-out pairs most often, in {shares[0]}; "
            + ", ".join(f"{each[0].name} {share}" for each, share in zip(ranked[1:], shares[1:], strict=True))
            + "."
        )
    run, accuracy, step, is_end, margin = known[0]
    measured = final_accuracy(run) if is_end else None
    share = percent(accuracy) if measured is None else interval(measured)
    at_step = [] if margin is None else margin.values[margin.steps == step].tolist()
    wide = f", by a margin of {quantity(at_step[0])} on average" if at_step else ""
    if is_end:
        return f"The policy prefers the chosen answer in {share} of held-out pairs{wide}."
    return (
        f"The policy preferred the chosen answer in {share} of held-out pairs{wide}, at step {step:,}; what was "
        "measured after that is no number."
    )

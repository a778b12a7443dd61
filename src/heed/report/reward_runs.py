"""What a reward model is worth on held-out rankings: is it right, is it sure when it should be, does it like length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from heed.report import charts
from heed.report.charts import Axis, Bar, Guide, Series
from heed.report.curves import MAX_POINTS, STEPS, both_phases, curve_figure, optimiser_figures, over_steps, series_of
from heed.report.measurements import RewardMeasurements, Score
from heed.report.parts import Figure, Item, Panel, Section, Table, interval, run_class, stage_class
from heed.report.read import Curve, RunRecords
from heed.report.svg import percent, quantity

ACCURACY = Axis("comparisons decided right", 0, 1, is_share=True)
COIN = Guide(math.log(2), "a coin toss, log 2 = 0.69")
WEAK, CLEAR, STRONG = 0.1, 0.3, 0.6
"""sizes of a correlation from which it is called weak, clear and strong"""


def reward_section(runs: Sequence[RunRecords]) -> Section | None:
    """Everything that reward-model runs measured."""
    found: list[Item | None] = [accuracy_bars(runs), accuracy_over_steps(runs)]
    loss = "Mean of −log σ(r_better − r_worse) over comparisons; below the coin toss something has been learned."
    found += both_phases(runs, "loss", "Loss", Axis("nats per comparison", 0), loss, up_at=COIN)
    found += [calibration_figure(runs), length_figure(runs)]
    correlation = "Of reward and answer length on held-out answers, from −1 to 1; it often grows with the accuracy."
    found += curve_figure(
        [run for run in runs if _num_points(run, "held_out", "length_correlation") > 1],
        "held_out",
        "length_correlation",
        "Correlation with length",
        Axis("correlation", -1, 1),
        correlation,
    )
    margin = "How much higher the better answer's reward is; growing on training data alone is learning by heart."
    found += both_phases(runs, "margin", "Margin", Axis("difference of rewards"), margin)
    found += optimiser_figures(runs)
    found.append(numbers(runs))
    items = tuple(item for item in found if item is not None)
    return Section("reward-model", "Reward model", "", items) if items else None


def _num_points(run: RunRecords, phase: str, key: str) -> int:
    curve = run.curves.get(phase, {}).get(key)
    return 0 if curve is None else len(curve.steps)


def final_accuracy(run: RunRecords) -> Score | None:
    """As the run measured it at its end; else the last on its way."""
    if run.reward is not None and run.reward.accuracy is not None:
        return run.reward.accuracy
    held_out = run.curves.get("held_out", {})
    if "accuracy" not in held_out:
        return None
    last = {
        key: float(held_out[key].values[-1])
        for key in ("accuracy", "accuracy_low", "accuracy_high", "num_comparisons")
        if key in held_out
    }
    count = last.get("num_comparisons", 0.0)
    return Score(
        last["accuracy"],
        last.get("accuracy_low", math.nan),
        last.get("accuracy_high", math.nan),
        int(count) if math.isfinite(count) else 0,
    )


def accuracy_bars(runs: Sequence[RunRecords]) -> Figure | None:
    """Final accuracy of each run, with its interval, beside what the noise of the labels allows."""
    known = [(run, score) for run in runs if (score := final_accuracy(run)) is not None]
    if not known:
        return None
    scores = [(run.name if len(runs) > 1 else "reward model", run_class(run.place), score) for run, score in known]
    ceilings = [run.reward.noise_ceiling for run, _ in known if run.reward is not None]
    return accuracy_figure(scores, next(filter(math.isfinite, ceilings), math.nan))


def accuracy_figure(scores: Sequence[tuple[str, str, Score]], ceiling: float) -> Figure:
    """Bars of (name, class, accuracy), and the ceiling as one more where it is known."""
    rows = [Bar(name, class_, score.value, interval(score), score.low, score.high) for name, class_, score in scores]
    if math.isfinite(ceiling):
        rows.append(Bar("what the noise in the labels allows", stage_class("base"), ceiling, percent(ceiling)))
    spoken = ", ".join(f"{row.label} {row.shown}" for row in rows)
    chart = charts.bars(rows, highest=1.0, label=f"Held-out comparisons decided right: {spoken}")
    count = max(score.count for _, _, score in scores)
    caption = (
        "Share of held-out comparisons in which the answer that was ranked higher gets the higher reward"
        + (f", {count:,} of them" if count else "")
        + "; the whisker is the 95% interval between prompts, and a coin would be right in 50%."
    )
    if len(scores) == 1 and math.isfinite(ceiling):
        gap = 100 * (ceiling - scores[0][2].value)
        caption += f" The model is {abs(gap):.0f} points {'below' if gap >= 0 else 'above'} what the labels allow."
    return Figure("Does it pick the better answer?", (Panel(chart),), caption)


def accuracy_over_steps(runs: Sequence[RunRecords]) -> Figure | None:
    """Held-out accuracy with its interval as a band; for one run, that of its training steps beside it."""
    found: list[tuple[Curve, str, str]] = []
    drawn: list[Series] = []
    for run in runs:
        if (curve := run.curves.get("held_out", {}).get("accuracy")) is None:
            continue
        name, class_ = (run.name, run_class(run.place)) if len(runs) > 1 else ("held out, with interval", "held-out")
        found.append((curve, name, class_))
        if len(curve.steps) <= MAX_POINTS:
            low, high = (_aligned(run, key, curve) for key in ("accuracy_low", "accuracy_high"))
            drawn.append(Series(name, class_, curve.steps.tolist(), curve.values.tolist(), low, high))
        drawn.append(series_of(curve, name, class_, is_marked=True))
    if not found:
        return None
    if len(runs) == 1 and (train := runs[0].curves.get("train", {}).get("accuracy")) is not None:
        found.insert(0, (train, "training", "train"))
        drawn.insert(0, series_of(train, "training", "train", is_marked=False))
    caption = "The band is the 95% interval; training above it by far is learning by heart."
    return over_steps("Accuracy over steps", ACCURACY, drawn, found, caption, x=STEPS)


def _aligned(run: RunRecords, key: str, to: Curve) -> list[float]:
    """The values of a held-out number at the steps of another; NaN where it is not there."""
    curve = run.curves["held_out"].get(key)
    if curve is None:
        return [math.nan] * len(to.steps)
    known = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
    return [known.get(step, math.nan) for step in to.steps.tolist()]


def _measured(runs: Sequence[RunRecords]) -> list[tuple[RunRecords, RewardMeasurements]]:
    return [(run, run.reward) for run in runs if run.reward is not None]


def calibration_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Reliability of σ(r_w - r_l), a panel for each run."""
    panels = [
        Panel(
            charts.reliability(
                [(each.low, each.high, each.confidence, each.accuracy, each.count) for each in known.bins],
                run_class(run.place),
                label=f"Reliability of {run.name}: ECE {quantity(known.ece)}, Brier score {quantity(known.brier)}",
                confidence_of="the comparison",
                counted="comparisons",
            ),
            run.name if len(runs) > 1 else "",
            f"ECE {known.ece:.3f}, Brier score {known.brier:.3f}",
        )
        for run, measured in _measured(runs)
        if (known := measured.calibration) is not None
    ]
    if not panels:
        return None
    caption = (
        "The confidence of a comparison is σ of the difference of its two rewards. On the diagonal it is deserved; "
        "points below are surer than they should be."
    )
    return Figure("Is its confidence deserved?", tuple(panels), caption)


def length_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Mean reward of answers by their length, with the correlation in a sentence."""
    known = [(run, measured) for run, measured in _measured(runs) if measured.length_bins]
    sentences = [
        describe_length(
            measured.length_correlation, measured.length_correlation_of_gold, run.name if len(runs) > 1 else ""
        )
        for run, measured in _measured(runs)
        if math.isfinite(measured.length_correlation)
    ]
    if not known:
        return None
    drawn = [
        Series(
            run.name,
            run_class(run.place),
            [each.length for each in measured.length_bins],
            [each.reward for each in measured.length_bins],
            is_marked=True,
        )
        for run, measured in known
    ]
    spoken = "; ".join(
        f"{each.name} from {quantity(each.y[0])} at {quantity(each.x[0])} tokens to {quantity(each.y[-1])} at "
        f"{quantity(each.x[-1])}"
        for each in drawn
    )
    chart = charts.line_chart(
        drawn,
        x=Axis("mean tokens of the answers"),
        y=Axis("mean reward"),
        label=f"Reward by length of answer: {spoken}",
    )
    count = sum(each.count for _, measured in known for each in measured.length_bins)
    caption = " ".join(
        [*sentences, f"Each point is the mean of answers of about one length, {count:,} answers in all."]
    )
    legend = tuple((each.class_, each.name) for each in drawn) if len(runs) > 1 else ()
    return Figure("Does it like long answers?", (Panel(chart),), caption, legend)


def describe_length(r: float, r_of_gold: float, name: str = "") -> str:
    """What a correlation of reward and length means, in one or two sentences."""
    subject = f"{name}: reward" if name else "Reward"
    size = abs(r)
    strength = "strongly" if size >= STRONG else "clearly" if size >= CLEAR else "weakly"
    which, way = ("longer", "long") if r > 0 else ("shorter", "short")
    if size < WEAK:
        sentence = f"{subject} hardly depends on length (r = {r:.2f})."
    else:
        sentence = (
            f"{subject} goes {strength} with length (r = {r:.2f}): {which} answers are scored higher, and a policy "
            f"that learns from this reward will be drawn to {way} ones."
        )
    if math.isfinite(r_of_gold):
        sentence += f" Of the true reward and length, r = {r_of_gold:.2f}."
    return sentence


def numbers(runs: Sequence[RunRecords]) -> Table | None:
    """The measurements at the end, one row per run."""
    rows = []
    for run in runs:
        score, measured = final_accuracy(run), run.reward
        if score is None and measured is None:
            continue
        calibration = measured.calibration if measured else None
        cells = (
            interval(score) if score else "not measured",
            _decimals(measured.noise_ceiling if measured else math.nan, is_share=True),
            _decimals(calibration.ece if calibration else math.nan),
            _with_interval(calibration.brier, calibration.brier_low, calibration.brier_high) if calibration else "",
            _with_interval(
                measured.length_correlation, measured.length_correlation_low, measured.length_correlation_high
            )
            if measured
            else "",
            f"{score.count:,}" if score and score.count else "",
        )
        rows.append((run.name, *cells))
    if not rows:
        return None
    head = ("run", "accuracy", "labels allow", "ECE", "Brier score", "r with length", "comparisons")
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return Table(
        "On held-out rankings, with 95% intervals; the comparisons of a prompt go together in them",
        tuple(head[i] for i in used),
        tuple(tuple(row[i] for i in used) for row in rows),
    )


def _decimals(value: float, *, is_share: bool = False) -> str:
    return "" if not math.isfinite(value) else percent(value) if is_share else f"{value:.3f}"


def _with_interval(value: float, low: float, high: float) -> str:
    """`0.183 (0.171 to 0.195)`; without what is not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return _decimals(value)
    return f"{value:.3f} ({low:.3f} to {high:.3f})".replace(" ", "\N{NO-BREAK SPACE}")


def reward_verdict(runs: Sequence[RunRecords]) -> str:
    """`The reward model picks the better answer in 71% (68 to 74) of held-out comparisons; a coin would in 50%.`"""
    known = [(run, score) for run in runs if (score := final_accuracy(run)) is not None and np.isfinite(score.value)]
    if not known:
        return ""
    if len(known) > 1:
        ranked = sorted(known, key=lambda pair: -pair[1].value)
        return (
            f"Of the reward models {ranked[0][0].name} picks the better answer most often, in "
            f"{interval(ranked[0][1])} of held-out comparisons; "
            + ", ".join(f"{run.name} {percent(score.value)}" for run, score in ranked[1:])
            + "."
        )
    run, score = known[0]
    ceiling = run.reward.noise_ceiling if run.reward else math.nan
    allowed = f"; the noise in the labels allows {percent(ceiling)}" if math.isfinite(ceiling) else ""
    return (
        f"The reward model picks the better answer in {interval(score)} of held-out comparisons{allowed}; "
        "a coin would in 50%."
    )

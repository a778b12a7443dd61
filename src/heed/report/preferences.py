"""What the demonstration found of preferences: the reward model, what PPO gained by it, other methods beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from heed.report import charts
from heed.report.charts import Axis, Bar
from heed.report.gains import gain_rows
from heed.report.measurements import Measurements, PolicyPoint, PpoMeasurements
from heed.report.overoptimisation import KL_LABEL, Way, budget_guide, over_optimisation_figure
from heed.report.parts import Figure, Item, Panel, Section, Table, stage_class
from heed.report.reward_runs import accuracy_figure
from heed.report.svg import finite, quantity

METHODS = {
    "ppo": ("PPO", "w-ppo"),
    "ppo beta 0": ("PPO with β = 0", "w-ppo-free"),
    "dpo": ("DPO", "w-dpo"),
    "grpo": ("GRPO", "w-grpo"),
    "best of n": ("best of n", "w-best-of-n"),
}
"""name on the page and class of each method that is compared"""
EDGES = (-math.inf, 1.0, 2.0, 4.0, 8.0, 16.0, math.inf)
"""nats per sequence between which methods are compared as equally far"""


def preference_section(measured: Measurements, of: str) -> Section | None:
    """Reward model, gain, over-optimisation, and the methods at equal distance."""
    items: list[Item | None] = []
    if (reward_model := measured.reward_model) is not None and reward_model.accuracy is not None:
        scores = [("reward model", stage_class("reward"), reward_model.accuracy)]
        items.append(accuracy_figure(scores, reward_model.noise_ceiling))
    if (ppo := measured.ppo) is not None:
        items.append(gain_figure(ppo))
        items.append(over_optimisation_figure([Way("PPO", stage_class("ppo"), ppo.curve)], ppo.kl_budget))
        items += [comparison_figure(ppo), distance_table(ppo), comparison_table(ppo)]
    kept = tuple(item for item in items if item is not None)
    lead = (
        "Simulated annotators ranked answers, a reward model learned from them, and the policy learned from the reward "
        "model. The true reward is known to the report alone."
    )
    return Section("preferences", f"Learning from preferences{of}", lead, kept) if kept else None


def gain_figure(ppo: PpoMeasurements) -> Figure | None:
    """What PPO gained in true reward, beside what sampling four times would have gained."""
    if not math.isfinite(ppo.gold_gain):
        return None
    rows = [
        Bar("PPO", stage_class("ppo"), ppo.gold_gain, _gain(ppo), ppo.gold_gain_low, ppo.gold_gain_high),
    ]
    if math.isfinite(ppo.best_of_4_gain):
        rows.append(Bar("best of 4 answers", "w-best-of-n", ppo.best_of_4_gain, _signed(ppo.best_of_4_gain)))
    spoken = ", ".join(f"{row.label} {row.shown}" for row in rows)
    chart = gain_rows(rows, x=Axis("gain in true reward per answer"), label=f"Gain in true reward: {spoken}")
    ends = (
        f" From {quantity(ppo.gold_before)} before to {quantity(ppo.gold_after)} after"
        if math.isfinite(ppo.gold_before) and math.isfinite(ppo.gold_after)
        else ""
    )
    where = ""
    if math.isfinite(ppo.kl):
        where = f" at a KL of {quantity(ppo.kl)} nats per sequence"
        if math.isfinite(ppo.kl_budget):
            kept = "within" if ppo.kl <= ppo.kl_budget else "over"
            where += f", {kept} the budget of {quantity(ppo.kl_budget)}"
    caption = (
        "On held-out prompts, with the 95% interval paired by prompt. Best of 4 draws four answers before PPO and "
        "takes the one that the reward model likes best, which costs no training."
    ) + (f"{ends}{where}." if ends else f" Measured{where}." if where else "")
    return Figure("What was gained", (Panel(chart),), caption)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{quantity(abs(value))}"


def _gain(ppo: PpoMeasurements) -> str:
    low, high = ppo.gold_gain_low, ppo.gold_gain_high
    if not (math.isfinite(low) and math.isfinite(high)):
        return _signed(ppo.gold_gain)
    return f"{_signed(ppo.gold_gain)} ({_signed(low)} to {_signed(high)})".replace(" ", "\N{NO-BREAK SPACE}")


def ways_of(ppo: PpoMeasurements) -> list[Way]:
    """Each method's way, those that are known by name in their own order first."""
    order = [*(name for name in METHODS if name in ppo.comparison), *(n for n in ppo.comparison if n not in METHODS)]
    return [Way(*METHODS.get(name, (name, "w-other")), ppo.comparison[name]) for name in order]


def comparison_figure(ppo: PpoMeasurements) -> Figure | None:
    """True reward against KL, a line per method."""
    ways = [way for way in ways_of(ppo) if way.has("gold")]
    if not ways:
        return None
    drawn = [way.series("gold") for way in ways]
    guide = budget_guide(ways, ppo.kl_budget)
    lowest = min(finite([x for each in drawn for x in each.x]))
    spoken = "; ".join(
        f"{way.name} at best {quantity(best.gold)} at {quantity(best.kl)} nats" for way in ways for best in [_best(way)]
    )
    chart = charts.line_chart(
        drawn,
        x=Axis(KL_LABEL, 0.0 if lowest >= 0 else math.nan),
        y=Axis("true reward"),
        label=f"True reward against KL by method: {spoken}" + (f"; {guide.label}" if guide else ""),
        across_at=guide,
    )
    caption = (
        "At the same distance from the reference, the higher line is the better method. A line that turns down has "
        "learned the reward model's mistakes. PPO and GRPO: the answers of each phase; DPO and best of n: answers to "
        "held-out prompts."
    )
    return Figure("Methods at equal distance", (Panel(chart),), caption, tuple((way.class_, way.name) for way in ways))


def distance_table(ppo: PpoMeasurements) -> Table | None:
    """What each method has in true reward between two distances: the mean over its points there."""
    ways = [way for way in ways_of(ppo) if way.has("gold")]
    spans = [
        (low, high)
        for low, high in itertools.pairwise(EDGES)
        if any(low <= point.kl < high for way in ways for point in _known(way))
    ]
    if not ways:
        return None
    head = ("method", *(_span(low, high) for low, high in spans))
    rows = tuple((way.name, *(_between(way, low, high) for low, high in spans)) for way in ways)
    return Table("True reward at equal distance: its mean by KL in nats per sequence", head, rows)


def _span(low: float, high: float) -> str:
    if not math.isfinite(low):
        return f"below {high:g}"
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}"


def _between(way: Way, low: float, high: float) -> str:
    gold = [point.gold for point in _known(way) if low <= point.kl < high]
    return quantity(math.fsum(gold) / len(gold)) if gold else "–"


def comparison_table(ppo: PpoMeasurements) -> Table | None:
    """Where each method was best and where it ended."""
    ways = [way for way in ways_of(ppo) if way.has("gold")]
    if not ways:
        return None
    rows = tuple(
        (way.name, quantity(best.gold), quantity(best.kl), quantity(last.gold), quantity(last.kl))
        for way in ways
        for best, last in [(_best(way), _known(way)[-1])]
    )
    head = ("method", "highest", "at KL", "at its end", "at KL")
    return Table("True reward of each method, and the KL in nats per sequence", head, rows)


def _known(way: Way) -> Sequence[PolicyPoint]:
    return [point for point in way.points if math.isfinite(point.gold) and math.isfinite(point.kl)]


def _best(way: Way) -> PolicyPoint:
    return max(_known(way), key=lambda point: point.gold)


def gain_told(ppo: PpoMeasurements) -> str:
    """One more sentence for the verdict: ` PPO raised the true reward by 0.42, at a KL of 6.30 nats ...`"""
    if not math.isfinite(ppo.gold_gain):
        return ""
    did = "raised" if ppo.gold_gain > 0 else "lowered"
    if math.isfinite(ppo.gold_gain_low) and ppo.gold_gain_low <= 0 <= ppo.gold_gain_high:
        return f" PPO did not move the true reward beyond doubt ({_gain(ppo)})."
    at = f" at a KL of {quantity(ppo.kl)} nats per sequence" if math.isfinite(ppo.kl) else ""
    return f" PPO {did} the true reward by {quantity(abs(ppo.gold_gain))}{at}."

"""Score and true reward against the distance from the reference: the picture of over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heed.report import charts
from heed.report.charts import Axis, Guide, Series
from heed.report.measurements import PolicyPoint
from heed.report.parts import Figure, Panel
from heed.report.svg import finite, quantity, stretch

KL_LABEL = "KL to the reference, nats per sequence"
MAX_POINTS = 40
"""of a policy's way on a picture; the KL of a step goes back and forth, so more are drawn as means of neighbours"""
MAX_EMPTY = 3.0
"""how much farther than the data, in their range, the budget may lie and still be on the picture"""
MAX_RATIO = 4.0
"""how much wider than the narrower quantity's range a common axis may be"""
SHARE_LOST = 0.25
"""of the true reward's gain that must be lost again before the page calls it a fall; less may be noise"""


@dataclass(frozen=True, slots=True)
class Way:
    """A policy's way, in the order it went."""

    name: str
    class_: str
    points: tuple[PolicyPoint, ...]

    def series(self, quantity_: str, name: str = "", class_: str = "") -> Series:
        """`score` or `gold` against KL; points without a KL are left out."""
        kept = thinned([point for point in self.points if math.isfinite(point.kl)])
        values = [getattr(point, quantity_) for point in kept]
        return Series(name or self.name, class_ or self.class_, [p.kl for p in kept], values, is_marked=True)

    def has(self, quantity_: str) -> bool:
        """Whether anything of it was measured at a known KL."""
        return any(math.isfinite(getattr(p, quantity_)) and math.isfinite(p.kl) for p in self.points)


def thinned(points: Sequence[PolicyPoint]) -> list[PolicyPoint]:
    """At most `MAX_POINTS` points: all of them, or means over neighbours in time."""
    if len(points) <= MAX_POINTS:
        return list(points)
    columns = np.array([(p.step, p.kl, p.score, p.gold) for p in points], dtype=np.float64)
    means = [part.mean(axis=0) for part in np.array_split(columns, MAX_POINTS)]
    return [PolicyPoint(int(step), float(kl), float(score), float(gold)) for step, kl, score, gold in means]


def over_optimisation_figure(ways: Sequence[Way], budget: float) -> Figure | None:
    """Score and, where it is known, true reward against KL, with the budget marked.

    One way is drawn on one pair of axes if score and true reward are of like size; else each quantity has a panel, with
    a line per way.
    """
    quantities = [
        (key, name)
        for key, name in (("score", "score of the reward"), ("gold", "true reward"))
        if any(way.has(key) for way in ways)
    ]
    if not quantities:
        return None
    guide = budget_guide(ways, budget)
    legend: tuple[tuple[str, str], ...] = ()
    if len(ways) == 1 and len(quantities) == 2 and are_alike(ways[0]):
        drawn = [ways[0].series(key, name, f"q-{key}") for key, name in quantities]
        panels = [Panel(_chart(drawn, "reward", guide))]
        legend = tuple((f"q-{key}", name) for key, name in quantities)
    else:
        panels = [
            Panel(
                _chart([_of(way, key, len(ways)) for way in ways if way.has(key)], name, guide),
                name[:1].upper() + name[1:],
            )
            for key, name in quantities
        ]
        legend = tuple((way.class_, way.name) for way in ways) if len(ways) > 1 else ()
    caption = " ".join(filter(None, [_lead(quantities), *(told(way, budget, is_alone=len(ways) == 1) for way in ways)]))
    if any(len(way.points) > MAX_POINTS for way in ways):
        caption += " Each point is a mean over neighbouring steps."
    title = "Reward against distance from the reference" if len(quantities) > 1 else "Score against distance"
    return Figure(title, tuple(panels), caption, legend)


def _of(way: Way, key: str, num_ways: int) -> Series:
    return way.series(key) if num_ways > 1 else way.series(key, class_=f"q-{key}")


def _chart(drawn: Sequence[Series], name: str, guide: Guide | None) -> str:
    spoken = "; ".join(f"{each.name} {_ends(each)}" for each in drawn)
    budget = f"; {guide.label}" if guide else ""
    lowest = min((x for each in drawn for x in each.x), default=0.0)
    x = Axis(KL_LABEL, 0.0 if lowest >= 0 else math.nan)
    return charts.line_chart(drawn, x=x, y=Axis(name), label=f"{name} against KL: {spoken}{budget}", across_at=guide)


def _ends(series: Series) -> str:
    pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    if not pairs:
        return "has no finite value"
    (first_x, first), (last_x, last) = pairs[0], pairs[-1]
    return f"from {quantity(first)} at {quantity(first_x)} to {quantity(last)} at {quantity(last_x)} nats"


def _lead(quantities: Sequence[tuple[str, str]]) -> str:
    if len(quantities) == 2:
        return "What is learned is the score; what is wanted is the true reward."
    if quantities[0][0] == "score":
        return "The score is what the reward says, and no more than that: far from the reference it can be fooled."
    return ""


def budget_guide(ways: Sequence[Way], budget: float) -> Guide | None:
    """The budget, unless there is none or it lies so far off that the picture would be empty."""
    farthest = max(finite([p.kl for way in ways for p in way.points]), default=0.0)
    if not math.isfinite(budget) or budget > (1 + MAX_EMPTY) * farthest:
        return None
    return Guide(budget, f"KL budget {quantity(budget)}")


def are_alike(way: Way) -> bool:
    """Whether score and true reward can be read on one axis."""
    spans = [stretch([getattr(point, key) for point in way.points]) for key in ("score", "gold")]
    together = max(high for _, high in spans) - min(low for low, _ in spans)
    return together <= MAX_RATIO * min(high - low for low, high in spans)


def told(way: Way, budget: float, *, is_alone: bool) -> str:
    """What became of the true reward, and whether the budget was kept; the smoothed way is judged, as it is drawn."""
    points = [point for point in thinned(way.points) if math.isfinite(point.kl)]
    if not points:
        return ""
    who = "It" if is_alone else way.name
    said = [truth_told(points, "The true reward" if is_alone else f"{way.name}: the true reward")]
    if math.isfinite(budget):
        last = points[-1].kl
        kept = "within" if last <= budget else "over"
        said.append(f"{who} ended at a KL of {quantity(last)}, {kept} the budget of {quantity(budget)} nats.")
    return " ".join(filter(None, said))


def has_turned(known: Sequence[PolicyPoint]) -> bool:
    """Whether the true reward rose and then lost more of its gain than may be noise."""
    best = max(point.gold for point in known)
    return best > known[0].gold and best - known[-1].gold > SHARE_LOST * (best - known[0].gold)


def truth_told(points: Sequence[PolicyPoint], subject: str) -> str:
    """Whether the true reward rose with the score, or turned; empty where it is not known."""
    known = [point for point in points if math.isfinite(point.gold)]
    if len(known) < 2:
        return ""
    first, last = known[0], known[-1]
    best = max(known, key=lambda point: point.gold)
    if best is first:
        return f"{subject} was never above where it began, {quantity(first.gold)}."
    if not has_turned(known):
        return f"{subject} rose from {quantity(first.gold)} to {quantity(last.gold)} and kept its gain."
    on = f" while the score rose on to {quantity(last.score)}" if last.score > best.score else ""
    why = ": from there on the mistakes of the reward were learned (over-optimisation)" if on else ""
    return (
        f"{subject} was highest, {quantity(best.gold)}, at a KL of {quantity(best.kl)}, "
        f"and then fell to {quantity(last.gold)}{on}{why}."
    )

"""The measure `calibration`: whether a model's confidence in its answers is the share of them that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from heed.evaluate import reliability
from heed.evaluate.intervals import Mean
from heed.evaluate.items import Figure, Scored, undefined
from heed.evaluate.reliability import Clusters, Estimate

TRUTH = "is_right"
"""in a verdict: whether the answer is right whose confidence is told"""

Of = Callable[[Sequence[float], Sequence[bool], Clusters], Estimate | Mean]

FIGURES: dict[str, tuple[Of, str]] = {
    "ece_debiased": (reliability.debiased_ece, "share"),
    "ece_smooth": (reliability.smooth_ece, "share"),
    "brier": (reliability.brier_score, "score"),
    "log_score": (reliability.log_score, "nats"),
    "auroc": (reliability.auroc, "share"),
}
"""name of a figure -> what makes it, and its unit"""


def calibration(items: Sequence[Scored], names: Sequence[str] = tuple(FIGURES)) -> list[Figure]:
    """Calibration errors, proper scores and AUROC of the items that have a confidence and a truth (`is_right`)."""
    told = [each for each in items if each.confidence is not None and each.verdict.get(TRUTH) is not None]
    if not told:
        return [undefined(name, "no answer has both a confidence and a truth") for name in names]
    confidences = [each.confidence for each in told if each.confidence is not None]
    correct = [bool(each.verdict[TRUTH]) for each in told]
    clusters = [f"in {each.cluster}" if each.cluster is not None else f"is {each.id}" for each in told]
    figures = []
    for name in names:
        of, unit = FIGURES[name]
        try:
            found = of(confidences, correct, clusters)
        except ValueError as error:
            figures.append(undefined(name, str(error), count=len(told), unit=unit))
            continue
        value = found.mean if isinstance(found, Mean) else found.value
        figures.append(Figure(name, value, found.low, found.high, len(told), unit))
    return figures


CALIBRATION: dict[str, Callable[[Sequence[Scored]], list[Figure]]] = {
    "calibration": calibration,
    **{name: partial(calibration, names=(name,)) for name in FIGURES},
}
"""all figures together, and each by its own name"""

"""Whether a model knows when it is right: its confidence in each answer against whether the answer was right.

The confidence is the probability the model gave its whole answer, between 0 and 1.
Every number here is the same in whatever order the answers come, to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose confidence lies in (low, high]; the first bin holds 0 too."""

    low: float
    high: float
    confidence: float
    """mean confidence of the bin's answers"""
    accuracy: float
    """share of them that is right"""
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A reliability diagram and its two summaries; of both, 0 is best and 1 is worst."""

    ece: float
    brier: float
    count: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The accuracy of the most confident share of the answers."""

    coverage: float
    """share of the answers that is given; the least confident rest is withheld"""
    accuracy: float


def calibration(confidences: Sequence[float], correct: Sequence[bool]) -> Calibration:
    """Reliability diagram, expected calibration error and Brier score.

    The answers are sorted by confidence into 10 bins of equal width, (0, 0.1], (0.1, 0.2] ... (0.9, 1], with 0 in the
    first; bins without answers are left out. With c_i the confidence and y_i = 1 for a right answer, else 0,

        ECE   = sum over bins of  count / n * |accuracy - confidence|
        Brier = 1/n * sum over i of  (c_i - y_i)²

    Args:
        confidences: the probability the model gave each answer, from 0 to 1.
        correct: whether each answer is right, in the same order.

    Facts the tests hold it to:
        the ECE is 0 if in each bin the share of right answers is the mean confidence, even if it is so by chance;
        never sure of anything (0.5 throughout) has Brier 0.25; always sure and always wrong has ECE 1 and Brier 1;
        if all confidences of a bin are equal, Brier = reliability - resolution + uncertainty (Murphy 1973).

    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, eq. 3 (bins as there);
        Brier 1950, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.
    Differs from the source: Brier adds up over both outcomes, right and wrong, which is twice as much. Here the event
        is "this answer is right", so the confidence is not the largest of a fixed set of classes as in Guo.
    """
    confidence, right = checked(confidences, correct)
    count = len(confidence)
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    bin_of = np.searchsorted(edges[1:], confidence, side="left")
    bins = tuple(
        Bin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            confidence=math.fsum(confidence[bin_of == index]) / int((bin_of == index).sum()),
            accuracy=float(right[bin_of == index].mean()),
            count=int((bin_of == index).sum()),
        )
        for index in sorted(set(bin_of.tolist()))
    )
    return Calibration(
        ece=math.fsum(one.count * abs(one.accuracy - one.confidence) for one in bins) / count,
        brier=math.fsum((confidence - right) ** 2) / count,
        count=count,
        bins=bins,
    )


def coverage_curve(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[Coverage, ...]:
    """The accuracy of the most confident answers, at coverages 0.1, 0.2 ... 1.

    Coverage c of n answers gives the ceil(c n) most confident. Where answers of equal confidence are only partly
    given, the accuracy is its mean over all ways to choose among them, so no order of theirs matters.

    Source: El-Yaniv and Wiener 2010, "On the foundations of noise-free selective classification", JMLR 11.
    """
    expected_right = _expected_right(*checked(confidences, correct))
    count = len(expected_right)
    given = [-(-tenths * count // 10) for tenths in range(1, 11)]  # in whole numbers, so no rounding adds one
    return tuple(
        Coverage(tenths / 10, float(expected_right[size - 1]) / size) for tenths, size in enumerate(given, start=1)
    )


def area_under_risk_coverage(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """The mean share of wrong answers over all coverages 1/n, 2/n ... 1; from 0 (best) to 1.

        AURC = 1/n * sum over m = 1..n of  (wrong answers among the m most confident) / m

    Answers of equal confidence count with their mean, as in the coverage curve. It is low if the model is often
    right or if its right answers are its confident ones, so compare it between models of like accuracy.

    Facts the tests hold it to:
        confidences all equal give the share of wrong answers; only their order matters, not their size.

    Source: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks", arXiv:1705.08500, for risk
        against coverage; the area as in Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206.
    Differs from the source: nothing but the ties.
    """
    expected_right = _expected_right(*checked(confidences, correct))
    return 1 - math.fsum(expected_right / np.arange(1, len(expected_right) + 1)) / len(expected_right)


def _expected_right(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n,) how many of the 1, 2 ... n most confident answers are right, averaged over the orders of ties."""
    _, tie_of, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(tie_of, weights=right) / size
    result: np.ndarray = np.cumsum(np.repeat(share, size))
    return result


def checked(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Both as (n,) float64."""
    confidence, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != right.shape:
        raise ValueError(f"{len(confidences)} confidences do not go with {len(correct)} answers")
    if len(confidence) == 0:
        raise ValueError("no answers have no calibration")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is a probability from 0 to 1 (not its logarithm)")
    if not np.isin(right, (0, 1)).all():
        raise ValueError("each answer must be right or wrong: true or false")
    return confidence, right

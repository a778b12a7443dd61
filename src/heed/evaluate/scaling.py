"""Confidences made honest: one temperature for the options of a choice, two numbers for the answers of a model.

They are fitted on answers that no reported figure is made from. Numbers in, numbers out; no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLDEST, HOTTEST = 0.01, 100.0
"""temperatures between which one is looked for"""
NEAREST_TO_CERTAIN = 1e-12
"""a confidence nearer to 0 or 1 is taken as this near, since the log-odds of certainty are infinite"""


@dataclass(frozen=True, slots=True)
class Temperature:
    """softmax(log p / T) over the options of a question."""

    temperature: float

    def confidence(self, logp: Sequence[float] | np.ndarray, chosen: int) -> float:
        """The probability of the chosen option among all, given the log-probability of each in nats."""
        return float(np.exp(_log_softmax(np.asarray(logp, dtype=np.float64) / self.temperature)[chosen]))


@dataclass(frozen=True, slots=True)
class Platt:
    """sigmoid(slope * log(c / (1 - c)) + intercept) of a whole answer's confidence c."""

    slope: float
    intercept: float

    def confidence(self, raw: float) -> float:
        """The probability that the answer is right, given the confidence that the model itself has in it."""
        x = self.slope * log_odds(raw) + self.intercept
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def answer_confidence(logp: Sequence[float] | np.ndarray) -> float:
    """What a model thinks of an answer that it wrote: exp of the mean log p of its tokens, from 0 to 1.

        c = exp(1/n sum_i log p(y_i | prompt, y_<i))

    Args:
        logp: (n,) of every token that was drawn, the stop token too, at temperature 1, in nats.
    """
    values = np.asarray(logp, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("an answer's confidence is made from the finite log-probability of each of its tokens")
    return min(1.0, math.exp(math.fsum(values) / len(values)))


def fit_temperature(options: Sequence[Sequence[float]], right: Sequence[Sequence[int]]) -> Temperature | None:
    """The temperature at which right options are likeliest; it moves no option before another.

        minimise over b = 1 / T:   - sum_i log sum over right options r of softmax(b log p_i)_r

    by Newton's iterations, each kept within a range that the sign of the gradient halves.

    Args:
        options: of each question, the log-probability of every option, in nats.
        right: of each question, the indices of the right ones.

    Returns:
        None where the best temperature is 0 or infinite (all of the likeliest options are right, or the likeliest are
        wrong more often than by chance): then nothing can be fitted.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2; there for logits, here for log-probabilities of options.
    """
    if not options or len(options) != len(right) or not all(right):
        raise ValueError("a temperature is fitted on questions with a right option each")
    logs = [np.asarray(each, dtype=np.float64) for each in options]
    chosen = [np.asarray(each, dtype=int) for each in right]

    def slopes(b: float) -> tuple[float, float]:
        gradient = curvature = 0.0
        for logp, among in zip(logs, chosen, strict=True):
            mean, variance = _moments(logp, b)
            mean_of_right, variance_of_right = _moments(logp[among], b)
            gradient += mean - mean_of_right
            curvature += variance - variance_of_right
        return gradient, curvature

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slopes(low)[0] >= 0 or slopes(high)[0] <= 0:
        return None
    b = 1.0
    for _ in range(200):
        gradient, curvature = slopes(b)
        low, high = (b, high) if gradient < 0 else (low, b)
        newton = b - gradient / curvature if curvature > 0 else math.nan
        following = newton if low < newton < high else math.sqrt(low * high)
        if abs(following - b) <= 1e-14 * b:
            break
        b = following
    return Temperature(1 / b)


def fit_platt(confidences: Sequence[float], correct: Sequence[bool]) -> Platt:
    """Slope and intercept of `Platt` at which what happened is likeliest, by Newton's iterations.

    With x_i the log-odds of confidence i and s_i = sigmoid(slope x_i + intercept),

        minimise   - sum_i t_i log s_i + (1 - t_i) log(1 - s_i),
        t = (n_right + 1) / (n_right + 2) of right answers,  1 / (n_wrong + 2) of wrong ones

    so that a perfect separation gives finite numbers. Where all confidences are equal, the slope is 0.

    Facts the tests hold it to:
        equal to scikit-learn's sigmoid calibration.

    Source: Platt 1999, "Probabilistic outputs for support vector machines", with the targets of its section 2.2.
    Differs from the source: the log-odds of a confidence, in place of a margin; Newton's method (Lin, Lin and Weng
        2007, Machine Learning 68).
    """
    x = np.array([log_odds(each) for each in confidences])
    right = np.asarray(correct, dtype=bool)
    if len(x) == 0 or len(x) != len(right):
        raise ValueError(f"{len(x)} confidences do not go with {len(right)} answers")
    num_right = int(right.sum())
    target = np.where(right, (num_right + 1) / (num_right + 2), 1 / (len(right) - num_right + 2))
    centre, scale = float(x.mean()), float(x.std())
    if scale < 1e-9 * max(1.0, abs(centre)):
        mean = float(target.mean())
        return Platt(0.0, math.log(mean / (1 - mean)))
    design = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)

    def loss(at: np.ndarray) -> float:
        z = design @ at
        return float((np.logaddexp(0, z) - target * z).sum())

    weights = np.zeros(2)
    for _ in range(100):
        share = 1 / (1 + np.exp(-(design @ weights)))
        gradient = design.T @ (share - target)
        step = np.linalg.solve(design.T @ (design * (share * (1 - share))[:, None]), gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-10:
            size /= 2
        weights = weights - size * step
        if float(np.abs(step).max()) <= 1e-12 * max(1.0, float(np.abs(weights).max())):
            break
    return Platt(float(weights[0] / scale), float(weights[1] - weights[0] * centre / scale))


def log_odds(confidence: float) -> float:
    """log(c / (1 - c)), in nats."""
    if not 0 <= confidence <= 1:
        raise ValueError("a confidence is a probability from 0 to 1 (not its logarithm)")
    c = min(max(confidence, NEAREST_TO_CERTAIN), 1 - NEAREST_TO_CERTAIN)
    return math.log(c) - math.log1p(-c)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max()
    result: np.ndarray = shifted - math.log(float(np.exp(shifted).sum()))
    return result


def _moments(logp: np.ndarray, b: float) -> tuple[float, float]:
    """Mean and variance of log p under softmax(b log p)."""
    share = np.exp(_log_softmax(b * logp))
    mean = float(share @ logp)
    return mean, float(share @ (logp - mean) ** 2)

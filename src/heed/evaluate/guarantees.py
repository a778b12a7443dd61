"""Answers withheld under a guarantee: three kinds, each with its own sentence, never mixed.

    joint      the share of questions that are answered and wrong is at most alpha on average
    selective  with confidence 1 - delta over the calibration draw, at most alpha of the answers given are wrong
    batch      of the answers selected from a batch, the expected share that is wrong is at most alpha

All of them take the answers that a certificate is made from, and those that it is used on, as drawn alike and
independently (exchangeable). What the proofs need is made sure of by the types: a `Grid` of thresholds is made from a
`Tuning` split alone, and `certify_selective` takes a `Calibration` split that shares no answer with it. A grid, or its
start, chosen by the calibration confidences would break the proof of the selective guarantee.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

Guarantee = Literal["joint", "selective", "batch"]

CAVEATS = (
    "It takes new questions as drawn like the ones it was made from (exchangeability).",
    "It is marginal: it holds over all such questions together, not for each topic or kind of them.",
    "It is void for other weights, another template, another quantisation, or another source of questions.",
)
"""always told with a certificate"""

SCANNED, MOST_ANSWERS = 4096, 2**17
"""numbers of answers up to which every one is tried, and up to which any is"""
NUM_THRESHOLDS = 50
"""of a grid: quantiles of the tuning confidences"""
REPETITION = re.compile(r"-\d+$")
"""at the end of the id of an item whose record was there before"""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Answers whose truth is known, with the confidence in each."""

    ids: tuple[str, ...]
    confidence: np.ndarray
    """(n,) float64 from 0 to 1; larger is surer, and nothing else is assumed of it"""
    is_right: np.ndarray
    """(n,) bool"""

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.confidence) == len(self.is_right):
            raise ValueError("each answer has one id, one confidence and one truth")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("an answer is there twice: the guarantees are of answers drawn independently")
        if not ((self.confidence >= 0) & (self.confidence <= 1)).all():
            raise ValueError("a confidence is a probability from 0 to 1 (not its logarithm)")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """Answers that may be looked at in any way: confidences are scaled on them, thresholds to be tried chosen."""

    answers: Answers


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Answers that are looked at once, to certify a threshold that was fixed before."""

    answers: Answers


def base_id(id: str) -> str:
    """The id of the record that an item is of, without the number that tells repetitions apart."""
    return REPETITION.sub("", id)


def is_tuning(key: str, share: float) -> bool:
    """Whether an answer belongs to the tuning split, by a hash of its id or of what it goes together with.

    So neither order nor subset changes it.
    """
    digest = hashlib.sha256(b"tuning " + key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Grid:
    """Thresholds to be tried, from strict to lax; an answer is given where its confidence is at least the threshold.

    They are quantiles of the tuning confidences. The first is the one that is likeliest to pass, as far as the tuning
    answers tell: stricter ones leave too few answers for any proof. Of the calibration answers only their number is
    known to it.
    """

    __slots__ = ("ids", "thresholds")

    def __init__(self, tuning: Tuning, *, num_calibration: int, max_error: float, confidence: float) -> None:
        if not isinstance(tuning, Tuning):
            raise TypeError("a grid of thresholds is made from a tuning split, and from nothing else")
        _check_levels(max_error, confidence)
        answers = tuning.answers
        if not len(answers):
            raise ValueError("no tuning answers, no thresholds")
        descending = np.sort(answers.confidence)[::-1]
        ranks = np.arange(1, NUM_THRESHOLDS + 1) * len(answers) // NUM_THRESHOLDS
        thresholds = np.unique(descending[np.maximum(ranks, 1) - 1])[::-1].copy()
        given, wrong = _tally(answers, thresholds)
        expected = (given / len(answers) * num_calibration).astype(int)
        rate = (wrong + 1) / (given + 2)
        allowed = np.array([errors_allowed(int(n), max_error, confidence) for n in expected])
        margin = (allowed + 0.5 - rate * expected) / np.sqrt(np.maximum(expected * rate * (1 - rate), 1e-12))
        margin[allowed < 0] = -np.inf
        thresholds = thresholds[int(margin.argmax()) :]
        thresholds.setflags(write=False)
        self.thresholds: np.ndarray = thresholds
        self.ids: frozenset[str] = frozenset(answers.ids)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A threshold, or the answers to compare with, and the sentence that is proved of it."""

    guarantee: Guarantee
    sentence: str
    max_error: float
    """alpha"""
    confidence: float | None
    """1 - delta, over the draw of the calibration answers; None: the guarantee is of an average"""
    threshold: float | None
    """an answer is given where its confidence is at least this; None in a batch, which is selected together"""
    count: int
    """calibration answers"""
    given: int
    """those of them that are given"""
    wrong: int
    """those of the given that are wrong"""
    p: float | None = None
    """of the hypothesis that more than alpha of the answers given are wrong, at this threshold"""
    wrong_confidences: tuple[float, ...] = ()
    """of a batch: of the wrong calibration answers, ascending"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing can be certified, and why; no threshold is given."""

    guarantee: Guarantee
    max_error: float
    confidence: float | None
    count: int
    """calibration answers"""
    why: str
    more: int | None
    """about how many more calibration answers would do if they are like these; None: no number would"""


def certify_selective(
    grid: Grid, calibration: Calibration, *, max_error: float, confidence: float
) -> Certificate | Refusal:
    """The laxest threshold of which it is proved that at most `max_error` of the answers given are wrong.

    Down the grid, with n_l calibration answers of confidence at least l and k_l of them wrong,

        p_l = P(Bin(n_l, alpha) <= k_l),      stop before the first p_l > delta

    As the order was fixed before, the chance that any threshold passes whose error is above alpha is at most delta.

    Facts the tests hold it to:
        over simulated draws the share of certified thresholds whose true error is above alpha is at most delta;
        the same threshold as MAPIE's fixed sequence; 28 answers certify nothing at (0.10, 0.95), 58 at (0.05, 0.95).

    Source: Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then test", arXiv:2110.01052, section 2.3;
        arXiv:2407.18370 for judged answers of language models.

    Raises:
        ValueError: the grid was made from some of these answers.
    """
    _check_levels(max_error, confidence)
    answers = calibration.answers
    if not grid.ids.isdisjoint(answers.ids):
        raise ValueError("the grid was made from some of the calibration answers: the proof would not hold")
    given, wrong = _tally(answers, grid.thresholds)
    passed = [k <= errors_allowed(int(n), max_error, confidence) for n, k in zip(given, wrong, strict=True)]
    last = (passed.index(False) if False in passed else len(passed)) - 1
    if last < 0:
        return _refused_selective(answers, given, wrong, max_error, confidence)
    n, k = int(given[last]), int(wrong[last])
    return Certificate(
        "selective",
        f"With confidence {_percent(confidence)} over the calibration draw, at most {_percent(max_error)} of the "
        "answers given are wrong.",
        max_error,
        confidence,
        float(grid.thresholds[last]),
        len(answers),
        n,
        k,
        p=binomial_cdf(k, n, max_error),
    )


def certify_joint(calibration: Calibration, *, max_error: float) -> Certificate | Refusal:
    """The laxest threshold at which answers that are given and wrong are at most `max_error` of all, on average.

        lambda = inf {l : (n R(l) + 1) / (n + 1) <= alpha},    R(l) = share of answers with confidence > l and wrong

    So at most floor(alpha (n + 1)) - 1 wrong answers stay above it. No grid is needed. The average is over the draws of
    calibration answers and of the new question; the confidence may be useless, but then few answers are given.

    Source: Angelopoulos, Bates, Fisch, Lei and Schuster 2022, "Conformal risk control", arXiv:2208.02814, theorem 1.
    """
    _check_levels(max_error, 0.5)
    answers = calibration.answers
    count, descending = len(answers), np.sort(answers.confidence[~answers.is_right])[::-1]
    allowed = math.floor(max_error * (count + 1) * (1 + 1e-12)) - 1
    if allowed < 0:
        least = _least_for_average(max_error)
        why = f"{count:,} answers are too few for any average of {_percent(max_error)}: it takes {least:,} at least"
        return Refusal("joint", max_error, None, count, why, least - count)
    threshold = math.nextafter(float(descending[allowed]), math.inf) if len(descending) > allowed else 0.0
    given = answers.confidence >= threshold
    if not given.any():
        why = "its surest answers are among the wrong ones, so that no answer would be given"
        return Refusal("joint", max_error, None, count, why, None)
    sentence = f"The share of questions that are answered and wrong is at most {_percent(max_error)} on average."
    num_wrong = int((given & ~answers.is_right).sum())
    return Certificate("joint", sentence, max_error, None, threshold, count, int(given.sum()), num_wrong)


def certify_batch(calibration: Calibration, *, max_error: float, trial: Tuning) -> Certificate | Refusal:
    """What `selected` needs to choose, of a batch of new answers, some of which at most `max_error` are wrong.

    Args:
        trial: a batch to see whether it would select anything at all; what is proved does not depend on it.

    Source: Gui, Jin and Ren 2024, "Conformal alignment", arXiv:2405.10301.
    """
    _check_levels(max_error, 0.5)
    answers = calibration.answers
    least = _least_for_average(max_error)
    if len(answers) < least:
        why = f"{len(answers):,} answers are too few: it takes {least:,} at least to select one"
        return Refusal("batch", max_error, None, len(answers), why, least - len(answers))
    wrong = tuple(np.sort(answers.confidence[~answers.is_right]).tolist())
    sentence = (
        f"Of the answers selected from a batch, the expected share that is wrong is at most {_percent(max_error)}."
    )
    certificate = Certificate(
        "batch", sentence, max_error, None, None, len(answers), 0, len(wrong), wrong_confidences=wrong
    )
    if not selected(certificate, trial.answers.confidence).any():
        why = f"of a batch of {len(trial.answers):,} answers like these it would select none"
        return Refusal("batch", max_error, None, len(answers), why, None)
    return certificate


def selected(certificate: Certificate, confidence: Sequence[float] | np.ndarray) -> np.ndarray:
    """(m,) which answers of a batch are given: the expected share of wrong ones among them is at most alpha.

        p_j = (1 + #{wrong calibration answers i: c_i >= c_j}) / (n + 1),   then Benjamini-Hochberg at alpha:
        the r answers of the smallest p are given, r the largest with p_(r) <= r alpha / m

    Source: arXiv:2405.10301, algorithm 1; Benjamini and Hochberg 1995, JRSS B 57.
    """
    if certificate.guarantee != "batch":
        raise ValueError(f"a {certificate.guarantee} guarantee holds for single questions, not for a batch")
    new, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(certificate.wrong_confidences)
    p = (1 + len(wrong) - np.searchsorted(wrong, new, side="left")) / (certificate.count + 1)
    ascending = np.sort(p)
    enough = ascending <= np.arange(1, len(p) + 1) * certificate.max_error / max(len(p), 1) * (1 + 1e-12)
    return np.asarray(p <= ascending[enough.nonzero()[0][-1]] if enough.any() else np.zeros(len(p), dtype=bool))


@lru_cache(maxsize=2**12)
def answers_needed(max_error: float, confidence: float, error_rate: float = 0.0) -> int | None:
    """The smallest number of given answers that certifies, if `error_rate` of them (rounded up) is wrong.

    29 at (0.10, 0.95) and 59 at (0.05, 0.95) without an error: n >= ln delta / ln(1 - alpha). Past 4,096 it is one that
    does, within the steps that whole errors make. None: no number does, as the rate is not below `max_error`, or is so
    near to it that 100,000 would not.
    """
    _check_levels(max_error, confidence)
    if error_rate >= max_error:
        return None
    least = max(1, math.ceil(math.log(1 - confidence) / math.log(1 - max_error) - 1e-9))
    if error_rate == 0:
        return least

    def does(n: int) -> bool:
        return math.ceil(error_rate * n - 1e-9) <= errors_allowed(n, max_error, confidence)

    high = 1 << least.bit_length()
    while not does(high):
        high *= 2
        if high > MOST_ANSWERS:
            return None
    if high <= SCANNED:  # whole errors come one by one, so that one more answer may undo what fewer did
        return next(n for n in range(least, high + 1) if does(n))
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


@lru_cache(maxsize=2**16)
def errors_allowed(n: int, max_error: float, confidence: float) -> int:
    """The most wrong answers among n given ones with P(Bin(n, alpha) <= k) <= delta; -1 where not even none does."""
    if n == 0:
        return -1
    passing = np.cumsum(_binomial_pmf(n, max_error)) <= (1 - confidence) * (1 + 1e-12)
    return int(passing.sum()) - 1


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k)."""
    return min(1.0, math.fsum(_binomial_pmf(n, p)[: k + 1])) if k >= 0 else 0.0


def least_withheld(error_rate: float, max_error: float) -> float:
    """The share of answers that any method must withhold: (mu - alpha) / (1 - alpha) where mu > alpha are wrong."""
    return max(0.0, (error_rate - max_error) / (1 - max_error))


def _binomial_pmf(n: int, p: float) -> np.ndarray:
    """(n + 1,) P(Bin(n, p) = k), each from the one before it, in logarithms."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + (math.log(p) - math.log1p(-p))
    result: np.ndarray = np.exp(n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)]))
    return result


def _tally(answers: Answers, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each threshold how many answers are given, and how many of these are wrong."""
    everything, mistaken = np.sort(answers.confidence), np.sort(answers.confidence[~answers.is_right])
    given = len(everything) - np.searchsorted(everything, thresholds, side="left")
    return given, len(mistaken) - np.searchsorted(mistaken, thresholds, side="left")


def _refused_selective(
    answers: Answers, given: np.ndarray, wrong: np.ndarray, max_error: float, confidence: float
) -> Refusal:
    """Why no threshold passed, and at which error rate and coverage seen here the fewest further answers would do."""
    least = answers_needed(max_error, confidence)
    needs = [
        math.ceil(n_needed * len(answers) / n)
        for n, k in zip(given, wrong, strict=True)
        if n and (n_needed := answers_needed(max_error, confidence, k / n)) is not None
    ]
    more = max(1, min(needs) - len(answers)) if needs else None
    if not given.any():
        more = max(1, (least or 1) - len(answers))
    if int(given.max()) < (least or 1):
        why = f"{int(given.max()):,} calibration answers are too few: it takes {least:,} at least, none of them wrong"
    else:
        n, k = int(given[0]), int(wrong[0])
        why = f"{k:,} of the {n:,} surest calibration answers are wrong ({_percent(k / max(n, 1))})"
    return Refusal("selective", max_error, confidence, len(answers), why, more)


def _least_for_average(max_error: float) -> int:
    """The fewest calibration answers n with 1 / (n + 1) <= alpha."""
    return math.ceil(1 / max_error - 1 - 1e-9)


def _check_levels(max_error: float, confidence: float) -> None:
    if not 0 < max_error < 1 or not 0 < confidence < 1:
        raise ValueError(f"a largest error of {max_error} and a confidence of {confidence} are not both within 0 and 1")


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"

"""How sure a share, a difference of two shares or a mean is: 95% intervals.

All of them take the items as drawn independently, so repeated questions about one fact make them too narrow: for items
that go together, such as the comparisons among the answers to one prompt, see `clustered.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Z_95 = 1.959963984540054
"""a standard normal value lies between -Z_95 and Z_95 with probability 0.95"""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of items, with its 95% interval. All three are between 0 and 1."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers, with its 95% interval and the number of answers."""

    accuracy: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger one accuracy is than another on the same items, from -1 to 1, with its 95% interval."""

    difference: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of real numbers, in their unit, with its 95% interval and how many there were."""

    mean: float
    low: float
    high: float
    count: int


def accuracy(correct: Sequence[bool]) -> Accuracy:
    """The share of right answers and its Wilson interval; no answers at all is a ValueError."""
    num_right, count = _tally(correct)
    low, high = wilson(num_right, count)
    return Accuracy(num_right / count, low, high, count)


def rate(happened: Sequence[bool]) -> Rate:
    """The share of items with which something happened and its Wilson interval; no items is a ValueError."""
    num_happened, count = _tally(happened)
    low, high = wilson(num_happened, count)
    return Rate(num_happened / count, low, high)


def wilson(num_successes: int, count: int) -> tuple[float, float]:
    """The 95% score interval of a share: every p that the observed share does not refuse.

    The bounds are the two p at which |k/n - p| = z sqrt(p (1 - p) / n), which are

        (k + z²/2  ±  z sqrt(k (n - k) / n + z²/4)) / (n + z²),      z = 1.96

    Args:
        num_successes: k, from 0 to n.
        count: n, at least 1: of nothing there is no share, and that is a ValueError.

    Returns:
        low and high, within [0, 1]; 0 out of n gives low 0 and a high above 0, n out of n a low below 1 and high 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
        Why not k/n ± z·sd: that one has no width at 0 and 1; Brown, Cai and DasGupta 2001, Statistical Science 16.
    Differs from the source: nothing. (No continuity correction.)
    """
    if count < 1:
        raise ValueError("a share of no items has no value and no interval")
    if not 0 <= num_successes <= count:
        raise ValueError(f"{num_successes} of {count} items is no share")
    return wilson_of_share(num_successes / count, count)


def wilson_of_share(share: float, count: float) -> tuple[float, float]:
    """`wilson` of a share that was observed among an effective number of items, which need not be whole.

    Args:
        share: k/n, from 0 to 1.
        count: n, above 0.
    """
    if not count > 0 or not 0 <= share <= 1:
        raise ValueError(f"a share of {share} of {count} items is no share")
    middle = share * count + Z_95**2 / 2
    reach = Z_95 * math.sqrt(share * (1 - share) * count + Z_95**2 / 4)
    # At the ends the formula gives exactly 0 and 1, its rounding may not.
    low = 0.0 if share == 0 else (middle - reach) / (count + Z_95**2)
    high = 1.0 if share == 1 else (middle + reach) / (count + Z_95**2)
    return low, high


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """How much more often `first` is right than `second` on the same items, and its 95% interval.

    With the items counted as

                          second right   second wrong
        first right            a              b             p1 = (a + b) / n
        first wrong            c              d             p2 = (a + c) / n

    the difference is D = p1 - p2 = (b - c) / n, and with the Wilson bounds l1, u1 of p1 and l2, u2 of p2

        low  = D - sqrt((p1 - l1)² - 2 f (p1 - l1) (u2 - p2) + (u2 - p2)²)
        high = D + sqrt((u1 - p1)² - 2 f (u1 - p1) (p2 - l2) + (p2 - l2)²)

    f is how the two go together: the correlation (ad - bc) / sqrt((a+b)(c+d)(a+c)(b+d)), with max(ad - bc - n/2, 0)
    above the line when ad > bc, and 0 when the root is 0.

    Args:
        first, second: whether each item was right, item for item in the same order.

    Facts the tests hold it to:
        exchanging the two mirrors the interval; the interval has a width even if the two never disagree.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
        paired data", Statistics in Medicine 17, method 10. It holds its 95% for the few dozen items of one family,
        where the normal interval on the paired differences is too narrow, and it stays within [-1, 1]: the roots are
        sides of triangles, so low is at least l1 - u2 and high at most u1 - l2.
    Differs from the source: nothing.
    """
    num_first, count = _tally(first)
    num_second, count_of_second = _tally(second)
    if count != count_of_second:
        raise ValueError(f"{count} answers cannot be paired with {count_of_second}")
    both = sum(bool(x) and bool(y) for x, y in zip(first, second, strict=True))
    p1, p2 = num_first / count, num_second / count
    (low_1, high_1), (low_2, high_2) = wilson(num_first, count), wilson(num_second, count)
    f = _correlation(both, num_first - both, num_second - both, count - num_first - num_second + both)
    difference = (num_first - num_second) / count
    below, above = reaches(p1, (low_1, high_1), p2, (low_2, high_2), f)
    return Difference(difference, difference - below, difference + above, count)


def reaches(
    p1: float, bounds_1: tuple[float, float], p2: float, bounds_2: tuple[float, float], correlation: float
) -> tuple[float, float]:
    """How far the interval of p1 - p2 reaches below and above it, from the interval of each and their correlation.

    The formula is that of `paired_difference`, and holds for any two estimates with intervals of their own.

    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach",
        Statistics in Medicine 27.
    """
    (low_1, high_1), (low_2, high_2) = bounds_1, bounds_2
    below = _third_side(p1 - low_1, high_2 - p2, correlation)
    return below, _third_side(high_1 - p1, p2 - low_2, correlation)


def mean(values: Sequence[float]) -> Mean:
    """The mean m of real numbers and its Student interval m ± t s / sqrt(n).

    s² is the variance with n - 1 below the line, and t the number that a Student variable of n - 1 degrees of
    freedom exceeds in size with probability 0.05: 12.7 for two values, 1.96 for thousands.
    One value says nothing about its spread, so fewer than two are a ValueError, and so is one that is not finite.

    Source: Student 1908, "The probable error of a mean", Biometrika 6.
    """
    numbers = [float(value) for value in values]
    count = len(numbers)
    if count < 2:
        raise ValueError(f"the interval of a mean needs at least 2 values, not {count}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a mean of values that are not all finite has no interval")
    middle = math.fsum(numbers) / count
    variance = math.fsum((number - middle) ** 2 for number in numbers) / (count - 1)
    reach = student_95(count - 1) * math.sqrt(variance / count)
    return Mean(middle, middle - reach, middle + reach, count)


@lru_cache
def student_95(degrees: int) -> float:
    """The t that a Student variable exceeds in size with probability 0.05, by halving the range it must be in."""
    low, high = Z_95, 13.0  # its values for infinitely many degrees and, rounded up, for one
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _student_within(t: float, degrees: int) -> float:
    """P(|T| < t) for whole degrees of freedom; Abramowitz and Stegun 1964, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    k = np.arange(1, (degrees - odd) // 2)
    ratios = 2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)
    series = 1 + float(np.cumprod(ratios * cosine**2).sum())
    if not odd:
        return sine * series
    return 2 / math.pi * (angle + (sine * cosine * series if degrees > 1 else 0))


def _tally(flags: Sequence[bool]) -> tuple[int, int]:
    """How many are true, and how many there are."""
    if any(flag not in (0, 1) for flag in flags):
        raise ValueError("each item must be true or false")
    if len(flags) == 0:
        raise ValueError("a share of no items has no value and no interval")
    return sum(bool(flag) for flag in flags), len(flags)


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """Newcombe's correlation of two yes-or-no columns, drawn towards 0 where it is positive."""
    root = math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    if root == 0:
        return 0.0
    product = a * d - b * c
    return (max(product - (a + b + c + d) / 2, 0) if product > 0 else product) / root


def _third_side(x: float, y: float, cosine: float) -> float:
    """The side of a triangle opposite the angle between sides x and y."""
    return math.sqrt(max(x * x - 2 * cosine * x * y + y * y, 0.0))

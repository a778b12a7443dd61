"""Intervals and tests of counts that hold exactly, for few items as for many: no normal approximation.

Below a few hundred items the normal approximation is wrong where it matters, near 0 and 1 and for differences that few
items decide (Bowyer, Aitchison and Ivanova 2025, arXiv:2503.01747). What is here needs none.
The distributions come from one function, the incomplete beta function; the tests hold it to scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CONFIDENCE = 0.95


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the probability that a Beta(a, b) variable is at most x, for real a, b > 0.

        I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * 1 / (1 + d_1 / (1 + d_2 / (1 + ...)))
        d_{2m} = m (b - m) x / ((a + 2m - 1) (a + 2m)),    d_{2m+1} = -(a + m) (a + b + m) x / ((a + 2m) (a + 2m + 1))

    Above its mean I_x(a, b) = 1 - I_{1-x}(b, a), where the fraction converges fast.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22; evaluated by Lentz' method (Thompson and Barnett
        1986, Journal of Computational Physics 64).
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"I_x(a, b) is not defined for x = {x}, a = {a}, b = {b}")
    if x in (0, 1):
        return float(x)
    is_above = x > (a + 1) / (a + b + 2)
    if is_above:
        x, a, b = 1 - x, b, a
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    below = math.exp(log_front) / a * _fraction(x, a, b)
    return 1 - below if is_above else below


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d_1 / (1 + d_2 / ...)) by Lentz: the ratio of successive convergents, until it is 1."""
    tiny = 1e-300
    above, below = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1), tiny)
    value, m = below, 1
    while True:
        ratio = 1.0
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for d in (even, odd):
            below = 1 / _not_zero(1 + d * below, tiny)
            above = _not_zero(1 + d / above, tiny)
            ratio = above * below
            value *= ratio
        if abs(ratio - 1) < 1e-15:
            return value
        m += 1


def _not_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k): that at most k of n independent trials succeed, each with probability p."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else incomplete_beta(1 - p, n - k, k + 1)


def clopper_pearson(num_successes: float, count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share that covers the truth with at least the given probability, whatever the share is.

        low:  the p with P(Bin(n, p) >= k) = (1 - confidence) / 2,     0 where k = 0
        high: the p with P(Bin(n, p) <= k) = (1 - confidence) / 2,     1 where k = n

    Args:
        num_successes: k, from 0 to n. An effective number need not be whole: the bounds are quantiles of Beta(k, n - k
            + 1) and Beta(k + 1, n - k), which are defined for any.
        count: n, above 0.
        confidence: between 0 and 1.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26.
    Differs from the source: nothing, for whole numbers.
    """
    k, n = num_successes, count
    if not n > 0 or not 0 <= k <= n or not 0 < confidence < 1:
        raise ValueError(f"{k} of {n} items, with confidence {confidence}, has no interval")
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else beta_quantile(tail, k, n - k + 1)
    high = 1.0 if k == n else 1 - beta_quantile(tail, n - k, k + 1)
    return low, high


@lru_cache(maxsize=4096)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = probability, by halving the range it must be in until no number lies between."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if incomplete_beta(middle, a, b) < probability else (low, middle)
    return high


def student_beyond(t: float, degrees: float) -> float:
    """P(|T| > t) of Student's distribution: the p-value of a test of two sides."""
    if not math.isfinite(t):
        return 0.0
    if abs(t) < 1:
        return 1 - incomplete_beta(t * t / (degrees + t * t), 0.5, degrees / 2)
    return incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


@lru_cache(maxsize=4096)
def student_reach(probability: float, degrees: float) -> float:
    """The t with P(|T| > t) = probability."""
    x = beta_quantile(probability, degrees / 2, 0.5)
    return math.sqrt(degrees * (1 - x) / x)


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of the exact test that two models are right equally often, judged on the same items.

        p = min(1, 2 P(Bin(b + c, 1/2) <= min(b, c)))

    Items that both get right, or both wrong, say nothing. It is exact in whole numbers, rounded once.

    Args:
        only_first: b, the items that only the first gets right.
        only_second: c, those that only the second gets right.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions", Psychometrika
        12, with the binomial distribution itself in place of its normal approximation.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"{only_first} and {only_second} are no numbers of items")
    n = only_first + only_second
    ways = total = 1
    for i in range(1, min(only_first, only_second) + 1):
        ways = ways * (n - i + 1) // i
        total += ways
    p: float = 2 * total / 2**n
    return min(1.0, p)


def sign_flip(differences: Sequence[int]) -> float:
    """The p-value of the exact test that two models are right equally often, where items come in clusters.

        p = P(|sum of ±d_c| >= |sum of d_c|),    each sign + or - with probability 1/2, independently

    If the two models are alike, each could have been the other in any cluster: d_c, by how many items more the first
    is right in cluster c, is as likely as -d_c. Where no cluster has more than one item, this is `mcnemar`.
    The distribution is summed exactly, cluster by cluster, not drawn.

    Args:
        differences: d_c of every cluster.

    Source: Fisher 1935, "The design of experiments", section 21; for clusters, Miller 2024, arXiv:2411.00640, asks for
        the same unit.
    """
    sizes = [abs(int(each)) for each in differences if each]
    if all(size == 1 for size in sizes):
        return mcnemar(sum(each > 0 for each in differences), sum(each < 0 for each in differences))
    total, observed = sum(sizes), abs(sum(differences))
    chance = np.zeros(total + 1)  # of each sum of the sizes whose sign is +, w; the flipped sum is 2 w - total
    chance[0] = 1
    reached = 0
    for size in sizes:
        chance[size : reached + size + 1] += chance[: reached + 1].copy()
        reached += size
        chance[: reached + 1] /= 2
    return min(1.0, float(chance[np.abs(2 * np.arange(total + 1) - total) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, each raised so that the chance of even one false alarm among them is at most alpha.

        sorted, p_(1) <= ... <= p_(m):      p_(i) becomes max over j <= i of min(1, (m - j + 1) p_(j))

    A difference is called one where the raised p is at most alpha. No assumption on how the tests hang together.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values are from 0 to 1, not {list(p_values)}")
    raised, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        raised[index] = largest
    return raised

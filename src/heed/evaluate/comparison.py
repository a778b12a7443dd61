"""Two models on the same items: by how much they differ, how sure that is, and what could not have been seen.

Items are paired, so that what makes an item hard for both is no noise, and what was drawn independently is clusters of
items (a paragraph with its questions, a template with its words), so that they are what is counted.

    values          interval of the difference                           p-value
    0 or 1          each item alone: Newcombe's for pairs                exact McNemar
                    clusters: the same formula on clustered intervals    exact test of flipped signs of clusters
    real            Student's on the linearised paired difference        Student's
    any statistic   Student's on the jackknife over blocks of clusters   Student's

The first line needs no approximation for large numbers; Student's takes the clusters' means as nearly normal, which
averages of a few dozen clusters are and single ones need not be.

Source: Miller 2024, "Adding error bars to evals", arXiv:2411.00640, for pairs, clusters and the smallest difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heed.evaluate.clustered import clustered_accuracy, clustered_mean
from heed.evaluate.exact import beta_quantile, holm, sign_flip, student_beyond, student_reach
from heed.evaluate.intervals import paired_difference, reaches

LEVEL = 0.05
POWER = 0.8
MAX_BLOCKS = 50
"""of a jackknife; so often a measure is computed anew"""
FEWEST_TO_DIFFER = 6
"""an exact test needs so many items, all in favour of one model: 2 (1/2)^6 <= 0.05 < 2 (1/2)^5"""


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """One measure of two models on the same items: the first's value minus the second's, with its 95% interval."""

    measure: str
    difference: float | None
    """None: undefined, and `why` says why"""
    low: float | None
    high: float | None
    count: int
    """items that both models have a value for"""
    num_clusters: int
    p: float | None
    """of the test that there is no difference, of two sides"""
    smallest_visible: float | None
    """the smallest difference that such a test calls one in 80% of cases; None: there is none, or it is not known"""
    only_first_right: int | None = None
    """items; None where values are not right or wrong"""
    only_second_right: int | None = None
    p_holm: float | None = None
    """p, raised for the number of tests that were made: see `with_holm`"""
    only_in_first: int = 0
    """items that the second model has no line for; they take no part"""
    only_in_second: int = 0
    without_value: int = 0
    """items on which the measure is undefined for one of the two; they take no part"""
    why: str = ""


def undefined_difference(measure: str, why: str, *, count: int = 0, num_clusters: int = 0) -> DifferenceRow:
    """A difference that has no value, and why."""
    return DifferenceRow(measure, None, None, None, count, num_clusters, None, None, why=why)


def compare_shares(measure: str, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> DifferenceRow:
    """Whether two models are right equally often; with b and c the items that only the first, only the second has.

        difference = (b - c) / n

    Args:
        measure: its name.
        first, second: for each cluster, 1 for each item that is right and 0 for one that is wrong, item for item.

    Facts the tests hold it to:
        clusters of one item give Newcombe's interval and McNemar's exact p; exchanging the models turns signs round;
        of 600 comparisons of models that are alike, on items in clusters, 3% to 7% are called different, where the
        tests that take items as independent call more.
    """
    differences = [round(sum(x)) - round(sum(y)) for x, y in zip(first, second, strict=True)]
    sizes = [len(each) for each in first]
    x, y = [value for each in first for value in each], [value for each in second for value in each]
    only_first = sum(1 for u, v in zip(x, y, strict=True) if u > v)
    only_second = sum(1 for u, v in zip(x, y, strict=True) if u < v)
    if max(sizes) == 1:
        found = paired_difference([value == 1 for value in x], [value == 1 for value in y])
        low, high = found.low, found.high
    else:
        one, other = clustered_accuracy(first), clustered_accuracy(second)
        below, above = reaches(
            one.accuracy, (one.low, one.high), other.accuracy, (other.low, other.high), _correlation(first, second)
        )
        low, high = one.accuracy - other.accuracy - below, one.accuracy - other.accuracy + above
    return DifferenceRow(
        measure,
        sum(differences) / len(x),
        low,
        high,
        len(x),
        len(sizes),
        sign_flip(differences),
        _smallest_visible_share(differences, sizes),
        only_first,
        only_second,
    )


def compare_means(measure: str, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> DifferenceRow:
    """Whether two models have equal means of real numbers, by the paired differences d_i of items in clusters.

        difference = mean d,      Var = C / (C - 1) * sum over c of (sum over i in c of (d_i - mean d))² / n²

    Args:
        measure: its name.
        first, second: for each cluster, the value of each item, item for item.
    """
    d = [np.subtract(x, y, dtype=np.float64) for x, y in zip(first, second, strict=True)]
    every = np.concatenate(d)
    middle, count, num_clusters = math.fsum(every) / len(every), len(every), len(d)
    if not every.any():
        why = "the two models have the same value on every item"
        return DifferenceRow(measure, 0.0, 0.0, 0.0, count, num_clusters, 1.0, None, why=why)
    if num_clusters < 2 or np.ptp(every) == 0:
        why = "one cluster has no spread between clusters" if num_clusters < 2 else "all items differ by the same"
        return DifferenceRow(measure, middle, None, None, count, num_clusters, None, None, why=why)
    found = clustered_mean(d)
    error = (found.high - found.mean) / student_reach(LEVEL, num_clusters - 1)
    if error == 0:
        why = "all clusters differ by the same, so that their spread is not known"
        return DifferenceRow(measure, middle, None, None, count, num_clusters, None, None, why=why)
    return _by_student(measure, found.mean, error, count, num_clusters, num_clusters - 1)


def compare_statistic(
    measure: str, difference: Callable[[Sequence[int]], float | None], clusters: Sequence[Sequence[int]]
) -> DifferenceRow:
    """Whether two models have equal values of any measure that is smooth in its items: perplexity, calibration, a bias.

    The measure is computed again without each of at most 50 blocks of whole clusters. With n items, B blocks of m_j
    items, h_j = n / m_j, D the difference on all items and D_j that without block j,

        t_j = h_j D - (h_j - 1) D_j,     Var D = 1/B * sum (t_j - D_J)² / (h_j - 1),    D_J = B D - sum (1 - m_j/n) D_j

    Args:
        measure: its name.
        difference: the first model's value minus the second's on the items with these indices; None where undefined.
        clusters: indices of the items of each cluster.

    Facts the tests hold it to:
        of a mean it gives the variance of `compare_means`, if clusters are no more than blocks and equal in size.

    Source: Busing, Meijer and van der Leeden 1999, "Delete-m jackknife for unequal m", Statistics and Computing 9.
    Differs from the source: D is reported as it is, without the jackknife's correction of its bias.
    """
    everything = [index for each in clusters for index in each]
    middle, count = difference(everything), len(everything)
    if middle is None:
        return undefined_difference(measure, "the measure is undefined on these items", count=count)
    num_blocks = min(len(clusters), MAX_BLOCKS)
    blocks = [[index for each in clusters[start::num_blocks] for index in each] for start in range(num_blocks)]
    without: list[float] = []
    for block in blocks if num_blocks > 1 else ():
        left_out = set(block)
        value = difference([index for index in everything if index not in left_out])
        if value is not None:
            without.append(value)
    if len(without) < max(num_blocks, 2):
        why = "one cluster has no spread between clusters"
        if num_blocks > 1:
            why = "without some of the items the measure is undefined, so that its spread is not known"
        return DifferenceRow(measure, middle, None, None, count, len(clusters), None, None, why=why)
    h = count / np.array([len(block) for block in blocks])
    values = np.array(without)
    centre = num_blocks * middle - float(((1 - 1 / h) * values).sum())
    pseudo = h * middle - (h - 1) * values
    error = math.sqrt(float((np.square(pseudo - centre) / (h - 1)).mean()))
    if error == 0:
        why = "it is the same whatever items are left out, so that its spread is not known"
        return DifferenceRow(measure, middle, None, None, count, len(clusters), None, None, why=why)
    return _by_student(measure, middle, error, count, len(clusters), num_blocks - 1)


def with_holm(rows: Sequence[DifferenceRow]) -> list[DifferenceRow]:
    """The rows with `p_holm`, which is to be compared with alpha in place of p where many tests are made.

    Args:
        rows: of every test that is looked at together: all tasks, and all pairs of models. Those without a p are no
            tests and are not counted.
    """
    tested = [index for index, row in enumerate(rows) if row.p is not None]
    raised = dict(zip(tested, holm([row.p for row in rows if row.p is not None]), strict=True))
    return [replace(row, p_holm=raised.get(index)) for index, row in enumerate(rows)]


def smallest_visible(standard_error: float, degrees: int) -> float:
    """The true difference that a test at 5% calls one in 80% of cases: (t of 5% two-sided + t of 80%) * its error.

    Source: Miller 2024, arXiv:2411.00640, section 5, with Student's t in place of the normal z.
    """
    return (student_reach(LEVEL, degrees) + student_reach(2 * (1 - POWER), degrees)) * standard_error


def _by_student(
    measure: str, middle: float, error: float, count: int, num_clusters: int, degrees: int
) -> DifferenceRow:
    reach, p = student_reach(LEVEL, degrees) * error, student_beyond(middle / error, degrees)
    visible = smallest_visible(error, degrees)
    return DifferenceRow(measure, middle, middle - reach, middle + reach, count, num_clusters, p, visible)


def _smallest_visible_share(differences: Sequence[int], sizes: Sequence[int]) -> float | None:
    """The same of shares, and never less than what the exact test can see at all.

    Where d is the difference and all items on which the models differ are in favour of one, an exact test needs six of
    them: P(Bin(n, d) >= 6) = 0.8. Where the models never differ, how far clusters go together is not known, and a
    cluster counts as an item.
    """
    num_clusters, count = len(sizes), sum(sizes)
    differ = any(differences)
    independent = count if differ else num_clusters
    if num_clusters < FEWEST_TO_DIFFER:
        return None
    floor = beta_quantile(POWER, FEWEST_TO_DIFFER, independent - FEWEST_TO_DIFFER + 1)
    if not differ:
        return floor
    left = np.array(differences) - sum(differences) / count * np.array(sizes)
    error = math.sqrt(num_clusters / (num_clusters - 1) * float(np.square(left).sum())) / count
    return max(floor, smallest_visible(error, num_clusters - 1))


def _correlation(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """How the errors of two shares go together: the correlation of what is left of each cluster's sum."""
    sizes = np.array([len(each) for each in first])
    x, y = np.array([sum(each) for each in first]), np.array([sum(each) for each in second])
    x, y = x - x.sum() / sizes.sum() * sizes, y - y.sum() / sizes.sum() * sizes
    root = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / root if root > 0 else 0.0

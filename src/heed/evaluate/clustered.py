"""95% intervals of what is measured in clusters: the comparisons among the answers to one prompt go together.

Among K answers there are K (K - 1) / 2 comparisons, and they share K rewards: where the model is wrong about one answer
it is wrong in all of that answer's comparisons. An interval that takes them as independent is too narrow: it covers 92%
where it says 95%. What was drawn independently is the prompts, so the spread is estimated between prompts.

With n_c values of a cluster c, y_c their sum, and C clusters, a mean over all values is a ratio of two sums, and to
first order its error is a mean over clusters of what is left of each (the linearised ratio estimator):

    p = sum y_c / sum n_c,      Var p = C / (C - 1) * sum (y_c - p n_c)² / (sum n_c)²

Source: Cochran 1977, "Sampling techniques", 3rd edition, 3.12 and 6.4; it is what Liang and Zeger 1986 (Biometrika 73)
call robust, and what Miller 2024, "Adding error bars to evals", arXiv:2411.00640, asks for where questions share text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from heed.evaluate.exact import clopper_pearson
from heed.evaluate.intervals import Accuracy, Mean, student_95, wilson_of_share


def clustered_accuracy(correct: Sequence[Sequence[float] | np.ndarray]) -> Accuracy:
    """The share of right answers and its interval, where answers of one cluster go together.

    The clustered variance says how many independent answers would be as sure of p, the effective size of the sample,
    and the interval is Wilson's for that many, with Student's t of the C - 1 degrees of freedom that C clusters have:

        n_eff = min(n, n * (p (1 - p) / (n - 1)) / Var p * (t_{n-1} / t_{C-1})²)

    Where all answers are right, or none is, there is no variance to compare: a cluster then counts as one answer,
    which is the least that it can tell.

    Args:
        correct: for each cluster, 1 for each answer that is right, 0 for one that is wrong, 1/2 for a guess between
            two, as a comparison of equal rewards is. Clusters without answers say nothing.

    Facts the tests hold it to:
        one answer in every cluster gives `intervals.accuracy`, to rounding; writing every answer down twice makes no
        interval narrower; simulated reward models on rankings of 4 answers are covered in 95% of the cases, where
        the interval of independent comparisons covers fewer.

    Source: Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", Survey Methodology 24, for n_eff; Franco, Little, Louis and Slud 2019, "Comparative
        study of confidence intervals for proportions in complex sample surveys", Journal of Survey Statistics and
        Methodology 7, for Wilson's interval on it.
    Differs from the source: what is done where all are right or none is.

    Raises:
        ValueError: there are no answers, or one is not from 0 to 1.
    """
    share, effective, n = _effective_size(correct)
    low, high = wilson_of_share(share, effective)
    return Accuracy(share, low, high, n)


def clustered_share(correct: Sequence[Sequence[float] | np.ndarray]) -> Accuracy:
    """The same with Clopper and Pearson's interval on the effective size, which covers at least 95% however few.

    Wilson's interval covers 95% on average over shares, and as little as 83% where a share is near 0 or 1 and items
    are few. This one never covers less than it says, at the cost of being wider by about 1/n_eff; among thousands of
    items the two are one.

    Facts the tests hold it to:
        one answer in every cluster gives `exact.clopper_pearson`, which equals scipy's to 1e-12; coverage is at least
        95% at every share for 5 to 50 items, and in simulation for 10 clusters and more.

    Source: Korn and Graubard 1998, as for n_eff above; Clopper and Pearson 1934, Biometrika 26.
    Differs from the source: what is done where all are right or none is: as in `clustered_accuracy`.

    Raises:
        ValueError: there are no answers, or one is not from 0 to 1.
    """
    share, effective, n = _effective_size(correct)
    low, high = clopper_pearson(share * effective, effective)
    return Accuracy(share, low, high, n)


def clustered_mean(values: Sequence[Sequence[float] | np.ndarray]) -> Mean:
    """The mean over all values and its Student interval, where values of one cluster go together.

    p ± t sqrt(Var p), with t of C - 1 degrees of freedom.

    Facts the tests hold it to:
        one value in every cluster gives `intervals.mean`, to rounding.

    Raises:
        ValueError: fewer than two clusters have values, or a value is not finite.
    """
    sums, counts = _clusters(values)
    return replace(clustered_ratio(sums, counts), count=int(counts.sum()))


def clustered_ratio(sums: Sequence[float] | np.ndarray, sizes: Sequence[float] | np.ndarray) -> Mean:
    """The ratio of two sums over clusters and its Student interval: nats per word, where words come in documents.

    p = sum y_c / sum n_c, and p ± t sqrt(Var p) as above, with t of C - 1 degrees of freedom.

    Args:
        sums: (C,) y_c, of each cluster.
        sizes: (C,) n_c, of each cluster, in any unit: words, bytes, items. Their sum is above 0.

    Returns:
        `count` is the number of clusters.

    Raises:
        ValueError: there are fewer than two clusters, or a sum is not finite.
    """
    y, n = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if len(n) < 2:
        raise ValueError(f"the interval of a mean needs at least 2 clusters, not {len(n)}")
    if not (np.isfinite(y).all() and np.isfinite(n).all()):
        raise ValueError("a mean of values that are not all finite has no interval")
    middle = math.fsum(y) / math.fsum(n)
    reach = student_95(len(n) - 1) * math.sqrt(_variance(y, n))
    return Mean(middle, middle - reach, middle + reach, len(n))


def clustered_correlation(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> Mean:
    """Pearson's correlation of deviations from each cluster's mean, and its interval between clusters.

    With a_c = sum of x y, b_c = sum of x², d_c = sum of y² over the deviations of cluster c, and a, b, d their sums,

        r = a / sqrt(b d),      e_c = (a_c - r (b_c sqrt(d / b) + d_c sqrt(b / d)) / 2) / sqrt(b d)
        Var r = C / (C - 1) * sum e_c²

    where e_c is what cluster c adds to r to first order. The interval is symmetric in Fisher's z = atanh r, whose
    standard error is that of r over 1 - r², so that it stays within [-1, 1]. Clusters in which x or y has a single
    value add nothing to r and are not counted in C where neither differs.

    Returns:
        `count` is the number of values. Where x or y differs nowhere, r is 0, and the interval [-1, 1].

    Source: the delta method, as for a ratio of sums (Cochran 1977, 6.4); Fisher 1921, "On the probable error of a
        coefficient of correlation", Metron 1, for z.
    """
    xs = [np.asarray(each, dtype=np.float64) - np.mean(each) for each in x]
    ys = [np.asarray(each, dtype=np.float64) - np.mean(each) for each in y]
    count = sum(map(len, xs))
    products = np.array([[u @ v, u @ u, v @ v] for u, v in zip(xs, ys, strict=True)])
    a, b, d = products.sum(axis=0)
    if not b > 0 or not d > 0:
        return Mean(0.0, -1.0, 1.0, count)
    size = math.sqrt(b * d)
    r = min(max(float(a / size), -1.0), 1.0)
    informative = products[(products[:, 1] > 0) | (products[:, 2] > 0)]
    num_clusters = len(informative)
    if num_clusters < 2:
        return Mean(r, -1.0, 1.0, count)
    if abs(r) == 1:
        return Mean(r, r, r, count)
    of_x, of_y = informative[:, 1] * math.sqrt(d / b), informative[:, 2] * math.sqrt(b / d)
    errors = (informative[:, 0] - r / 2 * (of_x + of_y)) / size
    deviation = math.sqrt(num_clusters / (num_clusters - 1) * float(np.square(errors).sum()))
    reach = student_95(num_clusters - 1) * deviation / (1 - r**2)
    return Mean(r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach), count)


def _effective_size(correct: Sequence[Sequence[float] | np.ndarray]) -> tuple[float, float, int]:
    """The share of right answers, how many independent ones would be as sure of it, and how many there are."""
    sums, counts = _clusters(correct)
    if not all(0 <= value <= 1 for each in correct for value in each):
        raise ValueError("each answer is right, wrong, or something between")
    n, num_clusters = int(counts.sum()), len(counts)
    share = math.fsum(sums) / n
    effective = float(num_clusters)
    if 0 < share < 1 and num_clusters > 1:
        variance_if_independent = share * (1 - share) / (n - 1)
        effective = n * variance_if_independent / max(_variance(sums, counts), np.finfo(np.float64).tiny)
        effective *= (student_95(n - 1) / student_95(num_clusters - 1)) ** 2
    return share, min(effective, float(n)), n


def _clusters(values: Sequence[Sequence[float] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(C,) sum and (C,) number of the values of each cluster that has any."""
    arrays = [np.asarray(each, dtype=np.float64) for each in values if len(each)]
    if not arrays:
        raise ValueError("a share of no items has no value and no interval")
    return np.array([math.fsum(each) for each in arrays]), np.array([len(each) for each in arrays], dtype=np.float64)


def _variance(sums: np.ndarray, counts: np.ndarray) -> float:
    """Of the ratio sum / count over clusters, linearised."""
    num_clusters, total = len(counts), float(counts.sum())
    left = sums - float(sums.sum()) / total * counts
    return num_clusters / (num_clusters - 1) * float(np.square(left).sum()) / total**2

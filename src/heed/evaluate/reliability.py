"""How far confidences are from the truth: calibration errors that small samples do not inflate, and proper scores.

Every estimate has its 95% interval. Where answers go together (`clusters`: a paragraph, a template), the spread is
estimated between clusters. Beside these, `calibration.py` has the plain bins of reliability diagrams.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from heed.evaluate.calibration import checked
from heed.evaluate.clustered import clustered_mean
from heed.evaluate.intervals import Z_95, Mean, wilson

NUM_BINS = 15
NUM_RESAMPLES = 200

HALVINGS = 10
"""of the range that the kernel's width is looked for in: widths are multiples of 1 / 1024"""
SMALLEST_WIDTH = 1e-3
"""below it errors are not told apart"""
FINEST, COARSEST = 2000, 200
"""steps of the mesh that is smoothed on (half of them), and points that are added up, at least"""
LEAST_DENSITY = 1e-4
"""answers that are added everywhere, so that nothing is divided by zero"""

Clusters = Sequence[Hashable] | None
"""for each answer, what it has in common with others; None: every answer stands alone"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def debiased_ece(confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None) -> Estimate:
    """The calibration error in equally full bins, without what chance alone adds to it; 0 is best.

        E² = sum over bins b of  n_b / n * ((conf_b - acc_b)² - acc_b (1 - acc_b) / (n_b - 1))
        value = sqrt(max(0, E²))

    Plain ECE is above 0 for a perfectly calibrated model, because the share of right answers in a bin is never its
    mean confidence exactly; what is subtracted is what that adds on average. 15 bins, fewer where answers are fewer
    than 30; answers of equal confidence stay in one bin, so that the order of the answers does not matter.

    The interval is symmetric in E², whose variance follows from the gaps g_b = conf_b - acc_b being about normal:

        Var E² = 4 (w m)' C (w m) + 2 sum over b, c of w_b w_c C_bc²,   w_b = n_b / n,  m_b² = max(0, g_b² - C_bb)

    with C the covariance of the gaps, estimated between clusters.

    Facts the tests hold it to:
        E² has mean 0 where every answer is right with the probability of its confidence and the confidences of a bin
        are equal (where they differ, its mean is below 0 by a share of their variance of 1 / (n_b - 1)).

    Source: Kumar, Liang and Ma 2019, "Verified uncertainty calibration", arXiv:1909.10155, section 4.1.
    Differs from the source: ties; the interval, where the source resamples.

    Raises:
        ValueError: there are fewer than two answers.
    """
    error, spread = debiased_square(confidences, correct, clusters)
    low, high = error - Z_95 * spread, error + Z_95 * spread
    return Estimate(*(math.sqrt(max(0.0, each)) for each in (error, low, high)))


def debiased_square(
    confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None
) -> tuple[float, float]:
    """E² of `debiased_ece`, which may be below 0, and its standard error."""
    confidence, right = checked(confidences, correct)
    if len(confidence) < 2:
        raise ValueError("of one answer no calibration error can be told")
    bin_of = _equally_full(confidence)
    count = np.bincount(bin_of).astype(np.float64)
    gap = np.bincount(bin_of, weights=confidence - right) / count
    share = np.bincount(bin_of, weights=right) / count
    weight = count / count.sum()
    error = float(weight @ (gap**2 - share * (1 - share) / (count - 1)))

    cluster_of, num_clusters = _numbered(clusters, len(confidence))
    left = np.zeros((num_clusters, len(count)))
    np.add.at(left, (cluster_of, bin_of), (confidence - right - gap[bin_of]) / count[bin_of])
    covariance = left.T @ left * (num_clusters / max(num_clusters - 1, 1))
    mean = np.sign(gap) * np.sqrt(np.maximum(0, gap**2 - covariance.diagonal()))
    variance = 4 * (weight * mean) @ covariance @ (weight * mean) + 2 * weight @ covariance**2 @ weight
    return error, math.sqrt(max(0.0, float(variance)))


def smooth_ece(confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None) -> Estimate:
    """The calibration error after smoothing instead of binning (smECE); 0 is best.

    The residuals c_i - y_i, each at its c_i, are smoothed by a Gaussian kernel that is reflected at 0 and 1, and their
    size is integrated. The kernel's width is the one that is as large as the error:

        smECE_s = integral over t of |1/n sum_i K_s(t, c_i) (c_i - y_i)| dt,      smECE = smECE_s  where  smECE_s = s

    The interval is by resampling clusters (basic bootstrap, 200 resamples from a fixed start, at the width found).

    Facts the tests hold it to:
        always sure and always wrong is 1; equal to the authors' `relplot` to 1e-6.

    Source: Błasiok and Nakkiran 2023, "Smooth ECE", arXiv:2309.12236. Width and mesh are found as `relplot` finds them.
    Differs from the source: the interval, which is not there.
    """
    confidence, right = checked(confidences, correct)
    residual = confidence - right
    width = _width(confidence, residual)
    value = _error_at(width, confidence, residual, np.ones_like(residual))
    cluster_of, num_clusters = _numbered(clusters, len(confidence))
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        times = np.bincount(generator.integers(num_clusters, size=num_clusters), minlength=num_clusters)[cluster_of]
        resampled.append(_error_at(width, confidence, residual * times, times))
    low, high = 2 * value - np.quantile(resampled, [0.975, 0.025])
    return Estimate(value, max(0.0, min(float(low), value)), max(float(high), value))


def brier_score(confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None) -> Mean:
    """The mean of (c_i - y_i)², from 0 (best) to 1; Brier 1950, of the event "this answer is right"."""
    confidence, right = checked(confidences, correct)
    return clustered_mean(_by_cluster((confidence - right) ** 2, clusters))


def log_score(confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None) -> Mean:
    """The mean surprise -log P(what happened), in nats: -log c_i of a right answer, -log(1 - c_i) of a wrong one.

    0 is best; 0.69 = log 2 is what always saying 0.5 gets. Source: Good 1952, "Rational decisions", JRSS B 14.

    Raises:
        ValueError: an answer held for certain is wrong, or one held for impossible is right: the surprise is infinite.
    """
    confidence, right = checked(confidences, correct)
    happened = np.where(right == 1, confidence, 1 - confidence)
    if not happened.all():
        raise ValueError(f"infinite: {int((happened == 0).sum()):,} answers are certain and wrong, or the reverse")
    return clustered_mean(_by_cluster(-np.log(happened), clusters))


def auroc(confidences: Sequence[float], correct: Sequence[bool], clusters: Clusters = None) -> Estimate:
    """How well confidence tells right from wrong: P(c of a right answer > c of a wrong one) + P(equal) / 2.

    1 is best, 0.5 says nothing. With V_i the share of the wrong answers below right answer i and V_j the share of the
    right ones above wrong answer j, each answer adds (V - AUROC) / (number of its kind) to the estimate to first
    order; the variance is that between clusters, and the interval is symmetric in log(AUROC / (1 - AUROC)). Where the
    two kinds do not overlap there is no variance to see: the bound is Wilson's for as many pairs as the rarer kind has.

    Facts the tests hold it to:
        equal to scikit-learn's `roc_auc_score`; only the order of confidences matters.

    Source: DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44; Obuchowski 1997, Biometrics 53, for clusters.

    Raises:
        ValueError: all answers are right, or all are wrong.
    """
    confidence, right = checked(confidences, correct)
    good, bad = np.sort(confidence[right == 1]), np.sort(confidence[right == 0])
    if not len(good) or not len(bad):
        raise ValueError(f"all answers are {'right' if len(good) else 'wrong'}, so nothing can be told apart")

    def below(pool: np.ndarray) -> np.ndarray:
        less, up_to = np.searchsorted(pool, confidence, "left"), np.searchsorted(pool, confidence, "right")
        return np.asarray((less + up_to) / 2 / len(pool))

    placement = np.where(right == 1, below(bad), 1 - below(good))
    value = float(placement[right == 1].mean())
    cluster_of, num_clusters = _numbered(clusters, len(confidence))
    of_cluster = np.bincount(cluster_of, (placement - value) / np.where(right == 1, len(good), len(bad)))
    deviation = math.sqrt(num_clusters / max(num_clusters - 1, 1) * float(np.square(of_cluster).sum()))
    if not 0 < value < 1 or deviation == 0:
        rarer = min(len(good), len(bad))
        low = wilson(rarer, rarer)[0]
        return Estimate(value, low if value == 1 else 0.0, 1.0 if value > 0 else 1 - low)
    middle, reach = math.log(value / (1 - value)), Z_95 * deviation / (value * (1 - value))
    return Estimate(value, _sigmoid(middle - reach), _sigmoid(middle + reach))


def _equally_full(confidence: np.ndarray) -> np.ndarray:
    """(n,) the bin of each answer: equal confidences in one, two answers at least in each."""
    count = len(confidence)
    num_bins = min(NUM_BINS, count // 2)
    _, value_of, ties = np.unique(confidence, return_inverse=True, return_counts=True)
    rank_of_value = np.cumsum(ties) - ties / 2
    bin_of = np.minimum((rank_of_value * num_bins / count).astype(int), num_bins - 1)[value_of]
    while True:
        bin_of = np.unique(bin_of, return_inverse=True)[1]
        counts = np.bincount(bin_of)
        if len(counts) == 1 or counts.min() > 1:
            return np.asarray(bin_of)
        single = int(counts.argmin())
        bin_of[bin_of == single] = single + 1 if single + 1 < len(counts) else single - 1


def _width(confidence: np.ndarray, residual: np.ndarray) -> float:
    """The smallest of the widths tried that is at least the error at that width."""
    wide, narrow = 1.0, 0.0
    for _ in range(HALVINGS):
        width = (wide + narrow) / 2
        if width < SMALLEST_WIDTH or width < _error_at(width, confidence, residual, np.ones_like(residual)):
            narrow = width
        else:
            wide = width
    return wide


def _error_at(width: float, confidence: np.ndarray, residual: np.ndarray, count: np.ndarray) -> float:
    """The smoothed residuals in size, over the smoothed number of answers: smECE at a width.

    Args:
        residual, count: (n,) of each answer; an answer that is there twice has both twice.
    """
    points = max(FINEST, round(20 / width)) // 2 + 1
    mesh, at = np.linspace(0, 1, points), np.linspace(0, 1, max(COARSEST, round(10 / width)))
    size = np.abs(np.interp(at, mesh, _smoothed(_on_mesh(confidence, residual, points), width)))
    density = np.interp(at, mesh, _smoothed(_on_mesh(confidence, count, points), width))
    return float(size.sum() / (density + LEAST_DENSITY).sum())


def _on_mesh(confidence: np.ndarray, values: np.ndarray, points: int) -> np.ndarray:
    """(points,) the values, each shared between the two points of [0, 1] that its confidence lies between."""
    place = confidence * (points - 1)
    lower = np.clip(place.astype(int), 0, points - 2)
    above = place - lower
    mesh: np.ndarray = np.bincount(lower, (1 - above) * values, minlength=points)
    mesh += np.bincount(lower + 1, above * values, minlength=points)
    return mesh


def _smoothed(mesh: np.ndarray, width: float) -> np.ndarray:
    """(points,) what lies on the mesh and on its mirror images, smoothed; the kernel ends half the range away."""
    points = len(mesh)
    around = np.concatenate([mesh, mesh[-2:0:-1]])  # with mirrors at both ends it repeats after 2 (points - 1)
    kernel = np.zeros(len(around))
    kernel[:points] = np.exp(-((np.linspace(0, 1, points) - 0.5) ** 2) / (2 * width**2)) / (
        math.sqrt(2 * math.pi) * width
    )
    smooth: np.ndarray = np.fft.irfft(np.fft.rfft(around) * np.fft.rfft(kernel), len(around))
    return np.roll(smooth, -(points // 2))[:points]


def _numbered(clusters: Clusters, count: int) -> tuple[np.ndarray, int]:
    """(n,) the number of each answer's cluster, and how many clusters there are."""
    if clusters is None:
        return np.arange(count), count
    if len(clusters) != count:
        raise ValueError(f"{len(clusters)} clusters do not go with {count} answers")
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[cluster] for cluster in clusters]), len(numbers)


def _by_cluster(values: np.ndarray, clusters: Clusters) -> list[np.ndarray]:
    cluster_of, num_clusters = _numbered(clusters, len(values))
    order = np.argsort(cluster_of, kind="stable")
    ends = np.cumsum(np.bincount(cluster_of, minlength=num_clusters))
    return np.split(values[order], ends[:-1])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

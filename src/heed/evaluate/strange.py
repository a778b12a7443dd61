"""Is a prompt unlike those that a model was tuned on? The relative Mahalanobis distance of its hidden state.

states of tuning prompts, of background text -> two Gaussians -> distance -> conformal p-value

With MD(z; mu, S) = (z - mu)' S^-1 (z - mu),

    s(z) = MD(z; mu, S) - MD(z; mu_0, S_0)            tuning prompts against background; large: strange

The second term takes away what is far from everything, so that the first does not call every rare state strange. The
p-value of a prompt compares its distance with those of n tuning prompts kept apart from the fit,

    p = (1 + #{i: s_i >= s}) / (n + 1)

so that if a prompt is exchangeable with them, P(p <= alpha) <= alpha: false alarms are at most alpha, whatever the
Gaussians are worth. How many strange prompts are found depends on them.

Source: Ren et al. 2023, "Out-of-distribution detection and selective generation for conditional language models",
    arXiv:2209.15558, section 3.2; conformal p-values: Bates et al. 2023, "Testing for outliers with conformal
    p-values", Annals of Statistics 51, equation 2; shrinkage: Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices", Journal of Multivariate Analysis 88.
Differs from the source: covariances are shrunk, the p-value. Without a background the second term is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heed import files
from heed.errors import UserError, typed

NUMBERS, ABOUT = "strange.npz", "strange.json"
LEAST_CALIBRATION = 19
"""prompts kept apart with which p can be as small as 0.05"""
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution of states, as far as distances from it go."""

    mean: np.ndarray
    """(d,) float64"""
    whitening: np.ndarray
    """(d, d) float64, W with W W' = S^-1"""

    @classmethod
    def fit(cls, states: np.ndarray) -> Gaussian:
        """Mean and shrunk covariance of (n, d) states, n at least 2."""
        covariance, _ = shrunk_covariance(states)
        values, vectors = np.linalg.eigh(covariance)
        mean = np.asarray(states, np.float64).mean(axis=0)
        # Where states do not differ at all, their own size says what is small.
        largest = max(float(values.max()), float(np.square(mean).mean()), 1e-100)
        values = np.maximum(values, np.finfo(np.float64).eps * len(values) * largest)
        return cls(mean, vectors / np.sqrt(values))

    def distance(self, states: np.ndarray) -> np.ndarray:
        """(n,) squared Mahalanobis distances of (n, d) states."""
        squared: np.ndarray = np.square((np.asarray(states, np.float64) - self.mean) @ self.whitening).sum(axis=1)
        return squared


def shrunk_covariance(states: np.ndarray) -> tuple[np.ndarray, float]:
    """The covariance of states, drawn towards a multiple of the identity as far as its noise asks for.

        S* = (1 - b) S + b m I,   m = tr S / d,   b = min(b2 / d2, 1)
        d2 = |S - m I|² / d,      b2 = (1 / n²) sum_i |x_i x_i' - S|² / d,      |A|² = sum of squares of A

    S divides by n. It has an inverse also where there are fewer states than dimensions, and tends to S where there are
    many.

    Args:
        states: (n, d), n at least 2.

    Returns:
        S*, (d, d) float64, and b, from 0 to 1.

    Source: Ledoit and Wolf 2004, lemmas 3.2 to 3.5.
    Differs from the source: nothing.
    """
    x = np.asarray(states, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a covariance needs two finite states or more, not an array of shape {x.shape}")
    n, d = x.shape
    x = x - x.mean(axis=0)
    s = x.T @ x / n
    m = float(np.trace(s)) / d
    distance = float(np.square(s - m * np.eye(d)).sum()) / d
    # sum_i |x_i x_i' - S|² = sum_i |x_i|^4 - n |S|²
    noise = (float(np.square(np.square(x).sum(axis=1)).sum()) / n - float(np.square(s).sum())) / (n * d)
    b = 1.0 if distance <= 0 else min(max(noise, 0.0) / distance, 1.0)
    return (1 - b) * s + b * m * np.eye(d), b


@dataclass(frozen=True, eq=False)
class Detector:
    """Tells how unlike the tuning prompts a prompt is."""

    prompts: Gaussian
    background: Gaussian | None
    calibration: np.ndarray
    """(n,) float64, distances of the prompts kept apart, ascending"""
    about: Mapping[str, Any]
    """what it was fitted on and for: hashes of weights and template, numbers of prompts, which state"""

    @classmethod
    def fit(
        cls,
        states: np.ndarray,
        calibration: np.ndarray,
        background: np.ndarray | None,
        about: Mapping[str, Any] | None = None,
    ) -> Detector:
        """Fit to states of tuning prompts, and set the scale by others kept apart.

        Args:
            states: (n, d) of tuning prompts.
            calibration: (m, d) of other tuning prompts: exchangeable with those, and none of them among those.
            background: (k, d) of text of every kind, at the same place of it; None: plain Mahalanobis distance.
        """
        own = Gaussian.fit(states)
        broad = None if background is None else Gaussian.fit(background)
        detector = cls(own, broad, np.zeros(0), dict(about or {}))
        return cls(own, broad, np.sort(detector.distance(calibration)), detector.about)

    def distance(self, states: np.ndarray) -> np.ndarray:
        """(n,) how strange each of (n, d) states is, s(z); no unit, larger is stranger."""
        own = self.prompts.distance(states)
        return own if self.background is None else own - self.background.distance(states)

    def p_values(self, states: np.ndarray) -> np.ndarray:
        """(n,) of (n, d) states, from 1/(m + 1) to 1; small is strange. A state that is not finite has the smallest."""
        states = np.asarray(states, dtype=np.float64)
        finite = np.isfinite(states).all(axis=1)
        distances = np.full(len(states), np.inf)
        distances[finite] = self.distance(states[finite])
        return conformal_p(self.calibration, distances)

    def p_value(self, state: np.ndarray) -> float:
        """The same of one state (d,)."""
        return float(self.p_values(np.asarray(state)[None])[0])

    def save(self, folder: Path) -> None:
        """Write `strange.npz` and `strange.json`, the second last: it holds the hash of the first."""
        numbers = {"mean": self.prompts.mean, "whitening": self.prompts.whitening, "calibration": self.calibration}
        if self.background is not None:
            numbers |= {"mean_0": self.background.mean, "whitening_0": self.background.whitening}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **numbers)
        content = buffer.getvalue()
        files.write_bytes(folder / NUMBERS, content)
        files.write_json(folder / ABOUT, {"format": FORMAT, **self.about, "numbers_sha256": _sha256(content)})

    @classmethod
    def load(cls, folder: Path) -> Detector | None:
        """What `save` wrote; None where there is none.

        Raises:
            UserError: the files are broken, or one of them is of another detector.
        """
        if not (folder / ABOUT).is_file():
            return None
        try:
            about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            content = (folder / NUMBERS).read_bytes()
            if about["format"] != FORMAT or about["numbers_sha256"] != _sha256(content):
                raise ValueError(f"{NUMBERS} is not the file that {ABOUT} was written with")
            with np.load(io.BytesIO(content), allow_pickle=False) as numbers:
                background = Gaussian(numbers["mean_0"], numbers["whitening_0"]) if "mean_0" in numbers else None
                own = Gaussian(numbers["mean"], numbers["whitening"])
                return cls(own, background, numbers["calibration"], about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                "the detector of strange prompts cannot be read",
                where=str(folder / ABOUT),
                found=f"{type(error).__name__}: {error}",
                expected="the two files that heed strange wrote together",
                fix=f"rm {typed(folder / ABOUT)}; heed strange fits it anew",
            ) from error


def conformal_p(calibration: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """p = (1 + #{s_i >= s}) / (n + 1) for each of some distances, among the calibration's."""
    ordered = np.sort(np.asarray(calibration, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(distances, dtype=np.float64), side="left")
    p: np.ndarray = (1 + at_least) / (len(ordered) + 1)
    return p


@dataclass(frozen=True, slots=True)
class Separation:
    """How well numbers tell two kinds of items apart, with a 95% interval."""

    auroc: float
    """P(a strange item's number is the larger one), ties half: 1/2 is chance, 1 perfect"""
    low: float
    high: float


def auroc(usual: np.ndarray, strange: np.ndarray) -> Separation:
    """The area under the ROC curve and DeLong's interval, within [0, 1].

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
        characteristic curves: a nonparametric approach", Biometrics 44, equations 1 to 6.
    """
    [area], [[variance]] = _delong(np.asarray(usual)[None], np.asarray(strange)[None])
    reach = 1.959963984540054 * float(np.sqrt(variance))
    return Separation(float(area), max(0.0, float(area) - reach), min(1.0, float(area) + reach))


def auroc_difference(usual: np.ndarray, strange: np.ndarray) -> Separation:
    """How much larger the first of two numbers' areas is than the second's, on the same items, with its interval.

    Args:
        usual: (2, n) numbers of each of the n usual items.
        strange: (2, m) of the strange ones.
    """
    areas, covariance = _delong(np.asarray(usual), np.asarray(strange))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    reach = 1.959963984540054 * float(np.sqrt(max(variance, 0.0)))
    return Separation(difference, difference - reach, difference + reach)


def _delong(usual: np.ndarray, strange: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) areas of k numbers and their (k, k) covariance, from usual (k, n) and strange (k, m)."""
    if usual.shape[1] < 2 or strange.shape[1] < 2:
        raise ValueError("two items of each kind are the least that have an interval")
    larger = (strange[:, :, None] > usual[:, None, :]) + 0.5 * (strange[:, :, None] == usual[:, None, :])
    of_strange, of_usual = larger.mean(axis=2), larger.mean(axis=1)
    covariance = np.atleast_2d(np.cov(of_strange)) / strange.shape[1] + np.atleast_2d(np.cov(of_usual)) / usual.shape[1]
    return larger.mean(axis=(1, 2)), covariance


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Temperature and Platt scaling against scipy's minimiser and scikit-learn, on what can and cannot be fitted."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.calibration import _sigmoid_calibration

from heed.evaluate.scaling import Platt, Temperature, answer_confidence, fit_platt, fit_temperature


def questions(seed: int, temperature: float, count: int = 400) -> tuple[list[list[float]], list[list[int]]]:
    """Options of 2 to 5, the right one drawn by the softmax at a temperature."""
    rng = np.random.default_rng(seed)
    options = [(rng.normal(size=rng.integers(2, 6)) * 6 - 30) for _ in range(count)]
    right = [[int(rng.choice(len(each), p=np.exp(log_softmax(each / temperature))))] for each in options]
    return [each.tolist() for each in options], right


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0, 9.0])
def test_the_temperature_is_the_one_that_scipy_finds(temperature):
    options, right = questions(3, temperature)

    def loss(log_t: float) -> float:
        return -sum(log_softmax(np.array(o) / math.exp(log_t))[r].sum() for o, r in zip(options, right, strict=True))

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(options, right)
    assert found.temperature == pytest.approx(math.exp(best.x), rel=1e-5)
    assert found.temperature == pytest.approx(temperature, rel=0.25)


def test_several_right_options_count_together():
    options, right = questions(5, 2.0)
    both = [[*r, (r[0] + 1) % len(o)] for o, r in zip(options, right, strict=True)]

    def loss(log_t: float) -> float:
        logs = (log_softmax(np.array(o) / math.exp(log_t)) for o in options)
        return -sum(logsumexp(each[r]) for each, r in zip(logs, both, strict=True))

    best = minimize_scalar(loss, bounds=(-4, 4.6), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(options, both)
    assert found.temperature == pytest.approx(math.exp(best.x), rel=1e-4)


def test_where_the_likeliest_are_always_right_or_never_no_temperature_is_best():
    assert fit_temperature([[0.0, -1.0]] * 5, [[0]] * 5) is None
    assert fit_temperature([[0.0, -1.0]] * 5, [[1]] * 5) is None
    with pytest.raises(ValueError, match="a right option each"):
        fit_temperature([[0.0, -1.0]], [[]])


def test_a_temperature_changes_no_order_and_is_a_softmax():
    logp = [-3.0, -4.0, -10.0]
    assert Temperature(1.0).confidence(logp, 0) == pytest.approx(np.exp(log_softmax(logp))[0])
    assert Temperature(5.0).confidence(logp, 0) < Temperature(1.0).confidence(logp, 0)
    assert Temperature(0.1).confidence([-1e4, -2e4], 0) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_platt_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(2, 2, size=120)
    right = rng.random(120) < confidence**2
    found = fit_platt(confidence, right)
    a, b = _sigmoid_calibration(np.log(confidence / (1 - confidence)), right)
    assert (found.slope, found.intercept) == pytest.approx((-a, -b), rel=1e-4, abs=1e-4)


def test_platt_is_the_minimum_of_its_loss():
    rng = np.random.default_rng(9)
    confidence, right = rng.random(80), rng.random(80) < 0.4
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    x = np.log(confidence / (1 - confidence))

    def loss(at: np.ndarray) -> float:
        z = at[0] * x + at[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    best = minimize(loss, np.zeros(2), tol=1e-14).x
    found = fit_platt(confidence, right)
    assert (found.slope, found.intercept) == pytest.approx(tuple(best), abs=1e-5)


def test_platt_stays_finite_where_all_is_separated_equal_or_certain():
    apart = fit_platt([0.1] * 20 + [0.9] * 20, [False] * 20 + [True] * 20)
    assert 0.9 < apart.confidence(0.9) < 1
    same = fit_platt([0.7] * 10, [True] * 4 + [False] * 6)
    assert same.slope == 0
    assert same.confidence(0.1) == same.confidence(0.7) == pytest.approx((4 * 5 / 6 + 6 / 8) / 10)
    certain = fit_platt([0.0, 1.0, 1.0, 0.0], [False, True, True, True])
    assert all(0 < certain.confidence(each) < 1 for each in (0.0, 0.5, 1.0))
    with pytest.raises(ValueError, match="logarithm"):
        Platt(1.0, 0.0).confidence(-0.3)


def test_the_confidence_in_an_answer_is_the_geometric_mean_of_its_tokens():
    assert answer_confidence([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)
    assert answer_confidence([0.0]) == 1.0
    for broken in ([], [float("nan")], [-math.inf]):
        with pytest.raises(ValueError, match="each of its tokens"):
            answer_confidence(broken)

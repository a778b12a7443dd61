"""The detector of strange prompts: its covariance, its distances, its promise about false alarms, its files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.errors import UserError
from heed.evaluate.strange import (
    Detector,
    Gaussian,
    auroc,
    auroc_difference,
    conformal_p,
    shrunk_covariance,
)


def normal(rng, n, d, *, scale=1.0, shift=0.0):
    return rng.normal(size=(n, d)) * scale + shift


def slow_ledoit_wolf(x):
    """The lemmas of the paper written out sample by sample."""
    x = x - x.mean(axis=0)
    n, d = x.shape
    s = sum(np.outer(row, row) for row in x) / n
    m = np.trace(s) / d
    d2 = np.linalg.norm(s - m * np.eye(d)) ** 2 / d
    b2 = sum(np.linalg.norm(np.outer(row, row) - s) ** 2 for row in x) / n**2 / d
    b = min(b2, d2) / d2
    return b * m * np.eye(d) + (1 - b) * s, b


@pytest.mark.parametrize(("n", "d"), [(5, 3), (40, 6), (4, 12), (2, 3)])
def test_the_shrunk_covariance_is_the_paper_s_sample_by_sample(n, d):
    x = np.random.default_rng(n).normal(size=(n, d)) @ np.diag(np.arange(1, d + 1))
    covariance, b = shrunk_covariance(x)
    expected, expected_b = slow_ledoit_wolf(x)
    assert covariance == pytest.approx(expected)
    assert b == pytest.approx(expected_b)


def test_the_shrunk_covariance_is_scikit_learn_s():
    sklearn = pytest.importorskip("sklearn.covariance", reason="scikit-learn is not installed")
    x = np.random.default_rng(1).normal(size=(60, 20)) @ np.diag(np.linspace(1, 4, 20))
    covariance, b = shrunk_covariance(x)
    expected, expected_b = sklearn.ledoit_wolf(x)
    assert covariance == pytest.approx(expected)
    assert b == pytest.approx(expected_b)


def test_much_data_is_hardly_shrunk_and_little_data_has_an_inverse():
    rng = np.random.default_rng(2)
    spread = np.diag([4.0, 1.0, 0.25])
    covariance, b = shrunk_covariance(rng.normal(size=(20_000, 3)) @ np.sqrt(spread))
    assert b < 0.01
    # 20,000 draws: a variance is off by 1% of itself (one standard error), a covariance by 1% of both deviations
    assert (np.abs(covariance - spread) < 0.04 * np.sqrt(np.outer(np.diag(spread), np.diag(spread)))).all()
    few, _ = shrunk_covariance(rng.normal(size=(8, 50)))
    assert np.linalg.eigvalsh(few).min() > 0


def test_states_without_any_spread_are_not_divided_by_zero():
    gaussian = Gaussian.fit(np.ones((5, 3)))
    assert gaussian.distance(np.ones((1, 3))) == pytest.approx([0])
    assert np.isfinite(gaussian.distance(np.zeros((1, 3)))).all()


def test_one_state_or_one_that_is_not_finite_has_no_covariance():
    for states in (np.ones((1, 3)), np.array([[1.0, np.nan], [0.0, 1.0]])):
        with pytest.raises(ValueError, match="finite states"):
            shrunk_covariance(states)


def test_the_distance_is_the_squared_mahalanobis_distance():
    rng = np.random.default_rng(3)
    x = normal(rng, 30, 4) @ np.diag([1, 2, 3, 4])
    gaussian, (covariance, _) = Gaussian.fit(x), shrunk_covariance(x)
    z = normal(rng, 5, 4)
    expected = [(row - x.mean(axis=0)) @ np.linalg.inv(covariance) @ (row - x.mean(axis=0)) for row in z]
    assert gaussian.distance(z) == pytest.approx(expected)


def test_the_relative_distance_takes_away_what_is_far_from_everything():
    rng = np.random.default_rng(4)
    own, kept, broad = normal(rng, 400, 3), normal(rng, 100, 3), normal(rng, 400, 3, scale=5)
    plain, relative = Detector.fit(own, kept, None), Detector.fit(own, kept, broad)
    z = normal(rng, 3, 3, shift=2)
    assert relative.distance(z) == pytest.approx(plain.distance(z) - Gaussian.fit(broad).distance(z))


def test_the_p_value_counts_the_calibration_prompts_that_are_as_strange():
    assert conformal_p(np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 1.0, 2.0, 3.0, 5.0, 6.0])) == pytest.approx(
        [5 / 5, 5 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5]
    )


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(-6, 6))
def test_a_p_value_lies_above_zero_and_falls_with_the_distance(calibration, distance):
    [p, further] = conformal_p(np.array(calibration), np.array([distance, distance + 1]))
    assert 1 / (len(calibration) + 1) <= further <= p <= 1
    assert p == (1 + sum(s >= distance for s in calibration)) / (len(calibration) + 1)


@pytest.mark.parametrize("heavy_tails", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_are_at_most_alpha_whatever_the_states_look_like(alpha, heavy_tails):
    rng = np.random.default_rng(7)

    def states(n):
        return rng.standard_t(2, size=(n, 12)) if heavy_tails else normal(rng, n, 12)

    alarms = []
    for _ in range(400):
        detector = Detector.fit(states(20), states(39), states(20) * 3)  # fewer samples than would fit a covariance
        alarms.append(float((detector.p_values(states(25)) <= alpha).mean()))
    error = np.std(alarms) / np.sqrt(len(alarms))
    assert np.mean(alarms) <= alpha + 3 * error
    assert np.mean(alarms) >= alpha - 3 * error, "with 39 prompts kept apart these alphas are reached exactly"


def test_strange_states_are_found():
    rng = np.random.default_rng(8)
    detector = Detector.fit(normal(rng, 200, 5), normal(rng, 99, 5), normal(rng, 200, 5, scale=4))
    assert detector.p_values(normal(rng, 50, 5, shift=6)) == pytest.approx(np.full(50, 0.01))
    assert detector.p_value(np.full(5, np.nan)) == pytest.approx(0.01), "what cannot be compared is strange"


def test_a_detector_comes_back_from_its_files_as_it_was(tmp_path):
    rng = np.random.default_rng(9)
    detector = Detector.fit(normal(rng, 30, 4), normal(rng, 20, 4), normal(rng, 30, 4), {"weights_sha256": "w"})
    detector.save(tmp_path)
    back = Detector.load(tmp_path)
    z = normal(rng, 6, 4)
    assert (back.p_values(z) == detector.p_values(z)).all()
    assert (back.distance(z) == detector.distance(z)).all()
    assert back.about["weights_sha256"] == "w"
    plain = Detector.fit(normal(rng, 30, 4), normal(rng, 20, 4), None)
    plain.save(tmp_path)
    assert Detector.load(tmp_path).background is None
    assert Detector.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("damage", ["numbers", "about", "other"])
def test_broken_files_are_told_in_five_parts(tmp_path, damage):
    rng = np.random.default_rng(10)
    Detector.fit(normal(rng, 30, 4), normal(rng, 20, 4), None).save(tmp_path)
    if damage == "numbers":
        (tmp_path / "strange.npz").write_bytes((tmp_path / "strange.npz").read_bytes()[:-7])
    elif damage == "about":
        (tmp_path / "strange.json").write_text("{")
    else:
        about = json.loads((tmp_path / "strange.json").read_text())
        (tmp_path / "strange.json").write_text(json.dumps({**about, "numbers_sha256": "0"}))
    with pytest.raises(UserError, match=r"cannot be read(.|\n)*heed strange"):
        Detector.load(tmp_path)


def test_the_area_is_the_share_of_pairs_in_order_ties_half():
    usual, strange = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    assert auroc(usual, strange).auroc == pytest.approx((0.5 + 1 + 1 + 1 + 1 + 0) / 6)
    assert auroc(strange, usual).auroc == pytest.approx(1 - 4.5 / 6)


def test_delong_s_variance_written_out():
    usual, strange = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    v10 = [(1 + 0.5 + 0) / 3, 1.0]
    v01 = [1.0, (0.5 + 1) / 2, (0 + 1) / 2]
    variance = np.var(v10, ddof=1) / 2 + np.var(v01, ddof=1) / 3
    found = auroc(usual, strange)
    assert found.low == pytest.approx(max(0.0, 0.75 - 1.959964 * np.sqrt(variance)), abs=1e-6)
    assert found.high == 1.0


def test_the_interval_of_an_area_and_of_a_difference_cover_the_truth():
    rng = np.random.default_rng(11)
    truth, covered, of_difference = 0.760250, 0, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for _ in range(400):
        usual, strange = normal(rng, 60, 1)[:, 0], normal(rng, 50, 1, shift=1)[:, 0]
        found = auroc(usual, strange)
        covered += found.low <= truth <= found.high
        worse = auroc_difference(
            np.stack([usual, normal(rng, 60, 1)[:, 0]]), np.stack([strange, normal(rng, 50, 1)[:, 0]])
        )
        of_difference += worse.low <= truth - 0.5 <= worse.high
    assert covered / 400 >= 0.92
    assert of_difference / 400 >= 0.92


def test_of_two_equal_numbers_the_areas_do_not_differ():
    rng = np.random.default_rng(12)
    usual, strange = normal(rng, 20, 1)[:, 0], normal(rng, 20, 1)[:, 0]
    found = auroc_difference(np.stack([usual, usual]), np.stack([strange, strange]))
    assert (found.auroc, found.low, found.high) == pytest.approx((0, 0, 0))

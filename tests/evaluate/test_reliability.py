"""Calibration errors without the bias of plain bins, against simulations, slow references and the authors' code."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from heed.evaluate.calibration import calibration
from heed.evaluate.items import Scored
from heed.evaluate.measures import MEASURES
from heed.evaluate.reliability import (
    auroc,
    brier_score,
    debiased_ece,
    debiased_square,
    log_score,
    smooth_ece,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import relplot

LEVELS = np.linspace(0.05, 0.95, 10)


def drawn(seed: int, count: int, bend: float = 0.0, levels: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right with probability c + bend sin(2 pi c) / 2 pi: 0 bends nothing."""
    rng = np.random.default_rng(seed)
    confidence = rng.choice(LEVELS, count) if levels else rng.random(count)
    share = confidence + bend * np.sin(2 * math.pi * confidence) / (2 * math.pi)
    return confidence, rng.random(count) < share


# ---- debiased ECE


def test_a_hand_worked_bin():
    # Two bins of two by ties: gaps 0.8 - 1 = -0.2 and 0.4 - 0.5 = -0.1; only the second varies: 0.25 / 1.
    error, _ = debiased_square([0.8, 0.8, 0.4, 0.4], [True, True, True, False])
    assert error == pytest.approx((0.04 + 0.01 - 0.25) / 2)
    assert debiased_ece([0.8, 0.8, 0.4, 0.4], [True, True, True, False]).value == 0
    assert debiased_ece([0.9] * 8, [False] * 8).value == pytest.approx(0.9)


def test_its_square_has_mean_zero_where_plain_ece_has_not():
    found = [drawn(seed, 200, levels=True) for seed in range(1500)]
    squares = np.array([debiased_square(*each)[0] for each in found])
    plain = np.array([calibration(*each).ece for each in found[:300]])
    assert abs(squares.mean()) < 3 * squares.std() / math.sqrt(len(squares))
    assert squares.std() / math.sqrt(len(squares)) < 2e-4, "so that a bias of plain ECE's size would be seen"
    assert plain.mean() > 0.05
    assert plain.min() > 0


def test_where_confidences_of_a_bin_differ_little_is_left_of_the_bias():
    squares = np.array([debiased_square(*drawn(10_000 + seed, 300))[0] for seed in range(3000)])
    plain = np.array([calibration(*drawn(seed, 300)).ece ** 2 for seed in range(300)])
    assert abs(squares.mean()) < 0.05 * plain.mean()


def test_a_true_error_is_found_and_covered():
    bend, truth = 0.9, 0.9 / (2 * math.pi) / math.sqrt(2)  # the root mean square of a sine
    found = [debiased_ece(*drawn(seed, 600, bend)) for seed in range(300)]
    assert np.mean([each.value for each in found]) == pytest.approx(truth, rel=0.06)
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.9 <= covered <= 0.99


def test_writing_answers_down_four_times_makes_nothing_surer_where_it_is_told():
    confidence, right = drawn(0, 300, 0.9)
    _, alone = debiased_square(confidence, right)
    _, four_times = debiased_square(np.repeat(confidence, 4), np.repeat(right, 4))
    _, together = debiased_square(np.repeat(confidence, 4), np.repeat(right, 4), np.repeat(np.arange(300), 4).tolist())
    assert together == pytest.approx(alone, rel=1e-9)
    assert four_times < 0.6 * alone


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.booleans()), min_size=2, max_size=60))
def test_the_order_of_answers_does_not_matter(pairs):
    confidence, right = zip(*pairs, strict=True)
    again = sorted(pairs)
    assert debiased_square(confidence, right) == pytest.approx(debiased_square(*zip(*again, strict=True)), abs=1e-12)


def test_one_answer_has_no_calibration_error():
    with pytest.raises(ValueError, match="one answer"):
        debiased_ece([0.5], [True])
    with pytest.raises(ValueError, match="probability"):
        debiased_ece([0.5, -2.0], [True, False])


# ---- smooth ECE


@pytest.mark.parametrize("count", [5, 60, 700, 5000])
@pytest.mark.parametrize("bend", [0.0, 0.6, -1.0])
def test_smooth_ece_is_the_authors(count, bend):
    confidence, right = drawn(count, count, bend)
    assert smooth_ece(confidence, right).value == pytest.approx(relplot.smECE(confidence, right * 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("confidence", "right"),
    [([1.0] * 9, [False] * 9), ([0.0] * 9, [True] * 9), ([1.0] * 9, [True] * 9), ([0.5] * 8, [True, False] * 4)],
    ids=["always sure and wrong", "never sure and right", "sure and right", "a coin"],
)
def test_smooth_ece_of_extremes_is_the_authors(confidence, right):
    value = smooth_ece(confidence, right).value
    assert value == pytest.approx(relplot.smECE(np.array(confidence), np.array(right, dtype=float)), abs=1e-6)
    assert (value > 0.3) == (confidence[0] != 0.5 and (confidence[0] == 1) != right[0])


def test_the_interval_of_smooth_ece_covers_a_true_error():
    # Smoothing hardly moves an error that is the same everywhere.
    covered = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        confidence = 0.3 + 0.4 * rng.random(800)
        found = smooth_ece(confidence, rng.random(800) < confidence + 0.2)
        covered += found.low <= 0.2 <= found.high
        assert found.low <= found.value <= found.high
    assert covered >= 25


# ---- scores


def test_brier_and_log_score_by_hand():
    assert brier_score([0.9, 0.2], [True, False]).mean == pytest.approx((0.01 + 0.04) / 2)
    assert log_score([0.9, 0.2], [True, False]).mean == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert log_score([0.5, 0.5], [True, False]).mean == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="infinite: 1 answers"):
        log_score([1.0, 0.2], [False, False])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=50))
def test_auroc_is_scikit_learns(pairs):
    confidence, right = zip(*pairs, strict=True)
    if len(set(right)) < 2:
        with pytest.raises(ValueError, match="all answers are"):
            auroc(confidence, right)
        return
    found = auroc(confidence, right)
    assert found.value == pytest.approx(roc_auc_score(right, confidence), abs=1e-12)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_the_interval_of_auroc_covers():
    truth = 5 / 6  # of a uniform confidence: P(c > c') of densities 2c and 2(1 - c')
    found = [auroc(*drawn(seed, 150)) for seed in range(400)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    perfect = auroc([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.1 < perfect.low < 0.5, "four answers prove little"


# ---- the measure


def scored(confidence: float | None, is_right: bool | None, number: int, cluster: str | None = None) -> Scored:
    return Scored(str(number), {"is_right": is_right}, {}, confidence=confidence, cluster=cluster)


def test_the_measure_has_five_figures_with_intervals():
    confidence, right = drawn(1, 200, 0.5)
    items = [scored(c, bool(r), n) for n, (c, r) in enumerate(zip(confidence, right, strict=True))]
    items += [scored(None, True, 1000), scored(0.3, None, 1001)]
    figures = {figure.measure: figure for figure in MEASURES["calibration"](items)}
    assert list(figures) == ["ece_debiased", "ece_smooth", "brier", "log_score", "auroc"]
    assert all(figure.count == 200 and figure.low <= figure.value <= figure.high for figure in figures.values())
    assert figures["brier"].value == pytest.approx(calibration(confidence, right).brier)


def test_what_is_undefined_says_why():
    figures = {figure.measure: figure for figure in MEASURES["calibration"]([scored(0.5, True, n) for n in range(4)])}
    assert figures["auroc"].value is None
    assert figures["auroc"].why == "all answers are right, so nothing can be told apart"
    assert figures["brier"].value == 0.25
    nothing = MEASURES["calibration"]([scored(None, True, 0)])
    assert all(figure.value is None and figure.why for figure in nothing)


def test_every_figure_is_a_measure_by_its_own_name():
    items = [scored(c, bool(r), n) for n, (c, r) in enumerate(zip(*drawn(2, 60), strict=True))]
    together = MEASURES["calibration"](items)
    assert [MEASURES[figure.measure](items) for figure in together] == [[figure] for figure in together]

"""Confidence against correctness: by hand, against slow references, and facts about all of them."""

import json
import math
from dataclasses import asdict
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.calibration import area_under_risk_coverage, calibration, coverage_curve

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)
TIED_ANSWERS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.8, 1.0]), st.booleans()), min_size=1)
ALL = [calibration, coverage_curve, area_under_risk_coverage]


def columns(answers):
    confidences, correct = zip(*answers, strict=True)
    return list(confidences), list(correct)


# Reliability, ECE and Brier ----------------------------------------------------------------------------------------


def test_a_small_case_by_hand():
    found = calibration([0.95, 0.85, 0.9, 0.1, 0.0], [True, True, False, False, False])
    assert asdict(found) == {
        "ece": pytest.approx((1 * 0.05 + 2 * abs(0.5 - 0.875) + 2 * 0.05) / 5),
        "brier": pytest.approx((0.05**2 + 0.15**2 + 0.9**2 + 0.1**2 + 0) / 5),
        "count": 5,
        "bins": (
            {"low": 0.0, "high": 0.1, "confidence": pytest.approx(0.05), "accuracy": 0.0, "count": 2},
            {"low": 0.8, "high": 0.9, "confidence": pytest.approx(0.875), "accuracy": 0.5, "count": 2},
            {"low": 0.9, "high": 1.0, "confidence": 0.95, "accuracy": 1.0, "count": 1},
        ),
    }
    assert json.loads(json.dumps(asdict(found)))["bins"][1]["count"] == 2


@pytest.mark.parametrize("tenths", range(1, 11))
def test_an_edge_belongs_to_the_bin_below_it(tenths):
    (only,) = calibration([tenths / 10], [True]).bins
    assert (only.low, only.high) == ((tenths - 1) / 10, tenths / 10)
    (above,) = calibration([math.nextafter(tenths / 10, 0)], [True]).bins
    assert above.high == tenths / 10


@given(ANSWERS)
def test_bins_agree_with_a_slow_reference(answers):
    confidences, correct = columns(answers)
    found = calibration(confidences, correct)
    gap = 0.0
    for index in range(10):
        inside = [(c, y) for c, y in answers if (index / 10 < c or (index == 0 and c == 0)) and c <= (index + 1) / 10]
        same = [one for one in found.bins if one.low == index / 10]
        assert len(same) == bool(inside)
        if inside:
            assert same[0].count == len(inside)
            assert same[0].confidence == pytest.approx(sum(c for c, _ in inside) / len(inside))
            assert same[0].accuracy == pytest.approx(sum(y for _, y in inside) / len(inside))
            gap += abs(sum(c - y for c, y in inside))
    assert found.ece == pytest.approx(gap / len(answers), abs=1e-12)
    assert found.brier == pytest.approx(sum((c - y) ** 2 for c, y in answers) / len(answers))
    assert sum(one.count for one in found.bins) == found.count == len(answers)


@pytest.mark.parametrize("num_right", range(11))
def test_a_perfectly_calibrated_model_has_no_calibration_error(num_right):
    found = calibration([num_right / 10] * 10, [True] * num_right + [False] * (10 - num_right))
    assert found.ece == pytest.approx(0, abs=1e-15)
    assert found.brier == pytest.approx(num_right / 10 * (1 - num_right / 10))


def test_answers_drawn_with_their_confidence_are_nearly_calibrated():
    rng = np.random.default_rng(0)
    confidences = rng.random(100_000)
    found = calibration(confidences, rng.random(100_000) < confidences)
    assert found.ece < 0.01
    assert found.brier == pytest.approx(1 / 6, abs=0.003)  # the mean of p (1 - p) over p from 0 to 1


def test_the_extremes():
    sure_and_wrong, sure_and_right = calibration([1.0] * 3, [False] * 3), calibration([1.0, 0.0], [True, False])
    unsure = calibration([0.5] * 4, [True, False, False, False])
    assert (sure_and_wrong.ece, sure_and_wrong.brier) == (1, 1)
    assert (sure_and_right.ece, sure_and_right.brier) == (0, 0)
    assert (unsure.ece, unsure.brier) == (0.25, 0.25)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=50))
def test_brier_is_reliability_minus_resolution_plus_uncertainty(answers):
    """Murphy 1973, which holds where all confidences of a bin are equal."""
    found = calibration([(index + 0.5) / 10 for index, _ in answers], [right for _, right in answers])
    base = sum(right for _, right in answers) / len(answers)
    reliability = sum(one.count * (one.confidence - one.accuracy) ** 2 for one in found.bins) / found.count
    resolution = sum(one.count * (one.accuracy - base) ** 2 for one in found.bins) / found.count
    assert found.brier == pytest.approx(reliability - resolution + base * (1 - base), abs=1e-12)


@given(ANSWERS)
def test_the_calibration_error_is_between_the_gap_of_all_answers_and_the_root_of_brier(answers):
    confidences, correct = columns(answers)
    found = calibration(confidences, correct)
    assert abs(np.mean(confidences) - np.mean(correct)) - 1e-12 <= found.ece <= math.sqrt(found.brier) + 1e-12


# Coverage ----------------------------------------------------------------------------------------------------------


def test_the_most_confident_come_first():
    confidences = [0.05, 0.95, 0.15, 0.85, 0.25, 0.75, 0.35, 0.65, 0.45, 0.55]
    correct = [False, True, False, True, False, True, False, False, False, True]
    curve = coverage_curve(confidences, correct)
    assert [asdict(point) for point in curve] == [
        {"coverage": coverage, "accuracy": pytest.approx(accuracy)}
        for coverage, accuracy in [
            (0.1, 1), (0.2, 1), (0.3, 1), (0.4, 3 / 4), (0.5, 4 / 5),
            (0.6, 4 / 6), (0.7, 4 / 7), (0.8, 4 / 8), (0.9, 4 / 9), (1.0, 4 / 10),
        ]
    ]  # fmt: skip
    risks = [0, 0, 0, 1 / 4, 1 / 5, 2 / 6, 3 / 7, 4 / 8, 5 / 9, 6 / 10]
    assert area_under_risk_coverage(confidences, correct) == pytest.approx(sum(risks) / 10)


def test_a_share_that_is_no_whole_number_of_answers_is_rounded_up():
    curve = coverage_curve([0.9, 0.5, 0.1], [True, False, False])
    assert [point.accuracy for point in curve] == pytest.approx([1] * 3 + [1 / 2] * 3 + [1 / 3] * 4)


def test_equal_confidences_count_with_their_mean():
    assert {point.accuracy for point in coverage_curve([0.5] * 4, [True, False, False, False])} == {0.25}
    assert area_under_risk_coverage([0.5] * 4, [True, False, False, False]) == 0.75


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.6]), st.booleans()), min_size=1, max_size=6))
def test_ties_are_the_mean_over_all_their_orders(answers):
    orders = [sorted(order, key=lambda answer: -answer[0]) for order in permutations(answers)]
    sizes = [math.ceil(Fraction(tenths, 10) * len(answers)) for tenths in range(1, 11)]
    expected = [np.mean([sum(y for _, y in order[:size]) / size for order in orders]) for size in sizes]
    assert [point.accuracy for point in coverage_curve(*columns(answers))] == pytest.approx(expected)
    risk = np.mean([
        np.mean([sum(not y for _, y in order[:size]) / size for size in range(1, len(order) + 1)]) for order in orders
    ])  # fmt: skip
    assert area_under_risk_coverage(*columns(answers)) == pytest.approx(risk, abs=1e-12)


@given(ANSWERS)
def test_with_nothing_withheld_the_accuracy_is_that_of_all_answers(answers):
    curve = coverage_curve(*columns(answers))
    assert curve[-1].accuracy == pytest.approx(np.mean([right for _, right in answers]))
    assert [point.coverage for point in curve] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@given(TIED_ANSWERS)
def test_only_the_order_of_confidences_matters_for_coverage(answers):
    confidences, correct = columns(answers)
    squeezed = [0.5 + confidence / 4 for confidence in confidences]
    assert coverage_curve(squeezed, correct) == coverage_curve(confidences, correct)
    assert area_under_risk_coverage(squeezed, correct) == area_under_risk_coverage(confidences, correct)


def test_confidence_in_the_right_answers_is_better_than_in_the_wrong_ones():
    good = area_under_risk_coverage([0.9, 0.8, 0.2, 0.1], [True, True, False, False])
    bad = area_under_risk_coverage([0.1, 0.2, 0.8, 0.9], [True, True, False, False])
    assert good == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert bad == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)


# All of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ALL)
@given(answers=st.one_of(ANSWERS, TIED_ANSWERS), random=st.randoms())
def test_the_order_of_the_answers_changes_nothing_at_all(measure, answers, random):
    shuffled = random.sample(answers, len(answers))
    assert measure(*columns(shuffled)) == measure(*columns(answers))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize(
    ("confidences", "correct", "says"),
    [
        ([], [], "no answers"),
        ([0.5], [True, False], "1 confidences do not go with 2 answers"),
        ([1.01], [True], "from 0 to 1"),
        ([-0.7], [True], "not its logarithm"),
        ([math.nan], [True], "from 0 to 1"),
        ([0.5], [0.5], "true or false"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, confidences, correct, says):
    with pytest.raises(ValueError, match=says):
        measure(confidences, correct)


@given(ANSWERS)
def test_every_value_is_a_plain_number(answers):
    confidences, correct = columns(answers)
    found = asdict(calibration(np.array(confidences), np.array(correct)))
    numbers = [value for one in found.pop("bins") for value in one.values()] + list(found.values())
    numbers += [value for point in coverage_curve(confidences, correct) for value in asdict(point).values()]
    assert {type(value) for value in numbers} == {float, int}

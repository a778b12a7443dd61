"""Intervals of shares, differences and means: against published tables, slow references and stated facts."""

import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.intervals import Z_95, accuracy, mean, paired_difference, rate, wilson

FLAGS = st.lists(st.booleans(), min_size=1, max_size=60)
PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def paired(a, b, c, d):
    """Two columns with a items right in both, b in the first, c in the second, d in none."""
    return [True] * (a + b) + [False] * (c + d), [True] * a + [False] * b + [True] * c + [False] * d


@pytest.mark.parametrize(
    ("num_successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_bounds(num_successes, count, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson(num_successes, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_both_wilson_bounds_are_just_not_refused_by_the_share(case):
    num_successes, count = case
    for bound in wilson(num_successes, count):
        assert (num_successes / count - bound) ** 2 == pytest.approx(Z_95**2 * bound * (1 - bound) / count, abs=1e-12)


@given(FLAGS)
def test_an_accuracy_is_a_share_within_an_interval_that_has_a_width(correct):
    found = accuracy(correct)
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert found.low < found.high
    assert found.accuracy == float(Fraction(sum(correct), len(correct)))
    assert found.count == len(correct)
    mirrored = accuracy([not flag for flag in correct])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high), abs=1e-12)


def test_none_and_all_right_are_exact_at_their_end_only():
    assert all((wilson(0, count)[0], wilson(count, count)[1]) == (0.0, 1.0) for count in range(1, 3000))
    assert accuracy([False] * 10).high == pytest.approx(0.2775, abs=5e-5)


def test_ten_times_the_items_make_a_narrower_interval():
    few, many = accuracy([True, False, True]), accuracy([True, False, True] * 10)
    assert few.low < many.low < many.accuracy == few.accuracy < many.high < few.high


def test_keys_are_those_of_the_measurements():
    assert list(asdict(accuracy([True]))) == ["accuracy", "low", "high", "count"]
    assert list(asdict(rate([True]))) == ["rate", "low", "high"]


def test_values_are_plain_numbers_whatever_they_were_made_from():
    found = accuracy(np.array([True, False]))
    assert [type(value) for value in asdict(found).values()] == [float, float, float, int]
    assert rate(np.array([True, False])).rate == 0.5


@pytest.mark.parametrize("measure", [accuracy, rate, lambda none: paired_difference(none, none)])
def test_no_items_are_refused(measure):
    with pytest.raises(ValueError, match="no items"):
        measure([])


@pytest.mark.parametrize("measure", [accuracy, rate])
@pytest.mark.parametrize("flags", [[0.5], [2], ["yes"], [None], [math.nan]])
def test_what_is_neither_true_nor_false_is_refused(measure, flags):
    with pytest.raises(ValueError, match="true or false"):
        measure(flags)


@pytest.mark.parametrize(("num_successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_no_share_is_refused(num_successes, count):
    with pytest.raises(ValueError, match="share"):
        wilson(num_successes, count)


# Differences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "difference", "low", "high"),
    [((1, 1, 7, 12), -0.2857, -0.5069, -0.0256), ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046)],
)
def test_a_paired_difference_gives_the_published_bounds(cells, difference, low, high):
    """Bentur 2009 (lungs) and Cavo 2012 (therapy) as in Fagerland, Lydersen and Laake 2017, chapter 8."""
    found = paired_difference(*paired(*cells))
    assert (found.difference, found.low, found.high) == pytest.approx((difference, low, high), abs=5e-5)
    assert found.count == sum(cells)


@given(PAIRS)
def test_exchanging_the_two_mirrors_the_interval(pairs):
    first, second = zip(*pairs, strict=True)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-12)
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.low < one.high


@given(PAIRS)
def test_a_paired_difference_is_the_difference_of_the_accuracies(pairs):
    first, second = zip(*pairs, strict=True)
    expected = accuracy(first).accuracy - accuracy(second).accuracy
    assert paired_difference(first, second).difference == pytest.approx(expected, abs=1e-12)


@given(PAIRS.filter(lambda pairs: {(True, False), (False, True)} <= set(pairs)))
def test_the_interval_is_that_of_newcombe_with_the_correlation_of_the_columns(pairs):
    columns = np.array(pairs, dtype=float).T
    count, (p, q) = len(pairs), columns.mean(axis=1)
    spread = columns.std(axis=1).prod()
    covariance = np.mean(columns[0] * columns[1]) - p * q
    f = (max(covariance - 1 / (2 * count), 0) if covariance > 0 else covariance) / spread
    (low_p, high_p), (low_q, high_q) = (wilson(int(column.sum()), count) for column in columns)
    down, up = np.array([p - low_p, high_q - q]), np.array([high_p - p, q - low_q])
    shape = np.array([[1, -f], [-f, 1]])
    found = paired_difference(*zip(*pairs, strict=True))
    assert found.low == pytest.approx(p - q - math.sqrt(down @ shape @ down), abs=1e-9)
    assert found.high == pytest.approx(p - q + math.sqrt(up @ shape @ up), abs=1e-9)


def test_answers_that_go_together_leave_less_doubt_than_answers_that_do_not():
    together, apart = paired_difference(*paired(50, 10, 0, 40)), paired_difference(*paired(30, 30, 20, 20))
    assert together.difference == apart.difference == pytest.approx(0.1)
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_two_that_never_disagree_still_leave_a_doubt():
    found = paired_difference(*paired(10, 0, 0, 10))
    assert found.difference == 0
    assert found.high == pytest.approx(-found.low)
    assert found.high > 0.05


def test_always_against_never_is_as_far_as_it_goes():
    found = paired_difference([True] * 20, [False] * 20)
    assert found.difference == found.high == 1
    assert 0.7 < found.low < 0.9


def test_the_paired_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    cells = rng.multinomial(40, [0.5, 0.25, 0.1, 0.15], size=2000)
    found = [paired_difference(*paired(*map(int, row))) for row in cells]
    assert 0.93 < np.mean([one.low <= 0.15 <= one.high for one in found]) < 0.98


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 answers cannot be paired with 1"):
        paired_difference([True, False], [True])


# Means -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "t"), [(2, 12.706), (3, 4.303), (4, 3.182), (11, 2.228), (31, 2.042), (101, 1.984), (1001, 1.962)]
)
def test_the_interval_of_a_mean_has_the_width_of_the_table_of_student(count, t):
    values = [0.0] * (count - 1) + [float(count)]  # mean 1, variance count
    assert mean(values).high - 1 == pytest.approx(t, abs=5e-4)
    assert 1 - mean(values).low == pytest.approx(t, abs=5e-4)


def test_a_mean_by_hand():
    found = mean([1, 2, 3, 4, 5])
    assert asdict(found) == pytest.approx({"mean": 3.0, "low": 1.03676, "high": 4.96324, "count": 5}, abs=1e-5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.randoms())
def test_the_order_of_values_changes_nothing(values, random):
    shuffled = random.sample(values, len(values))
    assert mean(shuffled) == mean(values)


def test_equal_values_have_no_width():
    assert asdict(mean([0.5] * 4)) == {"mean": 0.5, "low": 0.5, "high": 0.5, "count": 4}


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values):
    with pytest.raises(ValueError, match=f"not {len(values)}"):
        mean(values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        mean([1.0, value])

"""Exact tests and intervals of counts: against scipy, hand values and slow references."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betainc

from heed.evaluate.exact import (
    binomial_at_most,
    clopper_pearson,
    holm,
    incomplete_beta,
    mcnemar,
    sign_flip,
    student_beyond,
    student_reach,
)

COUNTS = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.integers(0, 700), st.integers(0, 700))
def test_mcnemars_p_is_scipys_binomial_test(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (1, 9, 22 / 1024), (7, 7, 1.0)]
)
def test_mcnemars_p_by_hand(b, c, p):
    assert mcnemar(b, c) == mcnemar(c, b) == p


def test_mcnemars_p_of_ten_thousand_items_is_quick_and_still_exact():
    assert mcnemar(5200, 4800) == pytest.approx(stats.binomtest(5200, 10_000, 0.5).pvalue, abs=1e-12)
    assert mcnemar(1000, 0) == 2.0**-999


@given(COUNTS)
def test_clopper_and_pearsons_bounds_are_scipys(case):
    k, n = case
    expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clopper_and_pearsons_bounds_of_many_items_are_scipys():
    for k, n in [(1, 20_000), (10_000, 20_000), (19_999, 20_000), (0, 10**6), (10**6, 10**6)]:
        expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_and_pearsons_bounds_are_the_published_ones(k, n, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 5."""
    assert clopper_pearson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_no_success_in_n_has_the_bound_that_is_known_in_closed_form():
    assert clopper_pearson(0, 29) == (0.0, pytest.approx(1 - 0.025 ** (1 / 29), abs=1e-14))
    assert clopper_pearson(29, 29, confidence=0.9) == (pytest.approx(0.05 ** (1 / 29), abs=1e-14), 1.0)


@pytest.mark.parametrize("case", [(1, 0), (-1, 5), (6, 5), (math.nan, 5), (1, math.nan)])
def test_what_is_no_share_has_no_interval(case):
    with pytest.raises(ValueError, match="no interval"):
        clopper_pearson(*case)


@pytest.mark.parametrize("n", [5, 10, 20, 50])
def test_the_interval_of_few_items_covers_every_share_at_least_as_often_as_it_says(n):
    bounds = [clopper_pearson(k, n) for k in range(n + 1)]
    for p in np.linspace(0.001, 0.999, 333):
        covers = [
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if bounds[k][0] <= p <= bounds[k][1]
        ]
        assert math.fsum(covers) >= 0.95 - 1e-12


@given(st.floats(0, 1, allow_subnormal=False), st.floats(0.01, 500), st.floats(0.01, 500))
def test_the_incomplete_beta_function_is_scipys(x, a, b):
    assert incomplete_beta(x, a, b) == pytest.approx(betainc(a, b, x), abs=1e-12)


@given(st.integers(-1, 60), st.integers(1, 50), st.fractions(0, 1, max_denominator=97))
def test_the_binomial_distribution_is_the_sum_of_its_terms(k, n, p):
    total = sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1)), Fraction(0))
    assert binomial_at_most(k, n, float(p)) == pytest.approx(float(total), abs=1e-13)


@given(st.floats(-40, 40), st.integers(1, 3000))
def test_students_p_is_scipys_far_out_too(t, degrees):
    expected = 2 * stats.t.sf(abs(t), degrees)
    assert student_beyond(t, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.floats(0.001, 0.9), st.integers(1, 500))
def test_students_reach_is_scipys_quantile(probability, degrees):
    expected = stats.t.isf(probability / 2, degrees)
    assert student_reach(probability, degrees) == pytest.approx(expected, rel=1e-9)


# Flipped signs ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_flipped_signs_are_counted_as_if_all_were_tried(differences):
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) >= observed
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert sign_flip(differences) == pytest.approx(sum(flips) / len(flips), abs=1e-14)


@given(st.lists(st.integers(-1, 1), max_size=200))
def test_items_that_stand_alone_give_mcnemars_test(differences):
    assert sign_flip(differences) == mcnemar(differences.count(1), differences.count(-1))


def test_five_clusters_can_show_nothing_however_large_they_are():
    assert sign_flip([100, 80, 70, 60, 90]) == 2 / 2**5
    assert sign_flip([100, 80, 70, 60, 90, 50]) == 2 / 2**6


# Holm ---------------------------------------------------------------------------------------------------------------


def test_holms_p_values_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.2))
def test_holm_calls_what_its_step_down_procedure_calls(p_values, alpha):
    called = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if (len(p_values) - rank) * p_values[index] > alpha:
            break
        called.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == called


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, math.nan])

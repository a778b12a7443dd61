"""Two models on the same items: hand values, slow references, and simulated models that are alike."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.comparison import (
    compare_means,
    compare_shares,
    compare_statistic,
    smallest_visible,
    with_holm,
)
from heed.evaluate.exact import mcnemar, student_beyond
from heed.evaluate.intervals import paired_difference

ANSWERS = st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=4), min_size=1)


def columns(clusters):
    return [[x for x, _ in each] for each in clusters], [[y for _, y in each] for each in clusters]


def test_items_that_stand_alone_have_newcombes_interval_and_mcnemars_p():
    x, y = [1] * 30 + [0] * 10, [1] * 22 + [0] * 14 + [1] * 4
    found = compare_shares("acc", [[value] for value in x], [[value] for value in y])
    expected = paired_difference([bool(value) for value in x], [bool(value) for value in y])
    assert (found.difference, found.low, found.high) == (expected.difference, expected.low, expected.high)
    assert (found.only_first_right, found.only_second_right) == (8, 4)
    assert found.p == mcnemar(8, 4)
    assert (found.count, found.num_clusters) == (40, 40)


@given(ANSWERS)
def test_exchanging_the_models_turns_the_difference_round(clusters):
    first, second = columns(clusters)
    one, other = compare_shares("acc", first, second), compare_shares("acc", second, first)
    assert (-other.difference, -other.high, -other.low) == pytest.approx((one.difference, one.low, one.high))
    assert (other.only_second_right, other.only_first_right) == (one.only_first_right, one.only_second_right)
    assert other.p == pytest.approx(one.p)
    assert other.smallest_visible == pytest.approx(one.smallest_visible)


@given(ANSWERS)
def test_a_difference_lies_within_its_interval_and_that_within_minus_1_and_1(clusters):
    found = compare_shares("acc", *columns(clusters))
    n = sum(map(len, clusters))
    assert found.difference == pytest.approx((found.only_first_right - found.only_second_right) / n)
    assert -1 - 1e-12 <= found.low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= found.high <= 1 + 1e-12
    assert found.low < found.high


def test_writing_every_item_down_ten_times_in_its_cluster_tells_no_more():
    x, y = [1] * 30 + [0] * 10, [1] * 22 + [0] * 14 + [1] * 4
    once = compare_shares("acc", [[value] for value in x], [[value] for value in y])
    often = compare_shares("acc", [[value] * 10 for value in x], [[value] * 10 for value in y])
    assert often.difference == once.difference
    assert often.p == pytest.approx(once.p)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)


def test_models_that_never_differ_leave_a_doubt_as_large_as_the_test_could_not_have_seen():
    found = compare_shares("acc", [[1]] * 100, [[1]] * 100)
    assert (found.difference, found.p) == (0, 1)
    assert found.high == -found.low > 0.03
    d = found.smallest_visible  # six of a hundred items, in 80% of cases
    assert sum(math.comb(100, k) * d**k * (1 - d) ** (100 - k) for k in range(6)) == pytest.approx(0.2, abs=1e-9)
    assert 0.07 < d < 0.09
    one_apart = compare_shares("acc", [[1]] * 100, [[0]] + [[1]] * 99)
    assert one_apart.smallest_visible == d  # and not 2.8 standard errors of 0.01


def test_five_items_could_have_seen_nothing():
    assert compare_shares("acc", [[1]] * 5, [[0]] * 5).smallest_visible is None
    assert compare_shares("acc", [[1] * 50] * 5, [[0] * 50] * 5).p == 2 / 32


def test_the_smallest_visible_difference_is_found_in_about_80_of_100_simulations():
    rng = np.random.default_rng(0)
    sd, num_clusters = 0.3, 60
    d = smallest_visible(sd / math.sqrt(num_clusters), num_clusters - 1)
    drawn = rng.normal(d, sd, size=(4000, num_clusters))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(num_clusters))
    found = np.mean([student_beyond(value, num_clusters - 1) <= 0.05 for value in t])
    assert found == pytest.approx(0.8, abs=0.02)


def test_real_values_are_compared_by_the_linearised_paired_difference():
    first, second = [[0.5, 1.0, 0.25], [2.0], [0.0, 0.5]], [[0.25, 0.5, 0.25], [1.0], [0.25, 0.5]]
    d = [[0.25, 0.5, 0.0], [1.0], [-0.25, 0.0]]
    middle = 1.5 / 6
    variance = 3 / 2 * sum((sum(each) - middle * len(each)) ** 2 for each in d) / 36
    found = compare_means("f1", first, second)
    assert found.difference == middle
    assert found.high - middle == pytest.approx(4.302652729911275 * math.sqrt(variance))
    assert found.p == pytest.approx(student_beyond(middle / math.sqrt(variance), 2))
    assert found.only_first_right is None


def test_a_model_beside_itself_does_not_differ():
    found = compare_means("f1", [[0.5], [0.25, 0.1]], [[0.5], [0.25, 0.1]])
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert "same value on every item" in found.why


def test_what_has_no_spread_has_no_interval_and_says_so():
    for first, second in [([[0.5, 0.7]], [[0.1, 0.2]]), ([[0.5], [0.75]], [[0.25], [0.5]])]:
        found = compare_means("f1", first, second)
        assert (found.low, found.high, found.p) == (None, None, None)
        assert found.difference > 0
        assert "spread" in found.why or "differ by the same" in found.why


def test_the_jackknife_of_a_mean_is_the_linearised_variance():
    rng = np.random.default_rng(1)
    d = rng.normal(size=(20, 3)) + rng.normal(size=(20, 1))
    first, second = [list(each) for each in d], [[0.0] * 3] * 20
    clusters = [[3 * c, 3 * c + 1, 3 * c + 2] for c in range(20)]
    expected = compare_means("x", first, second)
    found = compare_statistic("x", lambda indices: float(d.ravel()[list(indices)].mean()), clusters)
    assert (found.difference, found.low, found.high, found.p, found.smallest_visible) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p, expected.smallest_visible)
    )


def test_the_jackknife_of_clusters_that_differ_in_size_and_of_many_of_them_stays_near_the_linearised_variance():
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 9, size=400)
    d = [rng.normal(size=size) + rng.normal() for size in sizes]
    flat, starts = np.concatenate(d), np.cumsum([0, *sizes])
    clusters = [list(range(starts[c], starts[c + 1])) for c in range(400)]
    expected = compare_means("x", [list(each) for each in d], [[0.0] * len(each) for each in d])
    found = compare_statistic("x", lambda indices: float(flat[list(indices)].mean()), clusters)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.25)


def test_a_measure_that_is_undefined_without_some_items_has_a_value_and_no_interval():
    found = compare_statistic("ratio", lambda indices: 0.5 if 0 in indices else None, [[0], [1], [2]])
    assert (found.difference, found.low, found.p) == (0.5, None, None)
    assert "undefined" in found.why
    assert compare_statistic("ratio", lambda indices: None, [[0], [1]]).difference is None


def test_holm_counts_the_tests_that_were_made_and_no_others():
    rows = [
        compare_shares("acc", [[1]] * 9 + [[0]], [[0]] * 9 + [[1]]),
        compare_means("f1", [[0.5]], [[0.25]]),
        compare_shares("acc", [[1]] * 6, [[0]] * 6),
    ]
    p_holm = [row.p_holm for row in with_holm(rows)]
    assert p_holm == [2 * 22 / 1024, None, 2 * 22 / 1024]


# Models that are alike -----------------------------------------------------------------------------------------------


def alike(rng, num_clusters, size):
    """Two models that are right equally often, each better than the other in half of the clusters."""
    ability = rng.normal(0.4, 1.0, size=(num_clusters, 1))
    answers = []
    for _ in range(2):
        logit = ability + rng.normal(0, 1.2, size=(num_clusters, 1)) + rng.normal(0, 0.5, size=(num_clusters, size))
        answers.append((rng.random((num_clusters, size)) < 1 / (1 + np.exp(-logit))).astype(int))
    sizes = rng.integers(1, size + 1, size=num_clusters)
    return tuple([[*each[:n]] for each, n in zip(one.tolist(), sizes, strict=True)] for one in answers)


@pytest.mark.parametrize("num_clusters", [30, 100])
def test_of_600_comparisons_of_models_that_are_alike_one_in_twenty_is_called_different(num_clusters):
    rng = np.random.default_rng(num_clusters)
    by_interval = by_p = by_student = naive_interval = naive_p = 0
    for _ in range(600):
        first, second = alike(rng, num_clusters, 8)
        found = compare_shares("acc", first, second)
        by_interval += not found.low <= 0 <= found.high
        by_p += found.p <= 0.05
        by_student += compare_means("acc", first, second).p <= 0.05
        naive = compare_shares("acc", *([[value] for each in column for value in each] for column in (first, second)))
        naive_interval += not naive.low <= 0 <= naive.high
        naive_p += naive.p <= 0.05
    assert 0.03 <= by_interval / 600 <= 0.07
    assert (0.03 if num_clusters == 100 else 0.01) <= by_p / 600 <= 0.07  # exact tests of few clusters are below 5%
    assert 0.03 <= by_student / 600 <= 0.07
    assert naive_interval / 600 > 0.12
    assert naive_p / 600 > 0.10


@pytest.mark.parametrize(("num_clusters", "size"), [(8, 1), (20, 1), (10, 4), (15, 8), (40, 3)])
def test_the_interval_of_a_difference_covers_the_truth_for_few_items_and_clusters(num_clusters, size):
    rng = np.random.default_rng(7)

    def drawn(num_clusters):
        ability = rng.normal(1.0, 1.0, size=(num_clusters, 1))
        own = rng.normal(0, 0.7, size=(2, num_clusters, 1))
        logit = np.stack([ability + own[0], ability + own[1] - 0.8]) + np.zeros((2, num_clusters, size))
        return (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(int)

    means = drawn(200_000).mean(axis=(1, 2))
    truth = means[0] - means[1]
    covered = 0
    for _ in range(1500):
        first, second = drawn(num_clusters).tolist()
        found = compare_shares("acc", first, second)
        covered += found.low <= truth <= found.high
    assert covered / 1500 > 0.935

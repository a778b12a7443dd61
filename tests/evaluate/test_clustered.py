"""Intervals of what is measured in clusters: coverage by simulation, slow references and stated facts."""

import math

import numpy as np
import pytest

from heed.evaluate.clustered import (
    clustered_accuracy,
    clustered_correlation,
    clustered_mean,
    clustered_ratio,
    clustered_share,
)
from heed.evaluate.exact import clopper_pearson
from heed.evaluate.intervals import accuracy, mean
from heed.evaluate.ranked import held_out_comparisons, length_correlation

CASES = 1500


def rankings(rng, num_prompts, num_answers, noise=0.8):
    """Scores that fall, and the rewards of a model that knows some prompts well and others hardly."""
    gold = -np.sort(-rng.normal(size=(num_prompts, num_answers)), axis=1)
    sureness = rng.choice([0.5, 2.0], size=(num_prompts, 1))
    return gold, gold + noise * sureness * rng.normal(size=gold.shape)


def right_of(rng, num_prompts, num_answers):
    scores, rewards = rankings(rng, num_prompts, num_answers)
    return [margin > 0 for margin in held_out_comparisons(list(scores), list(rewards))]


@pytest.mark.parametrize(("num_prompts", "num_answers"), [(100, 4), (25, 4), (60, 6)])
def test_the_interval_of_a_reward_models_accuracy_covers_the_truth_as_often_as_it_says(num_prompts, num_answers):
    rng = np.random.default_rng(0)
    truth = np.concatenate(right_of(rng, 40_000, num_answers)).mean()
    clustered = independent = 0
    for _ in range(CASES):
        right = right_of(rng, num_prompts, num_answers)
        found = clustered_accuracy(right)
        clustered += found.low <= truth <= found.high
        taken_apart = accuracy(np.concatenate(right).tolist())
        independent += taken_apart.low <= truth <= taken_apart.high
    # Three standard errors of 95% of 1,500 are 1.7%.
    assert 0.933 < clustered / CASES < 0.968
    assert independent / CASES < 0.92


def test_the_interval_of_a_correlation_covers_the_truth_as_often_as_it_says():
    def drawn(rng, num_prompts):
        lengths = rng.gamma(4.0, 10.0, size=(num_prompts, 4))
        scale = rng.choice([0.2, 3.0], size=(num_prompts, 1))
        return list(lengths), list(0.02 * lengths * scale + scale * rng.normal(size=lengths.shape))

    rng = np.random.default_rng(1)
    lengths, rewards = drawn(rng, 200_000)
    truth = length_correlation(rewards, lengths).mean
    covered = 0
    for _ in range(CASES):
        lengths, rewards = drawn(rng, 150)
        found = length_correlation(rewards, lengths)
        covered += found.low <= truth <= found.high
    assert 0.93 < covered / CASES < 0.968


@pytest.mark.parametrize(("num_clusters", "size"), [(5, 1), (12, 1), (10, 4), (10, 10), (30, 4)])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_interval_of_a_share_covers_the_truth_for_few_items_and_few_clusters(num_clusters, size, share):
    """Items of a cluster agree more often than those of two: each cluster has a share of its own around the truth."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(CASES):
        own = rng.beta(4 * share, 4 * (1 - share), size=num_clusters)
        found = clustered_share((rng.random((num_clusters, size)) < own[:, None]).tolist())
        covered += found.low <= share <= found.high
    assert covered / CASES > 0.935


def test_one_answer_in_every_cluster_is_clopper_and_pearsons_interval():
    found = clustered_share([[True]] * 17 + [[False]] * 5)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(17, 22), abs=1e-12)
    assert clustered_share([[True]] * 9).low == clopper_pearson(9, 9)[0]


def test_a_ratio_of_sums_is_the_mean_of_the_units_in_clusters():
    values = [np.array([1.0, 0.0, 0.5]), np.array([2.0]), np.array([0.25, 0.75])]
    expected = clustered_mean(values)
    found = clustered_ratio([each.sum() for each in values], [len(each) for each in values])
    assert (found.mean, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert (found.count, expected.count) == (3, 6)


def test_one_answer_in_every_cluster_is_wilsons_interval():
    flags = [True] * 17 + [False] * 5
    expected, found = accuracy(flags), clustered_accuracy([[flag] for flag in flags])
    assert (found.accuracy, found.count) == (expected.accuracy, expected.count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_value_in_every_cluster_is_students_interval():
    values = [0.3, -1.5, 2.0, 0.25]
    expected, found = mean(values), clustered_mean([[value] for value in values])
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_writing_every_answer_down_twice_makes_no_interval_narrower():
    right = [[True, True, True], [True], [False, False], [True, True]] * 6
    once, twice = clustered_accuracy(right), clustered_accuracy([each + each for each in right])
    assert twice.accuracy == once.accuracy
    assert twice.high - twice.low >= (once.high - once.low) * 0.97
    assert twice.count == 2 * once.count


def test_a_clusters_variance_is_the_linearised_ratios():
    values = [np.array([1.0, 0.0, 0.5]), np.array([2.0]), np.array([0.25, 0.75])]
    total, count = 4.5, 6
    p = total / count
    variance = 3 / 2 * sum((each.sum() - p * len(each)) ** 2 for each in values) / count**2
    found = clustered_mean(values)
    assert found.mean == p
    assert found.high - p == pytest.approx(4.302652729911275 * math.sqrt(variance))


def test_where_all_are_right_a_cluster_counts_as_one_answer():
    found = clustered_accuracy([[True] * 6] * 10)
    assert (found.low, found.high) == (pytest.approx(accuracy([True] * 10).low), 1.0)
    assert found.count == 60


def test_a_single_prompt_is_a_single_item_however_many_comparisons_it_has():
    assert clustered_accuracy([[True, False, True]]).low < 0.2
    with pytest.raises(ValueError, match="at least 2 clusters"):
        clustered_mean([[1.0, 2.0]])


def test_a_guess_between_two_counts_half_and_what_is_no_answer_is_refused():
    assert clustered_accuracy([[0.5, 1.0], [0.0, 0.5]]).accuracy == 0.5
    with pytest.raises(ValueError, match="right"):
        clustered_accuracy([[2.0]])
    with pytest.raises(ValueError, match="no items"):
        clustered_accuracy([[], []])


def test_a_correlation_of_what_does_not_differ_is_not_known():
    found = clustered_correlation([np.array([1.0, 1.0])], [np.array([1.0, 2.0])])
    assert (found.mean, found.low, found.high) == (0.0, -1.0, 1.0)


def test_a_correlation_turned_round_has_its_interval_turned_round():
    rng = np.random.default_rng(2)
    x, y = [rng.normal(size=4) for _ in range(30)], [rng.normal(size=4) for _ in range(30)]
    one, other = clustered_correlation(x, y), clustered_correlation(x, [-each for each in y])
    assert (-other.mean, -other.high, -other.low) == pytest.approx((one.mean, one.low, one.high))
    assert -1 < one.low < one.mean < one.high < 1

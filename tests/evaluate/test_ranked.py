"""How a reward model ranks: comparisons, correlation with length and bins of length, against values by hand."""

import numpy as np
import pytest

from heed.evaluate.ranked import NUM_LENGTH_BINS, held_out_comparisons, length_bins, length_correlation


def arrays(*rows):
    return [np.array(row, dtype=np.float64) for row in rows]


def test_every_strict_pair_is_compared_once_and_ties_are_left_out():
    scores = arrays([2, 1, 1, 0], [1, 0])
    rewards = arrays([5, 3, 4, 1], [-1, 2])
    assert [each.tolist() for each in held_out_comparisons(scores, rewards)] == [[2, 1, 4, 2, 3], [-3]]


def test_nothing_is_compared_across_prompts():
    found = held_out_comparisons(arrays([1, 0], [9, 8]), arrays([0.5, 0.25], [-7, -8]))
    assert [each.tolist() for each in found] == [[0.25], [1.0]]


def test_a_reward_model_that_says_the_negative_is_wrong_everywhere():
    rng = np.random.default_rng(0)
    scores = [np.sort(rng.normal(size=k))[::-1] for k in (2, 3, 5)]
    assert all((margin < 0).all() for margin in held_out_comparisons(scores, [-each for each in scores]))
    assert [len(each) for each in held_out_comparisons(scores, scores)] == [1, 3, 10]


def test_the_correlation_is_pearsons_of_differences_from_each_prompts_mean():
    rewards, lengths = arrays([1, 3], [10, 11, 15]), arrays([4, 8], [100, 103, 94])
    x = [-2, 2, 1, 4, -5]  # lengths less 6, 99
    y = [-1, 1, -2, -1, 3]  # rewards less 2, 12
    expected = sum(a * b for a, b in zip(x, y, strict=True)) / (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5
    assert length_correlation(rewards, lengths).mean == pytest.approx(expected)


def test_prompts_that_want_long_answers_do_not_count():
    # Within each prompt the longer answer is worse; the prompt with long answers has the larger rewards.
    rewards, lengths = arrays([2, 1], [102, 101]), arrays([5, 6], [500, 501])
    assert length_correlation(rewards, lengths).mean == pytest.approx(-1)
    assert np.corrcoef(np.concatenate(rewards), np.concatenate(lengths))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("rewards", "lengths"), [([1, 1], [3, 9]), ([1, 2], [7, 7]), ([1], [3])], ids=["rewards", "lengths", "one answer"]
)
def test_what_does_not_differ_has_no_correlation(rewards, lengths):
    assert length_correlation(arrays(rewards), arrays(lengths)).mean == 0


def test_answers_of_one_length_are_in_one_bin():
    [only] = length_bins(arrays([1, 2], [6]), arrays([7, 7], [7]))
    assert (only.length, only.reward, only.count) == (7, 3, 3)


def test_bins_have_about_as_many_answers_each_shortest_first():
    rng = np.random.default_rng(1)
    length = rng.permutation(1000).astype(np.float64)
    bins = length_bins([3 * length[:400], 3 * length[400:]], [length[:400], length[400:]])
    assert len(bins) == NUM_LENGTH_BINS
    assert all(99 <= each.count <= 101 for each in bins)
    assert sum(each.count for each in bins) == 1000
    means = [each.length for each in bins]
    assert means == sorted(means)
    assert all(each.reward == pytest.approx(3 * each.length) for each in bins)


def test_few_answers_make_few_bins_and_all_are_counted():
    bins = length_bins(arrays([1, 2, 3]), arrays([10, 20, 30]))
    assert [(each.length, each.reward, each.count) for each in bins] == [(10, 1, 1), (20, 2, 1), (30, 3, 1)]

"""Credit of tokens and answers against hand arithmetic, the definitions written out slowly, and stated facts."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.objectives.advantage import (
    advantages_and_returns,
    centred_group_advantages,
    explained_variance,
    generalised_advantages,
    group_advantages,
    group_deviations,
    leave_one_out_advantages,
    mean_and_variance,
    moments,
    rewards_per_token,
    score_less_missing_stop,
    whiten,
)
from heed.objectives.kl import kl_per_sequence

LENGTHS = [3, 1, 7, 2, 12]


def ids(lengths):
    return torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)], dtype=torch.int64)


def random_tokens(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def split(flat, lengths):
    return [chunk.tolist() for chunk in flat.split(lengths)]


def slow_advantages(reward, value, gamma, lam):
    """Of one sequence, from the definition: every later temporal difference, decayed by its distance; O(T^2)."""
    length = len(reward)
    td = [reward[t] + gamma * (value[t + 1] if t + 1 < length else 0) - value[t] for t in range(length)]
    return [math.fsum((gamma * lam) ** (k - t) * td[k] for k in range(t, length)) for t in range(length)]


def flat_slow_advantages(reward, value, lengths, gamma, lams):
    rows = zip(split(reward, lengths), split(value, lengths), lams, strict=True)
    return [a for r, v, lam in rows for a in slow_advantages(r, v, gamma, lam)]


def test_a_score_is_earned_at_the_last_token_and_the_pull_at_every_one():
    reward = rewards_per_token(
        torch.tensor([10.0, -2.0]),
        torch.tensor([-1.0, -2.0, -3.0]),
        torch.tensor([-2.0, -2.0, -1.0]),
        torch.tensor([0, 0, 1]),
        beta=0.5,
    )
    assert reward.tolist() == [-0.5, 10.0, -1.0]


def test_rewards_of_an_answer_sum_to_score_less_the_pull():
    sequence, score = ids(LENGTHS), random_tokens(5)
    logp, reference_logp = -random_tokens(25, 1).abs(), -random_tokens(25, 2).abs()
    reward = rewards_per_token(score, logp.requires_grad_(), reference_logp, sequence, beta=0.3)
    sums = [math.fsum(chunk) for chunk in split(reward, LENGTHS)]
    expected = score - 0.3 * kl_per_sequence(logp, reference_logp, sequence, 5)
    assert sums == pytest.approx(expected.tolist(), rel=1e-12)
    assert not reward.requires_grad


def test_at_the_reference_only_last_tokens_earn():
    logp = -random_tokens(25).abs()
    reward = rewards_per_token(torch.ones(5, dtype=torch.float64), logp, logp, ids(LENGTHS), beta=0.3)
    assert reward.nonzero()[:, 0].tolist() == [2, 3, 10, 12, 24]


def test_a_hopeless_token_does_not_make_the_reward_infinite():
    reward = rewards_per_token(torch.zeros(1), torch.tensor([-1e4]), torch.zeros(1), torch.tensor([0]), beta=0.1)
    assert reward.tolist() == [2.0]


def test_an_answer_without_tokens_cannot_be_credited():
    with pytest.raises(ValueError, match="needs a trained token"):
        rewards_per_token(torch.zeros(2), torch.zeros(1), torch.zeros(1), torch.tensor([0]), beta=0.1)


def test_hand_worked_advantages():
    # td = [0 + 0.5*4 - 2, 1 + 0 - 4] = [0, -3]; A = [0 + 0.5*0.5*-3, -3]
    advantage = generalised_advantages(
        torch.tensor([0.0, 1.0]), torch.tensor([2.0, 4.0]), torch.tensor([0, 0]), num_sequences=1, gamma=0.5, lam=0.5
    )
    assert advantage.tolist() == [-0.75, -3.0]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0), (0.0, 0.5)])
def test_advantages_equal_the_definition(gamma, lam):
    reward, value = random_tokens(25), random_tokens(25, 1)
    actual = generalised_advantages(reward, value, ids(LENGTHS), num_sequences=5, gamma=gamma, lam=lam)
    assert actual.tolist() == pytest.approx(flat_slow_advantages(reward, value, LENGTHS, gamma, [lam] * 5), rel=1e-11)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_advantages_equal_the_definition_whatever_the_lengths(lengths, gamma, lam, seed):
    reward, value = random_tokens(sum(lengths), seed), random_tokens(sum(lengths), seed + 100)
    actual = generalised_advantages(reward, value, ids(lengths), num_sequences=len(lengths), gamma=gamma, lam=lam)
    expected = flat_slow_advantages(reward, value, lengths, gamma, [lam] * len(lengths))
    assert actual.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_lam_1_is_the_rewards_to_come_less_the_value():
    reward, value = random_tokens(25), random_tokens(25, 1)
    advantage = generalised_advantages(reward, value, ids(LENGTHS), num_sequences=5, gamma=1.0, lam=1.0)
    to_come = [math.fsum(chunk[t:]) for chunk in split(reward, LENGTHS) for t in range(len(chunk))]
    assert (advantage + value).tolist() == pytest.approx(to_come, rel=1e-11)


def test_lam_0_is_one_step():
    advantage = generalised_advantages(
        torch.tensor([1.0, 2.0, 5.0]),
        torch.tensor([10.0, 20.0, 7.0]),
        torch.tensor([0, 0, 1]),
        num_sequences=2,
        gamma=1.0,
        lam=0.0,
    )
    assert advantage.tolist() == [1 + 20 - 10, 2 - 20, 5 - 7]


def test_each_sequence_can_have_its_own_lam():
    reward, value, lams = random_tokens(25), random_tokens(25, 1), [0.1, 0.5, 0.9, 1.0, 0.0]
    actual = generalised_advantages(
        reward, value, ids(LENGTHS), num_sequences=5, gamma=1.0, lam=torch.tensor(lams, dtype=torch.float64)
    )
    assert actual.tolist() == pytest.approx(flat_slow_advantages(reward, value, LENGTHS, 1.0, lams), rel=1e-11)


def test_returns_have_their_own_lam_and_carry_no_gradient():
    reward, value = random_tokens(25), random_tokens(25, 1).requires_grad_()
    advantage, returns = advantages_and_returns(
        reward, value, ids(LENGTHS), num_sequences=5, gamma=0.9, lam=0.8, lam_value=0.3
    )
    plain = value.detach()
    slow = flat_slow_advantages(reward, plain, LENGTHS, 0.9, [0.3] * 5)
    assert advantage.tolist() == pytest.approx(flat_slow_advantages(reward, plain, LENGTHS, 0.9, [0.8] * 5), rel=1e-11)
    assert returns.tolist() == pytest.approx([a + v for a, v in zip(slow, plain.tolist(), strict=True)], rel=1e-11)
    assert not advantage.requires_grad
    assert not returns.requires_grad


def test_whitened_advantages_have_mean_0_and_variance_1_and_their_order():
    x = 3 * random_tokens(40) + 7
    whitened = whiten(x, moments(x), shift_mean=True)
    assert statistics.fmean(whitened.tolist()) == pytest.approx(0, abs=1e-12)
    assert statistics.pstdev(whitened.tolist()) == pytest.approx(1, rel=1e-8)
    assert torch.equal(whitened.argsort(), x.argsort())


def test_whitening_without_a_shift_leaves_the_mean_where_it_was():
    x = 3 * random_tokens(40) + 7
    whitened = whiten(x, moments(x), shift_mean=False)
    assert statistics.fmean(whitened.tolist()) == pytest.approx(statistics.fmean(x.tolist()), rel=1e-12)
    assert statistics.pstdev(whitened.tolist()) == pytest.approx(1, rel=1e-8)


def test_the_variance_is_the_biased_one():
    x = torch.tensor([0.0, 2.0])
    assert mean_and_variance(moments(x)) == (1.0, 1.0)
    assert whiten(x, moments(x), shift_mean=True).tolist() == pytest.approx([-1, 1])


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_moments_of_parts_add_up_to_those_of_the_whole(sizes):
    x = random_tokens(sum(sizes)) * 2 + 1
    total = torch.stack([moments(part) for part in x.split(sizes)]).sum(0)
    torch.testing.assert_close(total, moments(x), rtol=1e-12, atol=1e-12)
    whole = whiten(x, moments(x), shift_mean=True)
    assert torch.cat([whiten(part, total, shift_mean=True) for part in x.split(sizes)]).tolist() == pytest.approx(
        whole.tolist(), rel=1e-9, abs=1e-6
    )


@pytest.mark.parametrize("x", [[], [0.1], [1e6], [0.1] * 3])
def test_whitening_one_token_or_equal_ones_is_finite(x):
    x = torch.tensor(x)
    assert whiten(x, moments(x), shift_mean=True).tolist() == pytest.approx([0] * len(x), abs=1e-6)
    assert whiten(x, moments(x), shift_mean=False).tolist() == pytest.approx(x.tolist())


def test_whitening_keeps_the_dtype_and_its_statistics_hold_no_gradient():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    assert whiten(x, moments(x), shift_mean=True).dtype == torch.float32
    assert not moments(x).requires_grad


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns + 5, returns) == 1
    assert explained_variance(torch.full((4,), 9.0), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(torch.tensor([1.0, 2.0, 3.0, 3.0]), returns) == pytest.approx(1 - 0.1875 / 1.25)
    assert explained_variance(returns, torch.full((4,), 0.1)) == 0
    assert explained_variance(returns[:0], returns[:0]) == 0


def test_an_answer_that_never_stopped_pays():
    score, stopped = torch.tensor([3.0, 3.0, -5.0]), torch.tensor([True, False, False])
    assert score_less_missing_stop(score, stopped, penalty=1.0).tolist() == [3, 2, -6]


GROUP_SIZES = [4, 2, 6, 3]


def random_scores():
    return random_tokens(15, 7), ids(GROUP_SIZES)


def test_group_advantages_match_the_definition():
    score, group = random_scores()
    expected = []
    for chunk in split(score, GROUP_SIZES):
        mean, std = statistics.fmean(chunk), statistics.stdev(chunk)
        expected += [(x - mean) / (std + 1e-4) for x in chunk]
    assert group_advantages(score, group, 4).tolist() == pytest.approx(expected, rel=1e-11)


def test_group_advantages_do_not_depend_on_the_size_of_scores():
    score, group = random_scores()
    torch.testing.assert_close(
        group_advantages(1000 * score, group, 4), group_advantages(score, group, 4), rtol=1e-3, atol=0
    )


def test_centred_group_advantages_are_only_shifted():
    score, group = random_scores()
    expected = [x - statistics.fmean(chunk) for chunk in split(score, GROUP_SIZES) for x in chunk]
    assert centred_group_advantages(score, group, 4).tolist() == pytest.approx(expected, rel=1e-10)


def test_leave_one_out_compares_with_the_others():
    score, group = random_scores()
    expected = []
    for chunk in split(score, GROUP_SIZES):
        expected += [x - statistics.fmean(chunk[:i] + chunk[i + 1 :]) for i, x in enumerate(chunk)]
    actual = leave_one_out_advantages(score, group, 4)
    assert actual.tolist() == pytest.approx(expected, rel=1e-10)
    factor = torch.tensor([size / (size - 1) for size in GROUP_SIZES for _ in range(size)], dtype=torch.float64)
    torch.testing.assert_close(actual, factor * centred_group_advantages(score, group, 4), rtol=1e-12, atol=0)


@pytest.mark.parametrize("advantages", [group_advantages, centred_group_advantages, leave_one_out_advantages])
def test_advantages_of_a_group_sum_to_zero_and_know_no_constant(advantages):
    score, group = random_scores()
    actual = advantages(score.requires_grad_(), group, 4)
    assert [math.fsum(chunk) for chunk in split(actual, GROUP_SIZES)] == pytest.approx([0] * 4, abs=1e-12)
    torch.testing.assert_close(advantages(score + 100, group, 4), actual, rtol=1e-9, atol=1e-9)
    assert not actual.requires_grad


@pytest.mark.parametrize("advantages", [group_advantages, centred_group_advantages, leave_one_out_advantages])
def test_a_group_of_equal_scores_or_of_one_answer_teaches_nothing(advantages):
    # In float32 seven times 0.7, divided by 7, is not 0.7.
    score = torch.tensor([0.7] * 7 + [1e4, 1e4, 5.0, 1.0, 2.0])
    actual = advantages(score, ids([7, 2, 1, 2]), 4)
    assert actual[:10].tolist() == [0] * 10
    assert actual[11] > 0 > actual[10]


def test_groups_without_signal_are_told_by_a_standard_deviation_of_exactly_zero():
    score = torch.tensor([0.7] * 7 + [5.0, 1.0, 3.0])
    _, std, sizes = group_deviations(score, ids([7, 1, 2]), 3)
    assert std.tolist() == pytest.approx([0, 0, math.sqrt(2)])
    assert std[:2].tolist() == [0, 0]
    assert sizes.tolist() == [7, 1, 2]


def policy_gradient(advantages) -> torch.Tensor:
    """Mean over all draws of 2 answers from 3, of the gradient of the mean of A log p, in the policy's logits."""
    logits, scores = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64), torch.tensor([1.0, 3.0, -2.0]).double()
    p = torch.softmax(logits, 0)
    total = torch.zeros(3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            advantage = advantages(scores[[a, b]], torch.tensor([0, 0]), 1)
            for x, of in ((a, advantage[0]), (b, advantage[1])):
                total += p[a] * p[b] * of * (torch.eye(3, dtype=torch.float64)[x] - p) / 2
    return total


def test_leaving_one_out_keeps_the_policy_gradient_unbiased():
    logits = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    (torch.softmax(logits, 0) * torch.tensor([1.0, 3.0, -2.0])).sum().backward()
    torch.testing.assert_close(policy_gradient(leave_one_out_advantages), logits.grad)
    torch.testing.assert_close(policy_gradient(centred_group_advantages), logits.grad / 2)


def test_a_shape_that_would_broadcast_is_refused():
    with pytest.raises(TypeError, match="group"):
        centred_group_advantages(torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64), 1)

"""Losses of the policy and its value model against hand arithmetic, slow references and stated facts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.objectives.policy import (
    approximate_kl,
    clipped_surrogate,
    clipped_value_loss,
    constant_length_weights,
    importance_ratio,
    is_ratio_clipped,
    is_value_clipped,
    sequence_mean_weights,
    token_mean_weights,
    truncated_importance_weight,
)

PLAIN = {"epsilon_low": 0.2, "epsilon_high": 0.28}
DUAL = PLAIN | {"dual_clip": 3.0}


def random_tokens(count=200, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_surrogate(logp, old_logp, advantage, low, high, c=math.inf):
    """Of one token: the objective as it is maximised, negated at the end."""
    ratio = math.exp(min(max(logp - old_logp, -20.0), 20.0))
    held = 1 - low if ratio < 1 - low else 1 + high if ratio > 1 + high else ratio
    objective = min(ratio * advantage, held * advantage)
    if advantage < 0:
        objective = max(objective, c * advantage)
    return -objective


def with_ratio(ratios):
    """(logp that carries a gradient, old_logp) of these ratios."""
    old_logp = torch.full((len(ratios),), -2.0, dtype=torch.float64)
    return (old_logp + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_(), old_logp


def test_hand_worked_tokens():
    logp, old_logp = with_ratio([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0], dtype=torch.float64)
    loss = clipped_surrogate(logp, old_logp, advantage, **PLAIN)
    assert loss.tolist() == pytest.approx([-2 * 1.28, 2 * 1.5, -2 * 0.5, 2 * 0.8, -2 * 1.1])


@pytest.mark.parametrize("c", [None, 1.5, 3.0])
def test_matches_the_slow_reference(c):
    logp, old_logp, advantage = random_tokens(), random_tokens(seed=1), random_tokens(seed=2)
    actual = clipped_surrogate(logp, old_logp, advantage, **PLAIN, dual_clip=c)
    rows = zip(logp.tolist(), old_logp.tolist(), advantage.tolist(), strict=True)
    expected = [slow_surrogate(*row, 0.2, 0.28, c or math.inf) for row in rows]
    assert actual.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_first_minibatch_has_ratio_1_no_kl_no_clipping_and_the_policy_gradient():
    logp, advantage = random_tokens().requires_grad_(), random_tokens(seed=2)
    old_logp = logp.detach().clone()
    loss = clipped_surrogate(logp, old_logp, advantage, **DUAL)
    loss.sum().backward()
    assert torch.equal(loss, -advantage)
    assert torch.equal(logp.grad, -advantage)
    assert torch.equal(importance_ratio(logp, old_logp), torch.ones_like(logp))
    assert approximate_kl(logp, old_logp).tolist() == [0] * 200
    assert not is_ratio_clipped(logp, old_logp, advantage, **PLAIN).any()


def test_clipping_takes_away_the_gain_of_going_further_and_never_the_pain():
    logp, old_logp = with_ratio([1.29, 1.27, 0.79, 0.81, 0.5, 1.5])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    clipped_surrogate(logp, old_logp, advantage, **PLAIN).sum().backward()
    assert logp.grad.tolist() == pytest.approx([0, -1.27, 0, 0.81, -0.5, 1.5])
    assert is_ratio_clipped(logp, old_logp, advantage, **PLAIN).tolist() == [True, False, True, False, False, False]


def test_the_dual_clip_bounds_what_a_worse_token_does():
    logp, old_logp = with_ratio([2.9, 3.1, 50.0, 50.0])
    advantage = torch.tensor([-2.0, -2.0, -2.0, 2.0], dtype=torch.float64)
    loss = clipped_surrogate(logp, old_logp, advantage, **DUAL)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([5.8, 6, 6, -2.56])
    assert logp.grad.tolist() == pytest.approx([5.8, 0, 0, 0])


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2, allow_subnormal=False))
def test_a_token_is_clipped_exactly_where_it_has_no_gradient(log_ratio, advantage):
    logp = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    old_logp, advantage = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    clipped_surrogate(logp, old_logp, advantage, **PLAIN).sum().backward()
    clipped = is_ratio_clipped(logp, old_logp, advantage, **PLAIN).item()
    assert clipped == (logp.grad.item() == 0 and advantage.item() != 0)


@pytest.mark.parametrize("options", [PLAIN, DUAL])
def test_the_derivative_is_that_of_the_loss(options):
    old_logp, advantage = random_tokens(20, 1), random_tokens(20, 2)
    assert torch.autograd.gradcheck(
        lambda logp: clipped_surrogate(logp, old_logp, advantage, **options), random_tokens(20).requires_grad_()
    )


def test_only_the_policy_that_learns_gets_a_gradient():
    logp, old_logp, advantage = (random_tokens(9, seed).requires_grad_() for seed in range(3))
    clipped_surrogate(logp, old_logp, advantage, **DUAL).sum().backward()
    assert old_logp.grad is None
    assert advantage.grad is None


def test_extreme_ratios_stay_finite():
    logp, old_logp = torch.tensor([0.0, -1e4, 0.0, -1e4]), torch.tensor([-1e4, 0.0, -1e4, 0.0])
    loss = clipped_surrogate(logp, old_logp, torch.tensor([1.0, 1.0, -1.0, -1.0]), **PLAIN)
    assert loss.tolist() == pytest.approx([-1.28, -math.exp(-20), math.exp(20), 0.8], rel=1e-4)
    assert approximate_kl(logp, old_logp).tolist() == [10] * 4


def test_approximate_kl_is_that_of_the_old_policy_to_the_new():
    old, new = [0.7, 0.2, 0.1], [0.5, 0.1, 0.4]
    per_token = approximate_kl(torch.tensor(new).double().log(), torch.tensor(old).double().log())
    mean = math.fsum(p * kl for p, kl in zip(old, per_token.tolist(), strict=True))
    assert mean == pytest.approx(math.fsum(p * math.log(p / q) for p, q in zip(old, new, strict=True)), rel=1e-6)


def test_an_importance_weight_is_cut_off_above_only():
    logp, sampler_logp = with_ratio([0.1, 1.0, 1.9, 2.1, 100.0])
    weight = truncated_importance_weight(logp, sampler_logp, limit=2.0)
    assert weight.tolist() == pytest.approx([0.1, 1, 1.9, 2, 2])
    assert not weight.requires_grad


def slow_value_loss(value, old_value, returns, epsilon):
    held = old_value + max(-epsilon, min(epsilon, value - old_value))
    return 0.5 * max((value - returns) ** 2, (held - returns) ** 2)


def test_the_value_loss_matches_the_slow_reference():
    value, old_value, returns = (random_tokens(seed=seed) for seed in range(3))
    expected = [
        slow_value_loss(*row, 0.3) for row in zip(value.tolist(), old_value.tolist(), returns.tolist(), strict=True)
    ]
    assert clipped_value_loss(value, old_value, returns, epsilon=0.3).tolist() == pytest.approx(expected, rel=1e-11)


def test_the_value_model_gains_nothing_from_moving_far_at_once():
    # within epsilon; towards the returns but too far; away from them; towards them, too far, and past them
    value = torch.tensor([0.1, 0.5, -0.5, 3.0], dtype=torch.float64, requires_grad=True)
    old_value, returns = torch.zeros(4, dtype=torch.float64), torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    loss = clipped_value_loss(value, old_value, returns, epsilon=0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.81 / 2, 0.64 / 2, 2.25 / 2, 4 / 2])
    assert value.grad.tolist() == pytest.approx([-0.9, 0, -1.5, 2])
    assert is_value_clipped(value, old_value, returns, epsilon=0.2).tolist() == [False, True, False, False]


def test_only_the_value_that_learns_gets_a_gradient():
    value, old_value, returns = (random_tokens(9, seed).requires_grad_() for seed in range(3))
    clipped_value_loss(value, old_value, returns, epsilon=0.2).sum().backward()
    assert old_value.grad is None
    assert returns.grad is None
    assert torch.autograd.gradcheck(
        lambda v: clipped_value_loss(v, old_value.detach(), returns.detach(), epsilon=0.2), (value,)
    )


LENGTHS = [1, 4, 2]
SEQUENCE = torch.tensor([0, 1, 1, 1, 1, 2, 2])
LOSS = [3.0, 1.0, 2.0, 3.0, 4.0, 10.0, 20.0]


@pytest.mark.parametrize(
    ("weights_of", "mean"),
    [
        (token_mean_weights, 43 / 7),
        (sequence_mean_weights, (3 + 10 / 4 + 30 / 2) / 3),
        (lambda sequence, num: constant_length_weights(sequence, num, length=8), (3 + 10 + 30) / 8 / 3),
    ],
    ids=["tokens", "sequences", "constant length"],
)
def test_weights_and_their_total_give_the_mean_however_a_step_is_cut(weights_of, mean):
    parts = [weights_of(torch.zeros(1, dtype=torch.int64), 1), weights_of(SEQUENCE[1:] - 1, 2)]
    for cut in ([weights_of(SEQUENCE, 3)], parts):
        weight = torch.cat([part.weight for part in cut]).tolist()
        summed = math.fsum(w * x for w, x in zip(weight, LOSS, strict=True))
        assert summed / math.fsum(part.total for part in cut) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("weights_of", [token_mean_weights, sequence_mean_weights])
def test_an_answer_without_tokens_has_no_mean(weights_of):
    with pytest.raises(ValueError, match="needs a trained token"):
        weights_of(torch.tensor([0, 2]), 3)


def test_answers_of_constant_length_weights_are_checked_too():
    with pytest.raises(ValueError, match="needs a trained token"):
        constant_length_weights(torch.tensor([0, 2]), 3, length=8)


def test_a_shape_that_would_broadcast_is_refused():
    with pytest.raises(TypeError, match="advantage"):
        clipped_surrogate(torch.zeros(4), torch.zeros(4), torch.zeros(1), **PLAIN)

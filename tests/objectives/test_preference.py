"""Losses on preferences against hand arithmetic, slow references of 60 digits, and stated facts."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.objectives.preference import (
    bradley_terry_loss,
    centring_loss,
    comparisons,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    is_ranked_right,
    kto_loss,
    kto_reference_point,
    nll_per_token,
    simpo_loss,
)


def random_pairs(count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    winner, loser = 8 * torch.randn(2, count, generator=generator, dtype=torch.float64)
    return winner, loser, torch.rand(count, generator=generator) < 0.3


def slow_sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def slow_logistic(difference: float, margin: float, is_tie: bool, eps: float) -> float:
    """Of one comparison with 60 digits, by way of the two probabilities."""
    with localcontext(prec=60):
        if is_tie:
            margin, eps = 0.0, 0.5
        p = slow_sigmoid(Decimal(difference) - Decimal(margin))
        return float(-(1 - Decimal(eps)) * p.ln() - Decimal(eps) * (1 - p).ln())


def no_ties(winner):
    return torch.zeros(len(winner), dtype=torch.bool)


def all_ties(winner):
    return ~no_ties(winner)


def bradley_terry(winner, loser, is_tie):
    return bradley_terry_loss(winner, loser, is_tie, margin=0.5, label_smoothing=0.1)


def dpo(winner, loser, is_tie):
    return dpo_loss(winner, loser, is_tie, beta=0.3, label_smoothing=0.1)


def ipo(winner, loser, is_tie):
    return ipo_loss(winner, loser, is_tie, beta=0.3)


def simpo(winner, loser, is_tie):
    return simpo_loss(winner, loser, is_tie, beta=2.0, gamma=0.5, label_smoothing=0.1)


PAIRWISE = [bradley_terry, dpo, ipo, simpo]


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_bradley_terry_matches_the_slow_reference(eps, margin):
    winner, loser, is_tie = random_pairs()
    rows = zip(winner.tolist(), loser.tolist(), is_tie.tolist(), strict=True)
    expected = [slow_logistic(w - l_, margin, tie, eps) for w, l_, tie in rows]
    actual = bradley_terry_loss(winner, loser, is_tie, margin=margin, label_smoothing=eps)
    assert actual.tolist() == pytest.approx(expected, rel=1e-12)


def test_hand_worked_reward_pair():
    loss = bradley_terry_loss(
        torch.tensor([3.0, 0.0]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([False, False]),
        margin=1.0,
        label_smoothing=0.0,
    )
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.e)])


def test_every_comparison_may_have_its_own_margin():
    winner, loser = torch.tensor([2.0, 2.0]), torch.zeros(2)
    loss = bradley_terry_loss(winner, loser, no_ties(winner), margin=torch.tensor([2.0, 3.0]), label_smoothing=0.0)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(1 + math.e)])


def test_the_gradient_of_the_reward_loss_is_the_probability_of_being_wrong():
    winner, loser, _ = random_pairs()
    winner.requires_grad_()
    loser.requires_grad_()
    bradley_terry_loss(winner, loser, no_ties(winner), margin=1.0, label_smoothing=0.0).sum().backward()
    wrong = [float(slow_sigmoid(Decimal(-(w - l_ - 1)))) for w, l_ in zip(winner.tolist(), loser.tolist(), strict=True)]
    assert winner.grad.tolist() == pytest.approx([-p for p in wrong], rel=1e-9)
    assert loser.grad.tolist() == pytest.approx(wrong, rel=1e-9)


@pytest.mark.parametrize("loss_of", PAIRWISE)
def test_a_tie_does_not_know_winner_from_loser_and_is_least_where_they_are_equal(loss_of):
    winner, loser, _ = random_pairs()
    tie = all_ties(winner)
    torch.testing.assert_close(loss_of(winner, loser, tie), loss_of(loser, winner, tie), rtol=1e-13, atol=0)
    equal = winner.clone().requires_grad_()
    at_equal = loss_of(equal, winner, tie)
    assert (loss_of(winner, loser, tie) > at_equal).all()
    at_equal.sum().backward()
    assert equal.grad.tolist() == pytest.approx([0] * 64, abs=1e-15)


def test_smoothing_by_one_half_makes_every_pair_a_tie():
    winner, loser, _ = random_pairs()
    smoothed = bradley_terry_loss(winner, loser, no_ties(winner), margin=0.0, label_smoothing=0.5)
    tied = bradley_terry_loss(winner, loser, all_ties(winner), margin=7.0, label_smoothing=0.0)
    torch.testing.assert_close(smoothed, tied, rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss_of", PAIRWISE)
def test_the_derivative_is_that_of_the_loss(loss_of):
    winner, loser, is_tie = random_pairs(12)
    pair = (winner / 8).requires_grad_(), (loser / 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, l_: loss_of(w, l_, is_tie), pair)


@pytest.mark.parametrize("loss_of", [bradley_terry, dpo, simpo])
def test_extreme_differences_stay_finite(loss_of):
    winner = torch.tensor([1e4, -1e4, 1e4], requires_grad=True)
    loss = loss_of(winner, -winner.detach(), torch.tensor([False, False, True]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert winner.grad.isfinite().all()
    assert loss[1] > loss[2] > loss[0] > 100


@pytest.mark.parametrize("loss_of", PAIRWISE)
def test_no_comparisons_lose_nothing(loss_of):
    nothing = torch.zeros(0, requires_grad=True)
    loss = loss_of(nothing, nothing, torch.zeros(0, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == []


def test_centring_punishes_the_sum_of_two_rewards():
    winner = torch.tensor([3.0, 1.0], requires_grad=True)
    loss = centring_loss(winner, torch.tensor([-1.0, -1.0]))
    loss.sum().backward()
    assert loss.tolist() == [4, 0]
    assert winner.grad.tolist() == [4, 0]


def test_ranked_right_is_a_half_where_rewards_are_equal():
    assert is_ranked_right(torch.tensor([2.0, 1.0, 5.0]), torch.tensor([1.0, 2.0, 5.0])).tolist() == [1, 0, 0.5]


def test_two_answers_are_a_plain_pair():
    pair = comparisons([2], [()])
    assert (pair.winner.tolist(), pair.loser.tolist()) == ([0], [1])
    assert (pair.is_tie.tolist(), pair.weight.tolist()) == ([False], [1.0])


def test_every_pair_of_every_prompt_stands_once_in_a_fixed_order():
    found = comparisons([2, 4, 3], [(), (3.0, 2.0, 2.0, 2.0), (5.0, 5.0, 1.0)])
    assert list(zip(found.winner.tolist(), found.loser.tolist(), strict=True)) == [
        *[(0, 1)],
        *[(2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)],
        *[(6, 7), (6, 8), (7, 8)],
    ]
    assert found.is_tie.tolist() == [False, False, False, False, True, True, True, True, False, False]
    assert found.weight.tolist() == pytest.approx([1] + [1 / 6] * 6 + [1 / 3] * 3)


@settings(deadline=None)
@given(st.lists(st.integers(2, 7), max_size=5))
def test_each_prompt_weighs_the_same_whatever_its_number_of_answers(sizes):
    found = comparisons(sizes, [()] * len(sizes))
    prompt_of = [i for i, size in enumerate(sizes) for _ in range(size)]
    weights = [0.0] * len(sizes)
    for winner, loser, weight in zip(found.winner.tolist(), found.loser.tolist(), found.weight.tolist(), strict=True):
        assert winner < loser
        assert prompt_of[winner] == prompt_of[loser]
        weights[prompt_of[winner]] += weight
    assert weights == pytest.approx([1] * len(sizes))
    assert len(found.winner) == sum(size * (size - 1) // 2 for size in sizes)


def test_four_answers_weigh_as_two_in_the_gradient():
    # Rewards of 0: every comparison pulls with 1/2, so a prompt's best answer gets (K - 1) / 2 over K (K - 1) / 2.
    rewards = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    found = comparisons([4, 2], [(), ()])
    loss = bradley_terry_loss(
        rewards[found.winner], rewards[found.loser], found.is_tie, margin=0.0, label_smoothing=0.0
    )
    by_prompt = [(found.weight * loss)[:6].sum().item(), (found.weight * loss)[6:].sum().item()]
    assert by_prompt == pytest.approx([math.log(2)] * 2)
    (found.weight * loss).sum().backward()
    assert rewards.grad.tolist() == pytest.approx([-3 / 12, -1 / 12, 1 / 12, 3 / 12, -1 / 2, 1 / 2])


@pytest.mark.parametrize(
    ("sizes", "scores", "says"),
    [
        ([1], [()], "1 answers cannot be compared"),
        ([3], [(1.0, 2.0, 0.0)], "best first"),
        ([3], [(2.0, 1.0)], "3 answers"),
        ([2], [(1.0, math.nan)], "nan"),
        ([2, 2], [()], "shorter"),
    ],
)
def test_what_is_no_ranking_is_refused(sizes, scores, says):
    with pytest.raises(ValueError, match=says):
        comparisons(sizes, scores)


def test_hand_worked_dpo_pair():
    # d = 0.5 * (1 - -1) = 1
    loss = dpo_loss(torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([False]), beta=0.5, label_smoothing=0.0)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1))])


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_dpo_matches_the_slow_reference(beta, eps):
    winner, loser, is_tie = random_pairs()
    rows = zip(winner.tolist(), loser.tolist(), is_tie.tolist(), strict=True)
    expected = [slow_logistic(float(Decimal(beta) * (Decimal(w) - Decimal(l_))), 0, tie, eps) for w, l_, tie in rows]
    actual = dpo_loss(winner, loser, is_tie, beta=beta, label_smoothing=eps)
    assert actual.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.4])
def test_dpo_at_the_reference_loses_log_2_and_pulls_by_half_of_beta(beta):
    winner, loser = torch.zeros(2, 1, dtype=torch.float64).requires_grad_().unbind()
    winner.retain_grad()
    loser.retain_grad()
    loss = dpo_loss(winner, loser, torch.tensor([False]), beta=beta, label_smoothing=0.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-14)
    assert winner.grad.item() == pytest.approx(-beta / 2, rel=1e-14)
    assert loser.grad.item() == pytest.approx(beta / 2, rel=1e-14)


def test_dpo_is_the_reward_loss_on_implicit_rewards():
    logp, reference_logp, _ = random_pairs(20)
    reward = implicit_reward(logp, reference_logp, beta=0.3)
    assert reward.tolist() == [0.3 * (a - b) for a, b in zip(logp.tolist(), reference_logp.tolist(), strict=True)]
    by_reward = bradley_terry_loss(reward[:10], reward[10:], no_ties(reward[:10]), margin=0.0, label_smoothing=0.1)
    ratio = logp - reference_logp
    torch.testing.assert_close(dpo(ratio[:10], ratio[10:], no_ties(ratio[:10])), by_reward, rtol=1e-12, atol=0)


def test_ipo_wants_one_distance_and_no_more():
    # 1 / (2 * 0.25) = 2 apart; a tie wants 0
    winner = torch.tensor([2.0, 3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    is_tie = torch.tensor([False, False, False, True])
    loss = ipo_loss(winner, torch.zeros(4, dtype=torch.float64), is_tie, beta=0.25)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0, 1, 4, 9])
    assert winner.grad.tolist() == pytest.approx([0, 2, -4, 6])


def test_simpo_loses_log_2_where_the_lead_is_gamma():
    # beta * (l_w - l_l): 2 * 0.75 = 1.5 = gamma; 2 * 1.25 - 1.5 = 1; a tie keeps no margin
    winner, loser = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.75, -2.25, -1.0])
    is_tie = torch.tensor([False, False, True])
    loss = simpo_loss(winner, loser, is_tie, beta=2.0, gamma=1.5, label_smoothing=0.0)
    assert loss.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-1)), math.log(2)])


def test_simpo_matches_the_slow_reference():
    winner, loser, is_tie = random_pairs()
    rows = zip(winner.tolist(), loser.tolist(), is_tie.tolist(), strict=True)
    expected = [slow_logistic(2 * (w - l_), 0.5, tie, 0.1) for w, l_, tie in rows]
    assert simpo(winner, loser, is_tie).tolist() == pytest.approx(expected, rel=1e-12)


KTO = {"beta": 0.5, "desirable_weight": 1.0, "undesirable_weight": 2.0}


def slow_kto(log_ratio, is_desirable, z0, beta, desirable_weight, undesirable_weight):
    """lambda_y - v(x, y) of one answer, as the paper writes it."""
    with localcontext(prec=60):
        from_point = Decimal(log_ratio) - Decimal(z0)
        weight = Decimal(desirable_weight if is_desirable else undesirable_weight)
        return float(weight - weight * slow_sigmoid(Decimal(beta) * (from_point if is_desirable else -from_point)))


def test_kto_matches_the_slow_reference():
    log_ratio, _, is_desirable = random_pairs()
    expected = [
        slow_kto(h, good, 1.5, **KTO) for h, good in zip(log_ratio.tolist(), is_desirable.tolist(), strict=True)
    ]
    actual = kto_loss(log_ratio, is_desirable, torch.tensor(1.5, dtype=torch.float64), **KTO)
    assert actual.tolist() == pytest.approx(expected, rel=1e-11)


def test_kto_at_the_reference_loses_half_of_each_weight():
    log_ratio, z0 = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
    loss = kto_loss(log_ratio, torch.tensor([True, False]), z0, **KTO)
    loss.sum().backward()
    assert loss.tolist() == [0.5, 1.0]
    assert log_ratio.grad.tolist() == pytest.approx([-1 * 0.5 / 4, 2 * 0.5 / 4])
    assert z0.grad is None


def test_the_derivative_of_kto_is_that_of_the_loss():
    log_ratio, _, is_desirable = random_pairs(12)
    assert torch.autograd.gradcheck(
        lambda h: kto_loss(h, is_desirable, torch.tensor(0.7, dtype=torch.float64), **KTO),
        (log_ratio / 8).requires_grad_(),
    )


def test_kto_stays_within_its_weight_at_extremes():
    log_ratio = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = kto_loss(log_ratio, torch.tensor([True, True, False, False]), torch.tensor(0.0), **KTO)
    loss.sum().backward()
    assert loss.tolist() == [0, 1, 2, 0]
    assert log_ratio.grad.tolist() == [0, 0, 0, 0]


def test_the_reference_point_is_the_mean_of_mismatched_pairs_and_never_negative():
    mismatched = torch.tensor([1.0, -2.0, 4.0], requires_grad=True)
    assert kto_reference_point(mismatched).item() == 1
    assert not kto_reference_point(mismatched).requires_grad
    assert kto_reference_point(-mismatched).item() == 0
    with pytest.raises(ValueError, match="there is none"):
        kto_reference_point(torch.zeros(0))


@pytest.mark.parametrize("loss_of", PAIRWISE)
def test_a_shape_that_would_broadcast_is_refused(loss_of):
    with pytest.raises(TypeError, match="loser"):
        loss_of(torch.zeros(4), torch.zeros(4, 1), torch.zeros(4, dtype=torch.bool))


def test_the_supervised_term_is_the_nll_per_token_of_each_answer():
    logp = torch.tensor([-6.0, -2.0, -9.0], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    nll = nll_per_token(logp, lengths)
    assert nll.tolist() == [2.0, 2.0, 4.5]
    nll.sum().backward()
    assert logp.grad.tolist() == [-1 / 3, -1.0, -0.5]

"""Estimates of KL(policy || reference) against the exact KL of small distributions, for value and for gradient."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.objectives.kl import adapted_beta, kl_k1, kl_k2, kl_k3, kl_per_sequence, log_ratio

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([1.0, 0.1, 0.5, -0.8, 0.2], dtype=torch.float64), 0)


def exact_kl(p: list[float], q: list[float]) -> float:
    """Sum of p log(p / q), from the definition."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def exact_gradient(of) -> list[float]:
    """Of a function of the policy's probabilities, in its logits, by central differences of plain floats."""

    def at(shifted: int, by: float) -> float:
        numbers = [x + by * (i == shifted) for i, x in enumerate(LOGITS.tolist())]
        total = math.fsum(map(math.exp, numbers))
        return of([math.exp(x) / total for x in numbers])

    return [(at(i, 1e-5) - at(i, -1e-5)) / 2e-5 for i in range(len(LOGITS))]


def mean_gradient(per_token_loss) -> list[float]:
    """What the gradient of a loss on samples of the policy is on average: each token as often as it is drawn."""
    logits = LOGITS.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    (logp.detach().exp() * per_token_loss(logp, REFERENCE)).sum().backward()
    return logits.grad.tolist()


POLICY = torch.log_softmax(LOGITS, 0)
P, Q = POLICY.exp().tolist(), REFERENCE.exp().tolist()


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [(kl_k1, math.log(2)), (kl_k2, math.log(2) ** 2 / 2), (kl_k3, 0.5 - 1 + math.log(2))],
)
def test_a_token_twice_as_likely_as_under_the_reference(estimate, expected):
    result = estimate(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]))
    assert result.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("estimate", [kl_k1, kl_k3])
def test_k1_and_k3_are_unbiased(estimate):
    assert (POLICY.exp() * estimate(POLICY, REFERENCE)).sum().item() == pytest.approx(exact_kl(P, Q), rel=1e-12)


def test_the_value_of_k2_is_biased():
    mean = math.fsum(a * math.log(a / b) ** 2 / 2 for a, b in zip(P, Q, strict=True))
    assert (POLICY.exp() * kl_k2(POLICY, REFERENCE)).sum().item() == pytest.approx(mean, rel=1e-12)
    assert mean != pytest.approx(exact_kl(P, Q), rel=1e-3)


def test_k2_as_a_loss_has_the_gradient_of_the_kl():
    assert mean_gradient(kl_k2) == pytest.approx(exact_gradient(lambda p: exact_kl(p, Q)), abs=1e-9)


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
    in_reward = mean_gradient(lambda logp, reference: kl_k1(logp, reference).detach() * logp)
    assert in_reward == pytest.approx(exact_gradient(lambda p: exact_kl(p, Q)), abs=1e-9)


def test_k1_as_a_loss_has_no_gradient_on_average():
    assert mean_gradient(kl_k1) == pytest.approx([0] * 5, abs=1e-15)


def test_k3_as_a_loss_has_the_gradient_of_the_other_direction():
    gradient = mean_gradient(kl_k3)
    assert gradient == pytest.approx(exact_gradient(lambda p: exact_kl(Q, p)), abs=1e-9)
    right = exact_gradient(lambda p: exact_kl(p, Q))
    assert max(abs(a - b) for a, b in zip(gradient, right, strict=True)) > 0.05


@settings(deadline=None)
@given(st.floats(-30, 0), st.floats(-30, 0))
def test_estimates_of_any_token_match_the_definition(logp, reference_logp):
    delta = min(max(logp - reference_logp, -20.0), 20.0)
    pair = torch.tensor([logp], dtype=torch.float64), torch.tensor([reference_logp], dtype=torch.float64)
    assert kl_k1(*pair).item() == pytest.approx(delta, rel=1e-12)
    assert kl_k2(*pair).item() == pytest.approx(delta**2 / 2, rel=1e-12)
    assert kl_k3(*pair).item() == pytest.approx(min(math.exp(-delta) - 1 + delta, 10.0), rel=1e-9, abs=1e-14)
    assert kl_k3(*pair).item() >= 0


@pytest.mark.parametrize("estimate", [kl_k1, kl_k2, kl_k3])
def test_the_derivative_is_that_of_the_value(estimate):
    pair = [x.clone().requires_grad_() for x in (POLICY, REFERENCE)]
    assert torch.autograd.gradcheck(estimate, pair)


def test_extremes_are_held_and_have_no_gradient():
    logp = torch.tensor([-1e4, 0.0, -1e4], requires_grad=True)
    reference_logp = torch.tensor([0.0, -1e4, -1e4])
    assert log_ratio(logp, reference_logp).tolist() == [-20, 20, 0]
    assert kl_k2(logp, reference_logp).tolist() == [200, 200, 0]
    assert kl_k3(logp, reference_logp).tolist() == [10, 10, 0]
    log_ratio(logp, reference_logp).sum().backward()
    assert logp.grad.tolist() == [0, 0, 1]


def test_the_kl_of_a_sequence_is_a_sum_and_its_mean_over_answers_is_exact():
    # Every answer of two tokens, the second's distribution depending on the first; each as often as it is drawn.
    generator = torch.Generator().manual_seed(0)
    first = [torch.log_softmax(torch.randn(3, generator=generator, dtype=torch.float64), 0) for _ in range(2)]
    second = [torch.log_softmax(torch.randn(3, 3, generator=generator, dtype=torch.float64), 1) for _ in range(2)]
    answers = [(a, b) for a in range(3) for b in range(3)]
    logp, reference_logp = (
        torch.tensor([x for a, b in answers for x in (one[a].item(), two[a, b].item())], dtype=torch.float64)
        for one, two in zip(first, second, strict=True)
    )
    per_answer = kl_per_sequence(logp, reference_logp, torch.arange(9).repeat_interleave(2), 9)
    joint = [
        [math.exp(one[a].item() + two[a, b].item()) for a, b in answers] for one, two in zip(first, second, strict=True)
    ]
    mean = math.fsum(p * kl for p, kl in zip(joint[0], per_answer.tolist(), strict=True))
    assert mean == pytest.approx(exact_kl(*joint), rel=1e-12)
    assert min(per_answer.tolist()) < 0


def test_beta_rises_above_the_target_and_falls_below_it():
    fixed = {"target_kl": 6.0, "num_sequences": 100, "horizon": 1000.0}
    assert adapted_beta(0.15, measured_kl=6.0, **fixed) == 0.15
    assert adapted_beta(0.15, measured_kl=6.6, **fixed) == pytest.approx(0.15 * 1.01)
    assert adapted_beta(0.15, measured_kl=5.4, **fixed) == pytest.approx(0.15 * 0.99)


@pytest.mark.parametrize(("measured_kl", "factor"), [(7.2, 1.02), (60.0, 1.02), (0.0, 0.98), (-3.0, 0.98)])
def test_one_update_of_beta_is_bounded(measured_kl, factor):
    beta = adapted_beta(0.15, measured_kl=measured_kl, target_kl=6.0, num_sequences=100, horizon=1000.0)
    assert beta == pytest.approx(0.15 * factor)


def test_a_beta_that_could_reach_zero_or_follows_no_number_is_refused():
    with pytest.raises(ValueError, match="horizon of 100"):
        adapted_beta(0.15, measured_kl=1.0, target_kl=6.0, num_sequences=500, horizon=100.0)
    with pytest.raises(ValueError, match="nan"):
        adapted_beta(0.15, measured_kl=math.nan, target_kl=6.0, num_sequences=100, horizon=1000.0)


def test_a_shape_that_would_broadcast_is_refused():
    with pytest.raises(TypeError, match="reference_logp"):
        kl_k1(torch.zeros(4), torch.zeros(4, 1))


# -- whole answers, in a language of two tokens, in which each token depends on the one before -------------------------


FIRST_AND_AFTER = [[1.0, 0.0], [1.5, 0.0], [0.0, 0.5]]
"""logits of the first token, of one after token 0, and of one after token 1; the reference has 0 everywhere"""


def of_answers(num_tokens: int):
    """log p of the tokens of every possible answer, (answers, tokens), under the policy and the reference."""
    logits = torch.tensor(FIRST_AND_AFTER, dtype=torch.float64).requires_grad_()
    ids = torch.tensor(list(itertools.product(range(2), repeat=num_tokens)))
    state = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), 1 + ids[:, :-1]], dim=1)
    logp = torch.log_softmax(logits, dim=1)[state, ids]
    return logits, logp, torch.full_like(logp, math.log(0.5)).detach()


def gradient(logits, of):
    return torch.autograd.grad(of, logits)[0]


def error_of_gradient(num_tokens: int, loss_of_answers) -> float:
    """How far a loss's mean gradient over all answers is from the KL's, relative to that."""
    logits, logp, reference = of_answers(num_tokens)
    chance = logp.sum(1).exp()
    exact = gradient(logits, (chance * (logp - reference).sum(1)).sum())
    logits, logp, reference = of_answers(num_tokens)
    found = gradient(logits, (logp.sum(1).exp().detach() * loss_of_answers(logp, reference)).sum())
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(("num_tokens", "error"), [(1, 0.0), (2, 0.129), (5, 0.152), (10, 0.188)])
def test_the_gradient_of_k2_is_that_of_a_tokens_kl_and_not_of_an_answers(num_tokens, error):
    def loss(logp, reference):
        return kl_k2(logp.flatten(), reference.flatten()).view_as(logp).sum(1)

    assert error_of_gradient(num_tokens, loss) == pytest.approx(error, abs=1e-3)


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 10])
def test_k1_in_the_reward_has_the_gradient_of_an_answers_kl(num_tokens):
    def loss(logp, reference):
        return kl_k1(logp.flatten(), reference.flatten()).view_as(logp).sum(1).detach() * logp.sum(1)

    assert error_of_gradient(num_tokens, loss) < 1e-12

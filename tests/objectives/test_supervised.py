"""negative_log_likelihood against hand arithmetic, a slow independent reference, and its own stated facts."""

import math
from decimal import Decimal, localcontext

import pytest
import torch

from heed.objectives.supervised import negative_log_likelihood


def random_inputs(count=64):
    generator = torch.Generator().manual_seed(0)
    logp = -30 * torch.rand(count, generator=generator, dtype=torch.float64)
    return logp, 3 * torch.rand(count, generator=generator, dtype=torch.float64)


def slow_nll(logp: float, weight: float) -> float:
    """w log(1/p) with 60 digits, by way of the probability."""
    with localcontext(prec=60):
        return float(Decimal(weight) * (1 / Decimal(logp).exp()).ln())


def test_hand_worked_tokens():
    logp = torch.tensor([math.log(0.5), math.log(0.25), 0.0])
    weight = torch.tensor([1.0, 0.5, 3.0])
    expected = torch.tensor([math.log(2), math.log(2), 0.0])
    torch.testing.assert_close(negative_log_likelihood(logp, weight), expected)


def test_matches_slow_reference():
    logp, weight = random_inputs()
    expected = [slow_nll(*pair) for pair in zip(logp.tolist(), weight.tolist(), strict=True)]
    actual = negative_log_likelihood(logp, weight)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_weight_two_counts_a_token_twice():
    logp, weight = random_inputs()
    twice = negative_log_likelihood(logp, 2 * weight).sum()
    repeated = negative_log_likelihood(torch.cat([logp, logp]), torch.cat([weight, weight])).sum()
    torch.testing.assert_close(twice, repeated, rtol=1e-13, atol=0)


@pytest.mark.parametrize("vocabulary", [2, 50_257])
def test_a_uniform_model_loses_log_of_its_vocabulary(vocabulary):
    logp = torch.log_softmax(torch.zeros(3, vocabulary, dtype=torch.float64), dim=-1)[:, 0]
    weight = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    expected = weight * math.log(vocabulary)
    torch.testing.assert_close(negative_log_likelihood(logp, weight), expected, rtol=1e-13, atol=0)


def test_the_gradient_is_minus_the_weight():
    logp, weight = random_inputs()
    negative_log_likelihood(logp.requires_grad_(), weight).sum().backward()
    assert torch.equal(logp.grad, -weight)


def test_a_token_of_weight_zero_neither_loses_nor_learns():
    logp = torch.tensor([-5.0], requires_grad=True)
    loss = negative_log_likelihood(logp, torch.zeros(1))
    loss.sum().backward()
    assert loss.item() == 0
    assert logp.grad.item() == 0


def test_hopeless_tokens_stay_finite():
    loss = negative_log_likelihood(torch.tensor([-1e4, -1e30]), torch.ones(2))
    assert loss.tolist() == pytest.approx([1e4, 1e30])


def test_a_shape_that_would_broadcast_is_refused():
    with pytest.raises(TypeError, match="weight"):
        negative_log_likelihood(torch.zeros(4), torch.zeros(4, 1))

"""RMSNorm in few passes: the formula, its gradients, and what it keeps in low precision and under frozen weights."""

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from heed.models.kernels.speed import RmsNorm, fused_rms_norm, normed


def by_the_paper(x, weight, eps):
    """Zhang and Sennrich 2019, equation 4, as it is written."""
    rows = [row / (row.pow(2).sum() / len(row) + eps).sqrt() * weight for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).view(x.shape)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


def test_a_row_by_hand():
    # mean(x^2) = (9 + 16) / 2 = 12.5, and 12.5 + 3.5 = 16, so every entry is divided by 4.
    y = normed(torch.tensor([[3.0, -4.0]], dtype=torch.float64), torch.tensor([2.0, 10.0], dtype=torch.float64), 3.5)
    assert y[0].tolist() == pytest.approx([1.5, -10.0], rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 8), (1, 4), (6,)])
def test_it_is_the_papers_formula(shape):
    x, weight = drawn(*shape), drawn(shape[-1]) + 2
    torch.testing.assert_close(normed(x, weight, 1e-6), by_the_paper(x, weight, 1e-6), rtol=1e-12, atol=1e-12)


def test_in_float32_it_is_transformers_own_to_the_bit():
    own = LlamaRMSNorm(96, eps=1e-5)
    own.weight.data = drawn(96, dtype=torch.float32)
    x = 3 * drawn(70, 96, dtype=torch.float32)
    assert torch.equal(normed(x, own.weight, 1e-5), own(x))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 8), (6,)])
def test_its_gradients_are_the_formulas(shape):
    x, weight, direction = drawn(*shape), drawn(shape[-1]) + 2, drawn(*shape, 1)[..., 0]
    ours = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    (normed(*ours, 1e-3) * direction).sum().backward()
    (by_the_paper(*theirs, 1e-3) * direction).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: RmsNorm.apply(a, b, 1e-3), tuple(ours))


def test_a_backward_under_autocast_is_that_without():
    direction, gradients = drawn(5, 64, 1, dtype=torch.float32)[..., 0], []
    for on in (False, True):
        x, weight = drawn(5, 64, dtype=torch.float32).requires_grad_(), drawn(64, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            normed(x, weight, 1e-6).backward(direction)
        gradients.append((x.grad, weight.grad))
    for got, right in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("learns", ["x", "weight"])
def test_only_what_learns_gets_a_gradient(learns):
    x, weight = drawn(3, 4).requires_grad_(learns == "x"), drawn(4).requires_grad_(learns == "weight")
    normed(x, weight, 1e-6).sum().backward()
    assert (x.grad is not None, weight.grad is not None) == (learns == "x", learns == "weight")


def test_a_row_of_zeros_stays_zeros_and_has_a_finite_gradient():
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    y = normed(x, torch.ones(4, dtype=torch.float64), 1e-6)
    y.backward(torch.ones_like(y))
    assert y.tolist() == [[0.0] * 4] * 2
    torch.testing.assert_close(x.grad, torch.full((2, 4), 1e3, dtype=torch.float64))  # 1 / sqrt(eps)


def test_low_precision_is_normed_in_float32_and_given_back_as_it_came():
    module = nn.Module()
    module.weight = nn.Parameter(drawn(64, dtype=torch.float32).bfloat16())
    x = (100 * drawn(50, 64, dtype=torch.float32)).bfloat16()
    found = fused_rms_norm(module, x, offset=1.0, eps=1e-6)
    expected = by_the_paper(x.double(), (module.weight + 1.0).double(), 1e-6)
    assert found.dtype == torch.bfloat16
    # Rounded once, from float32: but for values that lie between two neighbours, it is the exact value's rounding.
    assert float((found != expected.bfloat16()).double().mean()) < 0.001

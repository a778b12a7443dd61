"""Both ways of multiplying against float64, forward and backward, and who takes which."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from heed.models.kernels import matmul
from heed.models.kernels.matmul import (
    add_transposed_product,
    linear,
    multiply,
    multiply_rows,
    suits_onednn,
    use_fast_products,
)


@pytest.fixture(params=[True, False], ids=["oneDNN", "PyTorch's own"], autouse=True)
def path(request, monkeypatch):
    """Either path, on any processor: which is faster does not matter to what it computes."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: request.param)
    return request.param


def random(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def agree(actual, exact, tolerance=2e-6):
    """To float32 rounding of sums of up to 40 products."""
    actual, exact = actual.detach().double(), exact.detach()
    assert float((actual - exact).abs().max()) < tolerance * float(exact.abs().max())


def test_products_without_gradient():
    x, y, weight, bias = random(7, 40), random(7, 9), random(5, 40), random(5)
    agree(multiply_rows(x, weight, bias), x.double() @ weight.double().T + bias.double())
    agree(multiply_rows(x, weight), x.double() @ weight.double().T)
    agree(multiply(y.T.contiguous(), x), y.double().T @ x.double())


@pytest.mark.parametrize("band_rows", [1, 13, 40, 4096])
def test_a_transposed_product_is_added_band_by_band(band_rows, monkeypatch):
    monkeypatch.setattr(matmul, "BAND_ROWS", band_rows)
    x, y, total = random(7, 40), random(7, 9), random(40, 9)
    expected = total.double() + x.double().T @ y.double()
    add_transposed_product(total, x, y)
    agree(total, expected)


def test_a_product_into_a_buffer_of_the_callers():
    x, weight = random(3, 5), random(5, 4)
    out = torch.empty(3, 4)
    assert multiply(x, weight, out=out) is out
    agree(out, x.double() @ weight.double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 12), (1, 6, 12), (2, 3, 12), (1, 12), (12,)])
@pytest.mark.parametrize("transposed", [False, True], ids=["Linear", "Conv1D"])
def test_a_layer_forward_and_backward(shape, bias, transposed):
    stored = random(12, 8) if transposed else random(8, 12)
    leaves = [random(*shape), stored, *([random(8)] if bias else [])]
    exact = [x.double().requires_grad_() for x in leaves]
    leaves = [x.requires_grad_() for x in leaves]

    def out_of(x, weight, b=None):
        return linear(x, weight.t() if transposed else weight, b)

    actual = out_of(*leaves)
    straight = exact[1].t() if transposed else exact[1]
    expected = exact[0] @ straight.t() + (exact[2] if bias else 0)
    assert actual.shape == expected.shape
    agree(actual, expected)
    grad = random(*actual.shape)
    for got, right in zip(
        torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert got.shape == right.shape
        agree(got, right)


def test_a_gradient_that_is_not_contiguous():
    x, weight = random(6, 12).requires_grad_(), random(8, 12).requires_grad_()
    grad = random(8, 6).t()
    got = torch.autograd.grad(linear(x, weight, None), (x, weight), grad)
    agree(got[0], grad.double() @ weight.detach().double())
    agree(got[1], grad.double().T @ x.detach().double())


def test_only_what_learns_gets_a_gradient():
    x, weight, bias = random(6, 12), random(8, 12), random(8)
    for learns in range(3):
        tensors = [t.clone().requires_grad_(i == learns) for i, t in enumerate((x, weight, bias))]
        linear(*tensors).sum().backward()
        assert [t.grad is not None for t in tensors] == [i == learns for i in range(3)]


def test_layers_multiply_through_the_chosen_path_and_keep_their_parameters(path, monkeypatch):
    calls = []
    monkeypatch.setattr(matmul, "onednn", lambda *args, real=matmul.onednn: calls.append(1) or real(*args))
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), Conv1D(5, 8)).requires_grad_()
    names = [name for name, _ in model.named_parameters()]
    x = random(4, 12)
    expected = model(x)
    before = torch.autograd.grad(expected.sum(), list(model.parameters()))
    assert not calls
    use_fast_products(model)
    actual = model(x)
    assert bool(calls) == path
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    after = torch.autograd.grad(actual.sum(), list(model.parameters()))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert [name for name, _ in model.named_parameters()] == names


def test_what_onednn_does_not_suit_takes_the_other_path(path):
    wide, narrow = random(3, 4), random(3, 4, dtype=torch.float64)
    assert suits_onednn(wide, None) == path
    assert not suits_onednn(wide, narrow)
    assert not suits_onednn(wide[:0])
    agree(linear(narrow, random(2, 4, dtype=torch.float64), None), narrow @ random(2, 4, dtype=torch.float64).T, 1e-15)
    assert linear(wide[:0], random(2, 4), None).shape == (0, 2)


def test_autocast_still_rounds_the_products():
    x, weight = random(6, 12), random(8, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, None).dtype == torch.bfloat16

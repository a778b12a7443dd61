"""The fused head against a naive float64 log-softmax with autograd, hand arithmetic, and its extremes."""

import math

import pytest
import torch

from heed.models.heads import language as head_module
from heed.models.heads.language import Head, chunks, weighted_nll

ROWS, WIDTH, VOCABULARY = 11, 6, 17


@pytest.fixture(params=[1, 40, 10**9], ids=["a row at a time", "two rows at a time", "all rows at once"], autouse=True)
def chunk_elements(request, monkeypatch):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", request.param)


def inputs(dtype=torch.float64, *, bias=True, gain=1.0):
    """Rows with none, one and several targets, some of them twice, in no order; weights with a zero among them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return (gain * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    rows, weight = random(ROWS, WIDTH), random(VOCABULARY, WIDTH)
    row = torch.tensor([3, 0, 3, 9, 3, 10, 4, 5, 6, 7, 8, 3, 0])
    target = torch.tensor([5, 0, 5, 16, 7, 2, 2, 3, 4, 5, 6, 7, 16])
    loss_weight = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.25, 0.0, 1.0, 1.0, 3.0, 1.0, 1.0, 0.125, 1.0], dtype=dtype)
    return rows, weight, random(VOCABULARY) if bias else None, row, target, loss_weight


def naive(rows, weight, bias, row, target, loss_weight, *, scale=1.0, softcap=None):
    """Every logit, in float64, differentiated by autograd."""
    logits = rows.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logp = logits.log_softmax(-1)[row, target]
    return -(loss_weight.double() * logp).sum(), logp.detach()


def agree(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [x for x in tensors if x is not None])


ADJUSTMENTS = [(1.0, None), (0.3, None), (1.0, 0.8), (2.5, 0.8)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("scale", "softcap"), ADJUSTMENTS)
def test_loss_logp_and_gradients_are_those_of_the_naive_formula(bias, scale, softcap):
    tensors = inputs(bias=bias)
    rows, weight, b, row, target, loss_weight = tensors
    loss, logp = weighted_nll(rows, Head(weight, b, scale, softcap), row, target, loss_weight)
    expected_loss, expected_logp = naive(*tensors, scale=scale, softcap=softcap)
    agree(loss, expected_loss)
    agree(logp, expected_logp)
    assert not logp.requires_grad
    for got, right in zip(gradients(loss, rows, weight, b), gradients(expected_loss, rows, weight, b), strict=True):
        agree(got, right)


def test_hand_worked_row():
    # logits (log 3, 0) give p = (3/4, 1/4); targets 0 with weight 1 and 1 with weight 2.
    rows = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64, requires_grad=True)
    loss_weight = torch.tensor([1.0, 2.0], dtype=torch.float64)
    loss, logp = weighted_nll(rows, Head(weight), torch.tensor([0, 0]), torch.tensor([0, 1]), loss_weight)
    assert loss.item() == pytest.approx(math.log(4 / 3) + 2 * math.log(4), rel=1e-14)
    agree(logp, torch.tensor([math.log(3 / 4), math.log(1 / 4)], dtype=torch.float64))
    grad_rows, grad_weight = gradients(loss, rows, weight)
    # d loss / d logits = W p - weights = 3 (3/4, 1/4) - (1, 2) = (5/4, -5/4)
    agree(grad_weight, torch.tensor([[1.25], [-1.25]]))
    agree(grad_rows, torch.tensor([[1.25 * math.log(3)]], dtype=torch.float64))


@pytest.mark.parametrize("softcap", [None, 0.8])
def test_float32_is_the_exact_answer_to_float32_rounding(softcap):
    exact = inputs()
    expected_loss, expected_logp = naive(*exact, softcap=softcap)
    rows, weight, bias, row, target, loss_weight = inputs(torch.float32)
    loss, logp = weighted_nll(rows, Head(weight, bias, softcap=softcap), row, target, loss_weight)
    assert logp.dtype == torch.float32
    agree(loss, expected_loss, 2e-6)
    agree(logp, expected_logp, 2e-6)
    for got, right in zip(gradients(loss, rows, weight, bias), gradients(expected_loss, *exact[:3]), strict=True):
        agree(got, right, 5e-6)


@pytest.mark.parametrize("upstream", [1.0, 0.5, -3.0])
def test_a_factor_put_on_the_loss_is_put_on_its_gradients(upstream):
    tensors = inputs()
    rows, weight, bias, row, target, loss_weight = tensors
    loss, _ = weighted_nll(rows, Head(weight, bias), row, target, loss_weight)
    expected, _ = naive(*tensors)
    for got, right in zip(
        gradients(upstream * loss, rows, weight, bias), gradients(upstream * expected, rows, weight, bias), strict=True
    ):
        agree(got, right)


def test_a_frozen_head_gets_no_gradient_and_rows_get_theirs(monkeypatch):
    rows, weight, bias, row, target, loss_weight = inputs()

    def never(*_):
        raise AssertionError("a frozen head costs no weight gradient")

    expected = gradients(naive(rows, weight, bias, row, target, loss_weight)[0], rows)[0]
    monkeypatch.setattr(head_module, "add_transposed_product", never)
    frozen = Head(weight.detach(), bias.detach())
    loss, _ = weighted_nll(rows, frozen, row, target, loss_weight)
    loss.backward()
    agree(rows.grad, expected)
    assert weight.grad is None
    assert bias.grad is None


def test_frozen_rows_leave_the_head_its_gradient():
    rows, weight, bias, row, target, loss_weight = inputs()
    loss, _ = weighted_nll(rows.detach(), Head(weight, bias), row, target, loss_weight)
    expected, _ = naive(rows, weight, bias, row, target, loss_weight)
    for got, right in zip(gradients(loss, weight, bias), gradients(expected, weight, bias), strict=True):
        agree(got, right)


def test_measuring_alone_forms_no_gradient(monkeypatch):
    rows, weight, bias, row, target, loss_weight = inputs()

    def never(*_):
        raise AssertionError("no gradient was asked for")

    monkeypatch.setattr(head_module, "add_transposed_product", never)
    monkeypatch.setattr(head_module, "multiply", never)
    with torch.no_grad():
        loss, logp = weighted_nll(rows, Head(weight, bias), row, target, loss_weight)
    expected_loss, expected_logp = naive(rows, weight, bias, row, target, loss_weight)
    agree(loss, expected_loss)
    agree(logp, expected_logp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_stay_finite(dtype):
    rows = torch.tensor([[1e4], [-1e4]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], dtype=dtype, requires_grad=True)
    row, target = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    loss, logp = weighted_nll(rows, Head(weight), row, target, torch.ones(3, dtype=dtype))
    assert logp.tolist() == [0.0, -2e4, -1e4]
    assert loss.item() == 3e4
    grad_rows, grad_weight = gradients(loss, rows, weight)
    # Row 0: W p - weights = (2, 0, 0) - (1, 1, 0); row 1: p is (0, 1, 0), its target 2.
    assert grad_rows.tolist() == [[2.0], [-1.0]]
    assert grad_weight.tolist() == [[1e4], [-2e4], [1e4]]


@pytest.mark.parametrize("softcap", [None, 0.8])
def test_autocast_rounds_the_products_and_nothing_after_them(softcap):
    rows, weight, bias, row, target, loss_weight = inputs(torch.float32, gain=0.6)
    low = [x.detach().bfloat16() for x in (rows, weight, bias)]
    expected_loss, expected_logp = naive(*low, row, target, loss_weight, softcap=softcap)
    logits = Head(*low[1:], softcap=softcap).logits(low[0])
    with torch.autocast("cpu", torch.bfloat16):
        loss, logp = weighted_nll(rows, Head(weight, bias, softcap=softcap), row, target, loss_weight)
    assert logp.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(logp.double(), logits.double().log_softmax(-1)[row, target], rtol=1e-6, atol=1e-6)
    # A logit of up to 4 is rounded to bfloat16's 8 bits: 4 * 2**-8 / 2 = 0.008 nats, and again in softmax's sum.
    assert float((logp.double() - expected_logp).abs().max()) < 0.015
    assert abs(loss.item() - expected_loss.item()) < 0.015 * float(loss_weight.sum())
    right = gradients(naive(rows, weight, bias, row, target, loss_weight, softcap=softcap)[0], rows, weight, bias)
    for got, exact in zip(gradients(loss, rows, weight, bias), right, strict=True):
        assert got.dtype == torch.float32
        # A soft-cap's slope 1 - tanh^2 doubles the relative rounding of a logit near the cap.
        assert float((got.double() - exact).abs().max()) < 0.03 * float(exact.abs().max())


def test_autocast_multiplies_in_its_own_precision(monkeypatch):
    seen = []

    def recorded(x, weight, bias=None, real=head_module.multiply_rows):
        seen.append((x.dtype, weight.dtype, bias.dtype))
        return real(x, weight, bias)

    monkeypatch.setattr(head_module, "multiply_rows", recorded)
    rows, weight, bias, row, target, loss_weight = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        weighted_nll(rows, Head(weight, bias), row, target, loss_weight)
    assert set(seen) == {(torch.bfloat16,) * 3}


def test_a_model_in_bfloat16_takes_its_softmax_in_float32():
    low = inputs(torch.bfloat16)
    rows, weight, bias, row, target, loss_weight = low
    loss, logp = weighted_nll(rows, Head(weight, bias), row, target, loss_weight)
    assert loss.dtype == logp.dtype == torch.float32
    logits = Head(weight, bias).logits(rows)
    torch.testing.assert_close(logp.double(), logits.double().log_softmax(-1)[row, target], rtol=1e-6, atol=1e-6)
    expected_loss, expected_logp = naive(*low)
    assert float((logp.double() - expected_logp).abs().max()) < 0.05  # logits up to 16 rounded to 8 bits
    right = gradients(expected_loss, rows, weight, bias)
    for got, exact in zip(gradients(loss, rows, weight, bias), right, strict=True):
        assert got.dtype == torch.bfloat16
        assert float((got - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_weights_that_sum_to_zero_in_a_row_move_nothing():
    rows, weight, bias, _, _, _ = inputs()
    row, target, loss_weight = torch.tensor([2]), torch.tensor([1]), torch.zeros(1, dtype=torch.float64)
    loss, logp = weighted_nll(rows[:3], Head(weight, bias), row, target, loss_weight)
    assert loss.item() == 0
    assert logp.item() < 0
    assert all(bool((g == 0).all()) for g in gradients(loss, weight, bias))


def test_chunks_cover_every_row_once_and_stay_within_their_size(monkeypatch):
    for size in (1, 17, 34, 100, 10**9):
        monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", size)
        for num_rows in (1, 2, 11, 64):
            found = chunks(num_rows, VOCABULARY)
            assert [i for part in found for i in range(part.start, part.stop)] == list(range(num_rows))
            assert all((part.stop - part.start) * VOCABULARY <= max(size, VOCABULARY) for part in found)
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 10**9)
    assert chunks(11, VOCABULARY) == [slice(0, 11)]
    assert chunks(0, VOCABULARY) == []

"""Log-probabilities with a gradient: against autograd through every logit, torch's distributions, hand values."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from families import (
    FALLBACK,
    FOREST,
    branching_sequences,
    casts_in,
    difference,
    gradient_of,
    tiny,
)
from test_adapters import NEW_IDS, adapted

from heed.forest.build import build
from heed.models.heads import language as head_module
from heed.models.heads import token_logp as token_logp_module
from heed.models.heads.language import Head
from heed.models.heads.token_logp import dense_logp, token_logp
from heed.models.kernels.speed import speed_up
from heed.models.load import prepare_training
from heed.models.score import BY_FOREST, BY_ROWS, ONE_BY_ONE, forest_logp, forest_states, plain_logp, rows_states
from heed.models.self_check import choose_score

ITEMS = branching_sequences()
ROWS, WIDTH, VOCABULARY = 11, 6, 17
ONE_ROW, TWO_ROWS, ALL = 1, 40, 10**9


@pytest.fixture(params=[ONE_ROW, TWO_ROWS, ALL], ids=["a row at a time", "two rows at a time", "all rows at once"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", request.param)
    return request.param


# -- the function alone ---------------------------------------------------------------------------------------------


def inputs(dtype=torch.float64, *, bias=True, gain=1.0):
    """Rows with none, one and several targets, some of them twice, in no order, and a gradient with either sign."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return (gain * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    rows, weight = random(ROWS, WIDTH), random(VOCABULARY, WIDTH)
    row = torch.tensor([3, 0, 3, 9, 3, 10, 4, 5, 6, 7, 8, 3, 0])
    target = torch.tensor([5, 0, 5, 16, 7, 2, 2, 3, 4, 5, 6, 7, 16])
    return rows, weight, random(VOCABULARY) if bias else None, row, target


def distributions(rows, weight, bias, row, *, scale=1.0, softcap=None, temperature=1.0):
    """Each trained token's distribution, from every logit, in float64."""
    logits = rows.double() @ weight.double().T
    logits = (logits if bias is None else logits + bias.double()) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return torch.distributions.Categorical(logits=logits[row] / temperature)


def surrogate(logp, like=None):
    """A loss that is no weighted sum of log p, so that its gradient is known after the forward alone."""
    old = (like if like is not None else logp).detach() - torch.linspace(-0.3, 0.4, len(logp)).to(logp)
    sign = torch.where(torch.arange(len(logp)) % 3 == 0, -1.0, 1.7).to(logp)
    return (sign * (logp - old).exp()).sum() + (logp * logp).sum() / 7


def agree(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, [x for x in tensors if x is not None])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 0.8), (2.5, 0.8)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.usefixtures("chunked")
def test_value_entropy_and_gradient_are_those_of_the_whole_distribution(
    bias, scale, softcap, temperature, with_entropy
):
    rows, weight, b, row, target = inputs(bias=bias)
    head = Head(weight, b, scale, softcap)
    logp, entropy = token_logp(rows, head, row, target, temperature=temperature, with_entropy=with_entropy)
    exact = distributions(rows, weight, b, row, scale=scale, softcap=softcap, temperature=temperature)
    expected = exact.log_prob(target)
    agree(logp, expected)
    if with_entropy:
        agree(entropy, exact.entropy())
        assert not entropy.requires_grad
    else:
        assert entropy is None
    for got, right in zip(
        gradients(surrogate(logp), rows, weight, b), gradients(surrogate(expected), rows, weight, b), strict=True
    ):
        agree(got, right)


def test_hand_worked_row_at_temperature_one_half():
    # logits (log 3, 0) / (1/2) give p = (9/10, 1/10); both targets stand in the one row.
    rows = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64, requires_grad=True)
    zero = torch.tensor([0, 0])
    logp, entropy = token_logp(rows, Head(weight), zero, torch.tensor([0, 1]), temperature=0.5, with_entropy=True)
    agree(logp, torch.tensor([math.log(0.9), math.log(0.1)], dtype=torch.float64))
    agree(entropy, torch.full((2,), -0.9 * math.log(0.9) - 0.1 * math.log(0.1), dtype=torch.float64))
    grad_rows, grad_weight = gradients(2 * logp[0] - logp[1], rows, weight)
    # d/d logits = (2 (1 - 0.9) - (0 - 0.9), 2 (0 - 0.1) - (1 - 0.1)) / 0.5 = (2.2, -2.2)
    agree(grad_weight, torch.tensor([[2.2], [-2.2]], dtype=torch.float64))
    agree(grad_rows, torch.tensor([[2.2 * math.log(3)]], dtype=torch.float64))


@pytest.mark.usefixtures("chunked")
def test_a_graph_can_be_gone_through_twice():
    rows, weight, bias, row, target = inputs()
    logp, _ = token_logp(rows, Head(weight, bias), row, target, temperature=0.7)
    loss = surrogate(logp)
    first = torch.autograd.grad(loss, [rows, weight, bias], retain_graph=True)
    second = torch.autograd.grad(loss, [rows, weight, bias])
    for got, right in zip(second, first, strict=True):
        agree(got, right)


def test_a_second_micro_batch_adds_to_the_gradient_that_the_first_left(chunked):
    rows, weight, bias, row, target = inputs()
    leaves = (rows, weight, bias)
    once = gradients(surrogate(token_logp(rows, Head(weight, bias), row, target)[0]), *leaves)
    for _ in range(3):
        surrogate(token_logp(rows, Head(weight, bias), row, target)[0]).backward()
    for leaf, of_one in zip(leaves, once, strict=True):
        agree(leaf.grad, 3 * of_one)


def test_a_weight_that_changes_before_the_backward_is_refused():
    rows, weight, _, row, target = inputs(bias=False)
    logp, _ = token_logp(rows, Head(weight), row, target)
    with torch.no_grad():
        weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp.sum().backward()


def test_a_second_derivative_is_refused_rather_than_wrong():
    rows, weight, _, row, target = inputs(bias=False)
    logp, _ = token_logp(rows, Head(weight), row, target)
    (grad,) = torch.autograd.grad((logp * logp).sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(("elements", "num_products"), [(ALL, 1), (TWO_ROWS, 11)], ids=["one chunk", "six chunks"])
def test_the_last_chunks_logits_are_made_once_and_the_others_twice(monkeypatch, elements, num_products):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", elements)
    made = []
    real = head_module.multiply_rows
    monkeypatch.setattr(head_module, "multiply_rows", lambda *operands: (made.append(1), real(*operands))[1])
    rows, weight, bias, row, target = inputs()
    logp, _ = token_logp(rows, Head(weight, bias), row, target)
    logp.sum().backward()
    assert len(made) == num_products


def never(*_):
    raise AssertionError("nothing asked for this product")


@pytest.mark.usefixtures("chunked")
def test_a_frozen_head_gets_no_gradient_and_rows_get_theirs(monkeypatch):
    rows, weight, bias, row, target = inputs()
    expected = gradients(surrogate(distributions(rows, weight, bias, row).log_prob(target)), rows)[0]
    monkeypatch.setattr(head_module, "add_transposed_product", never)
    logp, _ = token_logp(rows, Head(weight.detach(), bias.detach()), row, target)
    surrogate(logp).backward()
    agree(rows.grad, expected)
    assert weight.grad is None
    assert bias.grad is None


def test_frozen_rows_leave_the_head_its_gradient(monkeypatch):
    rows, weight, bias, row, target = inputs()
    expected = gradients(surrogate(distributions(rows, weight, bias, row).log_prob(target)), weight, bias)
    monkeypatch.setattr(head_module, "multiply", never)
    logp, _ = token_logp(rows.detach(), Head(weight, bias), row, target)
    for got, right in zip(gradients(surrogate(logp), weight, bias), expected, strict=True):
        agree(got, right)


def test_measuring_alone_keeps_nothing(monkeypatch):
    rows, weight, bias, row, target = inputs()
    monkeypatch.setattr(token_logp_module, "Kept", never)
    with torch.no_grad():
        logp, _ = token_logp(rows, Head(weight, bias), row, target)
    assert not logp.requires_grad
    agree(logp, distributions(rows, weight, bias, row).log_prob(target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("chunked")
def test_logits_of_ten_thousand_stay_finite(dtype):
    rows = torch.tensor([[1e4], [-1e4]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], dtype=dtype, requires_grad=True)
    row, target = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    logp, entropy = token_logp(rows, Head(weight), row, target, with_entropy=True)
    assert logp.tolist() == [0.0, -2e4, -1e4]
    assert entropy.tolist() == [0.0, 0.0, 0.0]
    grad_rows, grad_weight = gradients(-logp.sum(), rows, weight)
    assert grad_rows.tolist() == [[2.0], [-1.0]]
    assert grad_weight.tolist() == [[1e4], [-2e4], [1e4]]


def test_equal_logits_have_the_entropy_of_a_fair_choice():
    rows = torch.zeros(1, 3, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, 3, dtype=torch.float64)
    _, entropy = token_logp(rows, Head(weight), torch.tensor([0]), torch.tensor([1]), with_entropy=True)
    assert entropy.item() == pytest.approx(math.log(VOCABULARY), rel=1e-14)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    rows, weight, bias, row, target = inputs()
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_logp(rows, Head(weight, bias), row, target, temperature=temperature)


@pytest.mark.usefixtures("chunked")
def test_no_trained_tokens_are_no_log_probs_and_no_gradient():
    rows, weight, bias, _, _ = inputs()
    nothing = torch.empty(0, dtype=torch.int64)
    logp, entropy = token_logp(rows[:0], Head(weight, bias), nothing, nothing, with_entropy=True)
    assert logp.shape == entropy.shape == (0,)
    assert not any(bool(g.any()) for g in gradients(logp.sum(), weight, bias))


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside autocast", "backward outside"])
@pytest.mark.usefixtures("chunked")
def test_autocast_rounds_the_products_and_nothing_after_them(softcap, inside):
    rows, weight, bias, row, target = inputs(torch.float32, gain=0.6)
    low = [x.detach().bfloat16() for x in (rows, weight, bias)]
    rounded = distributions(*low, row, softcap=softcap)
    same_logits = torch.distributions.Categorical(logits=Head(*low[1:], softcap=softcap).logits(low[0])[row].double())
    with torch.autocast("cpu", torch.bfloat16):
        logp, entropy = token_logp(rows, Head(weight, bias, softcap=softcap), row, target, with_entropy=True)
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp.detach().double(), same_logits.log_prob(target), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropy.double(), same_logits.entropy(), rtol=1e-6, atol=1e-6)
    # A logit of up to 4 is rounded to bfloat16's 8 bits: 4 * 2**-8 / 2 = 0.008 nats, and again in softmax's sum.
    assert float((logp.detach().double() - rounded.log_prob(target)).abs().max()) < 0.015
    assert float((entropy.double() - rounded.entropy()).abs().max()) < 0.015
    with torch.autocast("cpu", torch.bfloat16) if inside else nullcontext():
        found = gradients(surrogate(logp), rows, weight, bias)
    expected = surrogate(distributions(rows, weight, bias, row, softcap=softcap).log_prob(target))
    for got, exact in zip(found, gradients(expected, rows, weight, bias), strict=True):
        assert got.dtype == torch.float32
        # A soft-cap's slope 1 - tanh^2 doubles the relative rounding of a logit near the cap.
        assert float((got.double() - exact).abs().max()) < 0.04 * float(exact.abs().max())


def test_a_backward_inside_autocast_adds_the_heads_gradient_up_in_float32(monkeypatch):
    seen = []
    real = head_module.add_transposed_product

    def recorded(total, x, y):
        seen.append((total.dtype, x.dtype, y.dtype, torch.is_autocast_enabled("cpu")))
        real(total, x, y)

    monkeypatch.setattr(head_module, "add_transposed_product", recorded)
    rows, weight, _, row, target = inputs(torch.float32, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        token_logp(rows, Head(weight), row, target)[0].sum().backward()
    assert seen == [(torch.float32, torch.float32, torch.float32, False)]


def test_dense_logits_give_the_same():
    rows, weight, bias, row, target = inputs()
    logp, entropy = dense_logp(rows @ weight.T + bias, row, target, temperature=0.7, with_entropy=True)
    exact = distributions(rows, weight, bias, row, temperature=0.7)
    agree(logp, exact.log_prob(target))
    agree(entropy, exact.entropy())
    assert not entropy.requires_grad
    agree(gradients(surrogate(logp), rows, weight)[1], gradients(surrogate(exact.log_prob(target)), rows, weight)[1])


# -- models -----------------------------------------------------------------------------------------------------------

Reference = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def reference(make: Callable[[], Any], temperature: float) -> Reference:
    """log p, entropy and the surrogate's gradient by the model's own eager forward, one sequence at a time."""
    model = make()
    model.set_attn_implementation("eager")
    every_logp, every_entropy = [], []
    for each in ITEMS:
        ids = torch.tensor(each.ids.tolist())
        with casts_in(torch.float64):
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1] / temperature
            exact = torch.distributions.Categorical(logits=logits)
            trained = torch.tensor(each.weight.tolist())[1:] != 0
            every_logp.append(exact.log_prob(ids[1:])[trained])
            every_entropy.append(exact.entropy()[trained].detach())
    with casts_in(torch.float64):
        surrogate(torch.cat(every_logp)).backward()
    return torch.cat(every_logp).detach(), torch.cat(every_entropy), gradient_of(model)


def found_by(way, model, *, share, temperature) -> Reference:
    with casts_in(torch.float64):
        scores = way.logp(model, build(ITEMS, share=share), temperature=temperature, with_entropy=True)
        surrogate(scores.logp).backward()
    return scores.logp.detach(), scores.entropy, gradient_of(model)


def hold(found: Reference, expected: Reference, tolerance: float = 1e-11) -> None:
    agree(found[0], expected[0], 1e-10)
    agree(found[1], expected[1], 1e-10)
    assert difference(found[2], expected[2]) < tolerance


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "granite", "cohere", "phi", "gpt-neox"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_forest_computes_transformers_own_log_probs_and_gradient(family, temperature):
    expected = reference(lambda: tiny(family), temperature)
    for share in (True, False):
        model = tiny(family)
        speed_up(model)
        hold(found_by(BY_FOREST, model, share=share, temperature=temperature), expected)
    for way in (BY_ROWS, ONE_BY_ONE):
        hold(found_by(way, tiny(family), share=False, temperature=temperature), expected)


@pytest.mark.parametrize("new_token_ids", [(), NEW_IDS], ids=["", "with new tokens"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.usefixtures("chunked")
def test_an_adapter_gets_its_gradient_and_the_frozen_base_none(family, new_token_ids):
    expected = reference(lambda: adapted(family, new_token_ids).model, 0.7)
    assert all("lora_" in name or "trainable_tokens" in name for name in expected[2])
    hold(found_by(BY_FOREST, adapted(family, new_token_ids).model, share=True, temperature=0.7), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_recomputing_activations_changes_no_gradient(family):
    expected = reference(lambda: adapted(family).model, 1.0)
    loaded = adapted(family)
    prepare_training(loaded.model, activations="recompute")
    hold(found_by(BY_FOREST, loaded.model, share=True, temperature=1.0), expected)


@pytest.mark.parametrize("family", [*FOREST, *FALLBACK])
def test_log_probs_are_those_of_the_weighted_loss_and_states_are_the_heads_input(family):
    """Values read at `states` and scores of a sequence classifier are of the state after the last norm."""
    model = tiny(family)
    chosen = choose_score(model, ITEMS[-1], longest_in_data=33, num_positions=64, share=True)
    forest = build(ITEMS, share=chosen.shares_prefixes)
    given = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, args, out: given.append(args[0]))
    with torch.no_grad(), casts_in(torch.float64):
        _, expected = chosen.nll(forest)
        scores = chosen.logp(forest)
        states = chosen.states(forest)
        given.clear()
        one_by_one = plain_logp(model, build(ITEMS, share=False), max_tokens=1)
    hook.remove()
    agree(scores.logp, expected, 1e-10)
    assert scores.entropy is None
    assert states.shape == (forest.num_tokens, 32)
    agree(states[forest.last], torch.stack([each[0, -1] for each in given]), 1e-9)
    agree(scores.logp, one_by_one.logp, 1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_padded_rows_states_are_in_the_order_of_the_buffer_and_carry_a_gradient(family):
    model = tiny(family)
    forest = build(ITEMS, share=False)
    found = {}
    for name, states_of in {
        "forest": forest_states,
        "rows": rows_states,
        "alone": ONE_BY_ONE.states,
    }.items():
        model.zero_grad(set_to_none=True)
        with casts_in(torch.float64):
            states = states_of(model, forest)
            (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        found[name] = states.detach(), gradient_of(model)
    for name in ("rows", "alone"):
        agree(found[name][0], found["forest"][0], 1e-10)
        assert difference(found[name][1], found["forest"][1]) < 1e-10


def test_a_shared_forest_is_no_batch_of_rows():
    model = tiny("llama")
    with pytest.raises(ValueError, match="share=False"):
        plain_logp(model, build(ITEMS))
    with pytest.raises(ValueError, match="share=False"):
        rows_states(model, build(ITEMS))


def test_bfloat16_autocast_is_near_the_exact_gradient():
    expected = reference(lambda: tiny("llama"), 1.0)
    model = tiny("llama", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        scores = forest_logp(model, build(ITEMS), with_entropy=True)
    surrogate(scores.logp, expected[0]).backward()
    assert scores.logp.dtype == torch.float32
    assert (
        float((scores.logp.detach() - expected[0]).abs().max()) < 0.6
    )  # 8 bits of logits near 20, through three layers
    found = gradient_of(model)
    along = sum(float((found[name] * g).sum()) for name, g in expected[2].items())
    lengths = [sum(float((g * g).sum()) for g in each.values()) ** 0.5 for each in (found, expected[2])]
    assert along / math.prod(lengths) > 0.95

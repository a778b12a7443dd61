"""Attention over a forest against attention with the whole mask written out, forward and backward."""

import math

import pytest
import torch
from families import branching_sequences

from heed.forest.build import build
from heed.models.attention.flex import flex_tree_attention
from heed.models.attention.layout import ForestLayout
from heed.models.attention.tree_attention import plain_tree_attention, tree_attention

CPU = torch.device("cpu")
FOREST = build(branching_sequences())
WINDOWS = [None, 1, 3, 7, 1_000]
HEADS = [(4, 4), (4, 2), (6, 1)]
NO_EXTRAS = {"softcap": None, "sinks": None}
UNCOMPILED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def layout():
    return ForestLayout.of(FOREST, CPU)


def inputs(heads, key_heads, *, size=8, value_size=None, dtype=torch.float64, gain=2.0):
    """Random queries, keys, values and a gradient of the output; scores large enough for softmaxes to be uneven."""
    generator = torch.Generator().manual_seed(0)
    value_size = value_size or size
    shapes = [(heads, size), (key_heads, size), (key_heads, value_size), (heads, value_size)]
    drawn = [torch.randn(1, h, FOREST.num_tokens, d, generator=generator, dtype=torch.float64) for h, d in shapes]
    query, key, value, grad = ((gain * x).to(dtype) for x in drawn)
    return [x.requires_grad_() for x in (query, key, value)], grad


def visible(window):
    """(T, T): whether row may see column, pair by pair from each sequence's own walk to its root."""
    seen = torch.zeros(FOREST.num_tokens, FOREST.num_tokens, dtype=torch.bool)
    for last in FOREST.last.tolist():
        path = [i for i in range(last + 1) if last < int(FOREST.subtree_end[i])]
        for row in range(len(path)):
            for column in range(row + 1):
                if window is None or row - column < window:
                    seen[path[row], path[column]] = True
    return seen


def dense_attention(query, key, value, *, scale, window, softcap=None, sinks=None):
    """The formula with the whole matrix of scores."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible(window), -math.inf)
    if sinks is not None:
        extra = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, extra], dim=-1)
    weights = scores.softmax(-1)[..., : FOREST.num_tokens]
    return torch.einsum("bhij,bhjd->bhid", weights, value)


def agree(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("heads", "key_heads"), HEADS)
def test_block_by_block_is_the_dense_mask_forward_and_backward(heads, key_heads, window):
    tensors, grad = inputs(heads, key_heads)
    actual = tree_attention(*tensors, layout(), scale=0.3, window=window)
    expected = dense_attention(*tensors, scale=0.3, window=window)
    agree(actual, expected, 1e-12)
    agree(torch.autograd.grad(actual, tensors, grad), torch.autograd.grad(expected, tensors, grad), 1e-12)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_plain_operations_are_the_dense_mask_with_soft_caps_and_sinks(window, softcap, with_sinks):
    tensors, grad = inputs(4, 2, value_size=5)
    if with_sinks:
        tensors.append(torch.tensor([-1.0, 0.5, 2.0, 9.0], dtype=torch.float64, requires_grad=True))
    how = {"scale": 0.3, "window": window, "softcap": softcap}
    sinks = tensors[3] if with_sinks else None
    actual = plain_tree_attention(*tensors[:3], layout(), **how, sinks=sinks)
    expected = dense_attention(*tensors[:3], **how, sinks=sinks)
    agree(actual, expected, 1e-12)
    agree(torch.autograd.grad(actual, tensors, grad), torch.autograd.grad(expected, tensors, grad), 1e-12)


@pytest.mark.parametrize("window", [None, 7])
def test_float32_is_the_float64_answer_to_float32_rounding(window):
    exact, _ = inputs(4, 2)
    expected = dense_attention(*exact, scale=0.3, window=window)
    tensors, _ = inputs(4, 2, dtype=torch.float32)
    agree(tree_attention(*tensors, layout(), scale=0.3, window=window).double(), expected, 1e-5)
    plain = plain_tree_attention(*tensors, layout(), scale=0.3, window=window, **NO_EXTRAS)
    agree(plain.double(), expected, 1e-5)


@pytest.mark.parametrize("window", [None, 7])
def test_bfloat16_is_off_by_its_own_rounding_and_no_more(window):
    tensors, grad = inputs(4, 2, dtype=torch.bfloat16, gain=1.0)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    actual = tree_attention(*tensors, layout(), scale=0.3, window=window)
    expected = dense_attention(*exact, scale=0.3, window=window)
    assert actual.dtype == torch.bfloat16
    # bfloat16 has 8 bits, so one rounding is 2**-8 = 0.4%; a merged output is rounded once per ancestor.
    for got, right in zip(
        (actual, *torch.autograd.grad(actual, tensors, grad)),
        (expected, *torch.autograd.grad(expected, exact, grad.double())),
        strict=True,
    ):
        assert float((got.double() - right).detach().abs().max()) < 0.02 * float(right.detach().abs().max())


def test_scores_in_the_thousands_stay_finite():
    tensors, grad = inputs(4, 2, gain=100.0)
    actual = tree_attention(*tensors, layout(), scale=1.0, window=7)
    expected = dense_attention(*tensors, scale=1.0, window=7)
    agree(actual, expected, 1e-9)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(actual, tensors, grad))


def test_one_layout_serves_layers_with_different_windows():
    tensors, _ = inputs(4, 2)
    shared = layout()
    for window in (3, 7, None, 3):
        actual = tree_attention(*tensors, shared, scale=0.3, window=window)
        agree(actual, dense_attention(*tensors, scale=0.3, window=window), 1e-12)


def test_a_window_of_one_gives_every_token_its_own_value():
    tensors, _ = inputs(4, 4)
    agree(tree_attention(*tensors, layout(), scale=0.3, window=1), tensors[2], 1e-14)


def test_only_what_is_asked_for_gets_a_gradient():
    (query, key, value), grad = inputs(4, 2)
    frozen = tree_attention(query.detach(), key, value, layout(), scale=0.3, window=None)
    every = tree_attention(query, key, value, layout(), scale=0.3, window=None)
    agree(torch.autograd.grad(frozen, (key, value), grad), torch.autograd.grad(every, (key, value), grad), 0)


def test_inputs_laid_out_as_models_lay_them_out_give_the_same():
    tensors, grad = inputs(4, 2)
    transposed = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in tensors]
    grad_transposed = grad.transpose(1, 2).contiguous().transpose(1, 2)
    one = tree_attention(*tensors, layout(), scale=0.3, window=7)
    other = tree_attention(*transposed, layout(), scale=0.3, window=7)
    agree(other, one, 1e-14)
    agree(torch.autograd.grad(other, transposed, grad_transposed), torch.autograd.grad(one, tensors, grad), 1e-13)


@UNCOMPILED
@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2)])
def test_flex_attention_computes_the_same_forward(window, softcap, with_sinks, heads, key_heads):
    # On CPU FlexAttention runs uncompiled and has no backward; the mask and the score's changes are what is tested.
    tensors, _ = inputs(heads, key_heads, size=16, dtype=torch.float32)
    tensors = [x.detach() for x in tensors]
    how = {
        "scale": 0.3,
        "window": window,
        "softcap": softcap,
        "sinks": torch.linspace(-1, 3, heads) if with_sinks else None,
    }
    actual = flex_tree_attention(*tensors, layout(), **how)
    agree(actual, plain_tree_attention(*tensors, layout(), **how), 2e-5)
    agree(actual, dense_attention(*tensors, **how), 2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has a backward on a GPU alone")
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("softcap", "with_sinks"), [(None, False), (0.7, False), (None, True)])
def test_flex_attention_has_the_dense_masks_gradient(window, softcap, with_sinks):
    exact, grad = inputs(4, 2, size=16)
    sinks = torch.linspace(-1, 3, 4, dtype=torch.float64).requires_grad_() if with_sinks else None
    exact += [] if sinks is None else [sinks]
    how = {"scale": 0.3, "window": window, "softcap": softcap}
    expected = dense_attention(*exact[:3], **how, sinks=sinks)
    on_gpu = [x.detach().float().cuda().requires_grad_() for x in exact]
    shared = ForestLayout.of(FOREST, torch.device("cuda"))
    actual = flex_tree_attention(*on_gpu[:3], shared, **how, sinks=on_gpu[3] if with_sinks else None)
    right = torch.autograd.grad(expected, exact, grad)
    for got, one in zip(torch.autograd.grad(actual, on_gpu, grad.float().cuda()), right, strict=True):
        # Products may be taken in TF32, with 10 bits.
        assert float((got.cpu().double() - one).abs().max()) < 5e-3 * float(one.abs().max())


@UNCOMPILED
def test_a_block_mask_is_made_once_per_window():
    tensors = [x.detach() for x in inputs(4, 4, size=16, dtype=torch.float32)[0]]
    shared = layout()
    for window in (None, 7, None):
        flex_tree_attention(*tensors, shared, scale=0.3, window=window, **NO_EXTRAS)
    assert set(shared.block_masks) == {None, 7}


def test_the_layout_knows_every_node_above():
    shared = layout()
    for start, _, _ in shared.nodes:
        above = [i for i in range(start) if start < int(FOREST.subtree_end[i])]
        assert [i for a, b in shared.ancestors(start) for i in range(a, b)] == above
    assert torch.equal(shared.position, FOREST.position)
    assert torch.equal(shared.subtree_end, FOREST.subtree_end)
    assert shared.num_attention_calls == 0

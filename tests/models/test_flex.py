"""FlexAttention over a forest, eagerly on the CPU: forward, backward, the mask's blocks, and its compilations."""

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from families import branching_sequences

from heed.errors import UserError
from heed.forest.build import build
from heed.models.attention import flex
from heed.models.attention.layout import ForestLayout
from heed.models.attention.tree_attention import plain_tree_attention
from heed.types import Tokens

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # dynamo looks at inputs' own
]


@pytest.fixture(autouse=True)
def on_any_device(monkeypatch):
    """PyTorch refuses gradients on the CPU for its compiled kernels' sake; the eager ones have a backward."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)


def all_but_the_first_trained(ids: np.ndarray) -> Tokens:
    return Tokens(ids.astype(np.int32), (np.arange(len(ids)) > 0).astype(np.float32))


def long_forest():
    """Trees whose nodes are longer than blocks, and a mask in which blocks are whole, cut and empty."""
    rng = np.random.default_rng(0)
    root = rng.integers(3, 97, 300)
    sequences = []
    for number in range(5):
        ids = np.concatenate([root[: 300 if number % 2 else 150], rng.integers(3, 97, 140 + 60 * number)])
        sequences.append(all_but_the_first_trained(ids))
    return build([*sequences, *branching_sequences()])


FOREST = long_forest()


def visible(length: int, window: int | None) -> torch.Tensor:
    """The mask written out, padding seeing itself."""
    position = torch.cat([FOREST.position, torch.zeros(length - FOREST.num_tokens, dtype=torch.long)])
    end = torch.cat([FOREST.subtree_end, torch.arange(FOREST.num_tokens, length) + 1])
    row, column = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = (column <= row) & (row < end[None])
    return seen if window is None else seen & (position[:, None] - position[None] < window)


@pytest.mark.parametrize("window", [None, 7, 129, 300])
def test_blocks_from_the_nodes_are_those_of_the_mask_written_out(window):
    length = flex.padded_length(FOREST.num_tokens)
    layout = ForestLayout.of(FOREST, CPU)
    partial, whole = flex.blocks_of(layout.nodes, FOREST.position.numpy(), length, window)
    by_block = visible(length, window).view(length // 128, 128, length // 128, 128).transpose(1, 2)
    some, every = by_block.any((2, 3)).numpy(), by_block.all((2, 3)).numpy()
    assert not (partial & whole).any()
    assert (partial | whole)[some].all(), "a block with something to see is skipped"
    assert not (whole & ~every).any(), "a block is taken whole that the mask cuts"
    assert whole.any() or window in (7, 129)
    assert (~(partial | whole)).sum() > 0.8 * (~some).sum(), "most empty blocks are skipped"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("window", [None, 7, 200])
@pytest.mark.parametrize(("softcap", "with_sinks"), [(None, False), (0.7, False), (None, True), (0.7, True)])
def test_forward_and_backward_are_those_of_plain_attention(window, softcap, with_sinks, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 16), (2, 16), (2, 16), (4, 16)]
    drawn = [torch.randn(1, h, FOREST.num_tokens, d, generator=generator, dtype=torch.float64) for h, d in shapes]
    *tensors, grad = (x.to(dtype) for x in drawn)
    tensors = [x.requires_grad_() for x in tensors]
    sinks = torch.linspace(-1, 3, 4, dtype=dtype).requires_grad_() if with_sinks else None
    learning = tensors if sinks is None else [*tensors, sinks]
    how = {"scale": 0.3, "window": window, "softcap": softcap, "sinks": sinks}
    tolerance = 1e-14 if dtype == torch.float64 else 4e-6
    found = flex.flex_tree_attention(*tensors, ForestLayout.of(FOREST, CPU), **how)
    expected = plain_tree_attention(*tensors, ForestLayout.of(FOREST, CPU), **how)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    right = torch.autograd.grad(expected, learning, grad)
    for got, one in zip(torch.autograd.grad(found, learning, grad), right, strict=True):
        torch.testing.assert_close(got, one, rtol=tolerance, atol=tolerance * float(one.abs().max()))


@pytest.mark.parametrize(("size", "value_size"), [(8, 8), (20, 8), (8, 24)])
def test_heads_that_are_too_small_for_the_kernels_reach_them_padded(monkeypatch, size, value_size):
    """The kernels refuse heads of fewer than 16 numbers."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, size), (2, size), (2, value_size), (4, value_size)]
    *tensors, grad = (
        torch.randn(1, h, FOREST.num_tokens, d, generator=generator, dtype=torch.float64) for h, d in sizes
    )
    tensors = [x.requires_grad_() for x in tensors]
    seen = []
    attend = flex.attend

    def noting(*of_attention, **how):
        seen.append([x.shape[-1] for x in of_attention])
        return attend(*of_attention, **how)

    monkeypatch.setattr(flex, "attend", noting)
    how = {"scale": 0.3, "window": None, "softcap": None, "sinks": None}
    found = flex.flex_tree_attention(*tensors, ForestLayout.of(FOREST, CPU), **how)
    expected = plain_tree_attention(*tensors, ForestLayout.of(FOREST, CPU), **how)
    assert seen == [[max(16, size), max(16, size), max(16, value_size)]]
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    right = torch.autograd.grad(expected, tensors, grad)
    for got, one in zip(torch.autograd.grad(found, tensors, grad), right, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-12, atol=1e-12)


def test_any_lengths_up_to_16384_have_eleven_sizes_and_none_grows_by_more_than_a_half():
    sizes = {flex.padded_length(length) for length in range(1, 16_385)}
    assert len(sizes) == 11
    assert all(size % flex.BLOCK == 0 for size in sizes)
    assert all(length <= flex.padded_length(length) <= max(512, 1.5 * length) for length in range(1, 16_385))


def compiled_with(monkeypatch, most: int) -> list[int]:
    """Let attention be compiled here, by a backend that notes every compilation and runs what it is given."""
    compilations = []

    def noting(graph, inputs):
        compilations.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(torch_flex.flex_attention, dynamic=False, backend=noting)
    monkeypatch.setattr(flex, "compiled_flex_attention", compiled)
    monkeypatch.setattr(flex, "MOST_COMPILED", most)
    return compilations


def attend_over(length: int) -> None:
    forest = build([all_but_the_first_trained(np.random.default_rng(length).integers(3, 97, length))])
    query = torch.randn(1, 1, flex.padded_length(length), 8)
    mask = flex.block_mask(ForestLayout.of(forest, CPU), query, None)
    with torch.no_grad():
        flex.compiled_or_error(query, query, query, block_mask=mask, scale=0.3)


@pytest.mark.slow
def test_a_day_of_lengths_compiles_once_for_each_size(monkeypatch):
    compilations = compiled_with(monkeypatch, most=64)
    lengths = np.random.default_rng(0).integers(1, 2_049, 40).tolist()
    for length in lengths:
        attend_over(length)
    assert 0 < len(compilations) <= len({flex.padded_length(length) for length in lengths})


def test_one_size_too_many_is_told_and_never_runs_unfused(monkeypatch):
    compilations = compiled_with(monkeypatch, most=2)
    for length in (500, 760):
        attend_over(length)
    with pytest.raises(UserError, match="--max-tokens") as caught:
        attend_over(1_000)
    assert "1,024" in caught.value.where
    assert len(compilations) == 2

"""Attention along rows, one per path of the forest, against attention with the whole mask written out."""

import numpy as np
import pytest
import torch
from families import branching_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.forest.build import build, nodes
from heed.models.attention.layout import ForestLayout
from heed.models.attention.row_attention import row_attention
from heed.models.attention.rows import LONGEST_ROW, MOST_COPIES, paths_of, rows_of
from heed.models.attention.tree_attention import plain_tree_attention
from heed.types import Forest, Tokens

CPU = torch.device("cpu")
HEADS = [(4, 4), (4, 2), (6, 1)]


def tokens(ids):
    weight = np.ones(len(ids), dtype=np.float32)
    weight[0] = 0
    return Tokens(np.array(ids, dtype=np.int32), weight)


def forest_of(*sequences):
    return build([tokens(ids) for ids in sequences])


@st.composite
def sequences(draw):
    """Up to eight sequences of very different lengths; many go on from a part of one drawn before."""
    drawn = []
    for _ in range(draw(st.integers(1, 8))):
        start = []
        if drawn and draw(st.booleans()):
            before = draw(st.sampled_from(drawn))
            start = before[: draw(st.integers(0, len(before)))]
        length = draw(st.one_of(st.integers(1, 6), st.integers(7, 40)))
        drawn.append(start + [draw(st.integers(0, 3)) for _ in range(min(3, length))] + list(range(4, length)))
    return drawn


def flat(length, *, first=0):
    return list(range(first, first + length))


def visible_by_ids(forest: Forest) -> torch.Tensor:
    """(T, T): who sees whom, from the definition of the forest: j sees i exactly when i <= j < subtree_end[i]."""
    index = torch.arange(forest.num_tokens)
    return (index[:, None] >= index) & (index[:, None] < forest.subtree_end)


def inputs(forest, heads, key_heads, *, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(heads, size), (key_heads, size), (key_heads, size), (heads, size)]
    drawn = [torch.randn(1, h, forest.num_tokens, d, generator=generator, dtype=torch.float64) for h, d in shapes]
    query, key, value, grad = (2.0 * x for x in drawn)
    return [x.requires_grad_() for x in (query, key, value)], grad


def agree(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def assert_rows_are_the_mask_forward_and_backward(forest, rows, heads, key_heads):
    tensors, grad = inputs(forest, heads, key_heads)
    actual = row_attention(*tensors, rows, scale=0.3)
    layout = ForestLayout.of(forest, CPU)
    expected = plain_tree_attention(*tensors, layout, scale=0.3, window=None, softcap=None, sinks=None)
    agree(actual, expected)
    agree(torch.autograd.grad(actual, tensors, grad), torch.autograd.grad(expected, tensors, grad))


@pytest.mark.parametrize(("heads", "key_heads"), HEADS)
@settings(max_examples=30)
@given(sequences())
def test_rows_are_the_whole_mask_forward_and_backward(heads, key_heads, drawn):
    forest = forest_of(*drawn)
    rows = rows_of(nodes(forest), CPU)
    if rows is not None:
        assert_rows_are_the_mask_forward_and_backward(forest, rows, heads, key_heads)


@pytest.mark.parametrize(("heads", "key_heads"), HEADS)
@pytest.mark.parametrize(
    "forest",
    [
        forest_of([7]),
        forest_of(flat(20)),
        forest_of(flat(20), flat(20, first=30)),
        forest_of(*(flat(length, first=100 * length) for length in (1, 2, 3, 5, 9, 17, 40, 41))),
        forest_of(
            [*flat(6), 90, 91], flat(6) + flat(9, first=20), [*flat(6), 20, 99], flat(3), flat(4) + flat(7, first=50)
        ),
        forest_of([1, 2], [1, 3], [2, 2], [2, 3, 4, 5, 6, 7, 8]),
        build(branching_sequences()),
    ],
    ids=["one token", "one sequence", "two", "many lengths", "shared prefixes", "short pairs", "conversations"],
)
def test_rows_serve_every_shape_of_forest(forest, heads, key_heads):
    rows = rows_of(nodes(forest), CPU)
    assert rows is not None
    assert_rows_are_the_mask_forward_and_backward(forest, rows, heads, key_heads)


def test_a_gradient_of_one_token_reaches_what_it_sees_and_nothing_else():
    forest = build(branching_sequences())
    rows = rows_of(nodes(forest), CPU)
    tensors, _ = inputs(forest, 4, 2)
    visible = visible_by_ids(forest)
    out = row_attention(*tensors, rows, scale=0.3)
    for token in range(0, forest.num_tokens, 7):
        query, key, value = torch.autograd.grad(out[:, :, token].sum(), tensors, retain_graph=True)
        assert (value.abs().amax((0, 1, 3)) > 0).tolist() == visible[token].tolist()
        assert not key.abs().amax((0, 1, 3))[~visible[token]].any()
        assert (query.abs().amax((0, 1, 3)) > 0).nonzero().flatten().tolist() in ([token], [])


def test_the_paths_of_a_forest_made_by_hand():
    """Two trees: 0 1 2 branching into 3 4, which branches into 5 and 6 7, and into 8; then 9 10."""
    runs = [(0, 3, 9), (3, 5, 8), (5, 6, 6), (6, 8, 8), (8, 9, 9), (9, 11, 11)]
    paths = [path.tolist() for path in paths_of(runs)]
    assert paths == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 8], [9, 10]]


def test_the_rows_of_a_forest_made_by_hand():
    """Rows of 7 and 6 tokens make one batch; those of 4 and 2 are too short for it and for one another."""
    runs = [(0, 3, 9), (3, 5, 8), (5, 6, 6), (6, 8, 8), (8, 9, 9), (9, 11, 11)]
    rows = rows_of(runs, CPU)
    assert [place.tolist() for place in rows.places] == [
        [[0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 3, 4, 5, 5]],
        [[0, 1, 2, 8]],
        [[9, 10]],
    ]
    assert rows.longest == 7


@given(sequences())
def test_every_path_is_what_its_last_token_sees(drawn):
    forest = forest_of(*drawn)
    visible = visible_by_ids(forest)
    for path in paths_of(nodes(forest)):
        assert path.tolist() == visible[path[-1]].nonzero().flatten().tolist()


@given(sequences())
def test_every_token_is_read_from_a_place_that_holds_it_at_its_own_position(drawn):
    forest = forest_of(*drawn)
    rows = rows_of(nodes(forest), CPU)
    if rows is None:
        return
    held = torch.cat([place.flatten() for place in rows.places])
    assert torch.equal(held[rows.first], torch.arange(forest.num_tokens))
    positions = torch.cat([torch.arange(place.shape[1]).repeat(place.shape[0]) for place in rows.places])
    assert torch.equal(positions[rows.first], forest.position)
    lengths = sorted((len(path) for path in paths_of(nodes(forest))), reverse=True)
    elsewhere = {*rows.first.tolist(), *rows.again.tolist()}
    assert len(elsewhere) == forest.num_tokens + len(rows.again) == sum(lengths)  # every place but the padding
    assert torch.equal(held[rows.again], rows.again_token)


@given(sequences())
def test_rows_are_made_exactly_when_their_places_are_few_enough(drawn):
    """Copies of shared prefixes and padding together are at most `MOST_COPIES` places per token."""
    forest = forest_of(*drawn)
    rows = rows_of(nodes(forest), CPU)
    lengths = sorted((len(path) for path in paths_of(nodes(forest))), reverse=True)
    if rows is None:
        assert sum(lengths) / 0.7 > MOST_COPIES * forest.num_tokens  # padding adds at most 3 of 10 places
    else:
        assert sum(lengths) <= sum(place.numel() for place in rows.places) <= MOST_COPIES * forest.num_tokens
        assert sorted((place.shape[1] for place in rows.places), reverse=True)[0] == lengths[0] == rows.longest


@pytest.mark.parametrize(("length", "is_made"), [(LONGEST_ROW, True), (LONGEST_ROW + 1, False)])
def test_a_long_row_is_left_to_blocks(length, is_made):
    runs = nodes(forest_of(flat(length), flat(3, first=5_000)))
    assert (rows_of(runs, CPU) is not None) == is_made


@pytest.mark.parametrize(("num_leaves", "is_made"), [(2, True), (3, False)])
def test_a_long_shared_prefix_is_not_copied_more_than_it_is_worth(num_leaves, is_made):
    """A prefix of 60 tokens and leaves of 1: 2 rows of 61 places for 62 tokens are few, 3 for 63 are too many."""
    runs = nodes(forest_of(*([*flat(60), 1000 + leaf] for leaf in range(num_leaves))))
    assert (rows_of(runs, CPU) is not None) == is_made


def test_padding_counts_as_copies():
    """43 is more than 0.7 of 61, so both make one batch of 2 times 61 places for 104 tokens; 42 is not."""
    rows = rows_of(nodes(forest_of(flat(61), flat(43, first=1_000))), CPU)
    assert [tuple(place.shape) for place in rows.places] == [(2, 61)]
    rows = rows_of(nodes(forest_of(flat(61), flat(42, first=1_000))), CPU)
    assert [tuple(place.shape) for place in rows.places] == [(1, 61), (1, 42)]


def test_float32_is_the_float64_answer_to_float32_rounding():
    forest = build(branching_sequences())
    rows = rows_of(nodes(forest), CPU)
    exact, _ = inputs(forest, 4, 2)
    single = [x.detach().float() for x in exact]
    expected = row_attention(*exact, rows, scale=0.3)
    torch.testing.assert_close(row_attention(*single, rows, scale=0.3).double(), expected, rtol=1e-5, atol=1e-5)


def test_inputs_laid_out_as_models_lay_them_out_give_the_same():
    forest = build(branching_sequences())
    rows = rows_of(nodes(forest), CPU)
    tensors, grad = inputs(forest, 4, 2)
    transposed = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in tensors]
    one, other = (row_attention(*some, rows, scale=0.3) for some in (tensors, transposed))
    agree(other, one)
    agree(
        torch.autograd.grad(other, transposed, grad.transpose(1, 2).contiguous().transpose(1, 2)),
        torch.autograd.grad(one, tensors, grad),
    )


def test_only_what_is_asked_for_gets_a_gradient():
    forest = build(branching_sequences())
    rows = rows_of(nodes(forest), CPU)
    (query, key, value), grad = inputs(forest, 4, 2)
    frozen = row_attention(query.detach(), key, value, rows, scale=0.3)
    every = row_attention(query, key, value, rows, scale=0.3)
    agree(torch.autograd.grad(frozen, (key, value), grad), torch.autograd.grad(every, (key, value), grad))

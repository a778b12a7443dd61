"""The forest: a hand-made example field by field, and its stated facts on random sequences."""

import pytest
import torch
from hypothesis import given
from trees import expected_training, paths_of, prefixes_of, sequences, tokens

from heed.forest.build import build, common_prefix, nodes, sort_key
from heed.types import Tokens

HAND_MADE = [
    tokens([5, 6, 7, 8], [0, 0, 1, 1]),
    tokens([5, 6, 9], [0, 0, 2]),
    tokens([5, 6, 7], [0, 0, 0.5]),  # ends inside the first
    tokens([3], [0]),
]
#   3    5 - 6 - 7 - 8
#              \ 9


def fields(forest):
    names = ("ids", "position", "subtree_end", "source", "target", "weight", "sequence", "last")
    return {name: getattr(forest, name).tolist() for name in names}


def test_a_hand_made_forest():
    forest = build(HAND_MADE)
    assert fields(forest) == {
        "ids": [3, 5, 6, 7, 8, 9],
        "position": [0, 0, 1, 2, 3, 2],
        "subtree_end": [1, 6, 6, 5, 5, 6],
        "source": [2, 3, 2, 2],
        "target": [7, 8, 9, 7],
        "weight": [1.0, 1.0, 2.0, 0.5],
        "sequence": [0, 0, 1, 2],
        "last": [4, 5, 3, 0],
    }
    assert (forest.num_tokens, forest.num_unshared_tokens) == (6, 11)
    assert (forest.num_trained_tokens, forest.num_sequences, forest.total_weight) == (4, 4, 4.5)
    assert nodes(forest) == [(0, 1, 1), (1, 3, 6), (3, 5, 5), (5, 6, 6)]


def test_the_same_without_sharing():
    forest = build(HAND_MADE, share=False)
    assert fields(forest) == {
        "ids": [5, 6, 7, 8, 5, 6, 9, 5, 6, 7, 3],
        "position": [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0],
        "subtree_end": [4, 4, 4, 4, 7, 7, 7, 10, 10, 10, 11],
        "source": [1, 2, 5, 8],
        "target": [7, 8, 9, 7],
        "weight": [1.0, 1.0, 2.0, 0.5],
        "sequence": [0, 0, 1, 2],
        "last": [3, 6, 9, 10],
    }
    assert (forest.num_tokens, forest.num_unshared_tokens) == (11, 11)


def test_integers_are_int64_and_weights_float64():
    forest = build(HAND_MADE)
    integers = (forest.ids, forest.position, forest.subtree_end, forest.source, forest.target, forest.last)
    assert {x.dtype for x in (*integers, forest.sequence)} == {torch.int64}
    assert forest.weight.dtype == torch.float64


def test_dividing_scales_the_weights_and_nothing_else():
    forest = build(HAND_MADE)
    expected = fields(forest) | {"weight": [0.25, 0.25, 0.5, 0.125]}
    assert fields(forest.divided_by(4)) == expected
    assert forest.total_weight == 4.5


@given(sequences())
def test_walking_up_from_the_last_token_gives_back_the_sequence(items):
    forest = build(items)
    everything = torch.arange(forest.num_tokens)
    for number, each in enumerate(items):
        last = int(forest.last[number])
        above = everything[(everything <= last) & (last < forest.subtree_end)]
        assert forest.ids[above].tolist() == each.ids.tolist()
        assert forest.position[above].tolist() == list(range(len(each)))


@given(sequences())
def test_every_distinct_prefix_is_in_the_buffer_exactly_once(items):
    forest = build(items)
    paths = paths_of(forest)
    assert len(paths) == len(set(paths))
    assert set(paths) == prefixes_of(items)
    assert forest.num_unshared_tokens == sum(map(len, items))


@given(sequences())
def test_a_token_attends_to_itself_and_what_is_above_it_and_to_nothing_else(items):
    forest = build(items)
    paths = paths_of(forest)
    for j, below in enumerate(paths):
        for i, above in enumerate(paths):
            is_above = below[: len(above)] == above
            assert (i <= j < int(forest.subtree_end[i])) == is_above


@given(sequences())
def test_without_sharing_a_token_attends_to_its_own_sequence_so_far(items):
    forest = build(items, share=False)
    owner = [number for number, each in enumerate(items) for _ in range(len(each))]
    assert forest.ids.tolist() == [token for each in items for token in each.ids.tolist()]
    for j in range(forest.num_tokens):
        for i in range(forest.num_tokens):
            assert (i <= j < int(forest.subtree_end[i])) == (owner[i] == owner[j] and i <= j)


@given(sequences())
def test_sources_and_targets_are_the_shifted_pairs_of_each_sequence(items):
    for share in (True, False):
        forest = build(items, share=share)
        paths = paths_of(forest)
        found = [
            (sequence, paths[source], target, weight)
            for sequence, source, target, weight in zip(
                forest.sequence.tolist(),
                forest.source.tolist(),
                forest.target.tolist(),
                forest.weight.tolist(),
                strict=True,
            )
        ]
        assert found == expected_training(items)


@given(sequences())
def test_nodes_are_the_longest_runs_without_a_branching(items):
    forest = build(items)
    found = nodes(forest)
    assert [start for start, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
    assert found[-1][1] == forest.num_tokens
    starts = [start for start, _, _ in found]
    for start, stop, end in found:
        assert forest.subtree_end[start:stop].tolist() == [end] * (stop - start)
        first = int(forest.position[start])
        assert forest.position[start:stop].tolist() == list(range(first, first + stop - start))
        children = [s for s in starts if stop <= s < end and int(forest.position[s]) == first + stop - start]
        assert len(children) != 1, "a single child belongs to its parent's run"
        assert bool(children) == (stop < end)


def test_identical_sequences_are_stored_once_and_trained_twice():
    one = tokens([4, 4, 4])
    forest = build([one, one])
    assert forest.ids.tolist() == [4, 4, 4]
    assert forest.last.tolist() == [2, 2]
    assert list(zip(forest.source.tolist(), forest.sequence.tolist(), strict=True)) == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_sequence_that_ends_inside_another_adds_nothing(order):
    longer, shorter = tokens([1, 2, 3, 4]), tokens([1, 2])
    forest = build([(longer, shorter)[i] for i in order])
    assert forest.ids.tolist() == [1, 2, 3, 4]
    assert [forest.last.tolist()[order.index(i)] for i in (0, 1)] == [3, 1]


def test_nothing_trained_leaves_no_pairs():
    forest = build([tokens([1, 2], [0, 0])])
    assert forest.num_trained_tokens == len(forest.source) == len(forest.weight) == len(forest.sequence) == 0
    assert forest.total_weight == 0


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([], "at least one sequence"),
        ([tokens([1]), tokens([], [])], "must have a token"),
        ([tokens([1, 2], [1, 1])], "first token cannot be trained"),
    ],
)
def test_what_cannot_be_a_forest_is_refused(items: list[Tokens], says):
    with pytest.raises(ValueError, match=says):
        build(items)


@given(sequences())
def test_keys_sort_as_ids_do(items):
    by_key = sorted(items, key=lambda each: sort_key(each.ids))
    assert [each.ids.tolist() for each in by_key] == sorted(each.ids.tolist() for each in items)


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 9, 3], [1, 2, 3], 1), ([1], [2], 0)],
)
def test_the_common_prefix_ends_at_the_first_difference(a, b, length):
    assert common_prefix(tokens(a, a).ids, tokens(b, b).ids) == length

"""Slow references for the forest, and what hypothesis draws: sequences that share prefixes often."""

import numpy as np
from hypothesis import strategies as st

from heed.types import Forest, Tokens

# Few ids, so that prefixes meet; some whose bytes sort differently from their values if read the wrong way round.
IDS = st.sampled_from([0, 1, 2, 255, 256, 65_536])
WEIGHTS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0])


def tokens(ids, weight=None) -> Tokens:
    """A sequence; everything but the first token is trained unless weights are given."""
    weight = [0.0] + [1.0] * (len(ids) - 1) if weight is None else weight
    return Tokens(np.array(ids, dtype=np.int32), np.array(weight, dtype=np.float32))


@st.composite
def sequences(draw, max_sequences: int = 7):
    """Up to seven sequences; many go on from a part of one drawn before."""
    drawn: list[Tokens] = []
    for _ in range(draw(st.integers(1, max_sequences))):
        start: list[int] = []
        if drawn and draw(st.booleans()):
            before = draw(st.sampled_from(drawn)).ids.tolist()
            start = before[: draw(st.integers(0, len(before)))]
        ids = start + draw(st.lists(IDS, min_size=0 if start else 1, max_size=6))
        drawn.append(tokens(ids, [0.0, *(draw(WEIGHTS) for _ in ids[1:])]))
    return drawn


def prefixes_of(items) -> set[tuple[int, ...]]:
    """Every distinct non-empty prefix of the sequences: what a trie of them would have as its nodes."""
    return {tuple(each.ids[:length].tolist()) for each in items for length in range(1, len(each) + 1)}


def paths_of(forest: Forest) -> list[tuple[int, ...]]:
    """For each buffer token the ids from its root down to it, read off depth-first order and positions alone."""
    paths: list[tuple[int, ...]] = []
    path: list[int] = []
    for token, position in zip(forest.ids.tolist(), forest.position.tolist(), strict=True):
        assert position <= len(path), "a token must follow its parent"
        path = [*path[:position], token]
        paths.append(tuple(path))
    return paths


def expected_training(items) -> list[tuple[int, tuple[int, ...], int, float]]:
    """(sequence, what is read before, target, weight) of each trained token: the shift by one, by hand."""
    return [
        (number, tuple(each.ids[:at].tolist()), int(each.ids[at]), float(each.weight[at]))
        for number, each in enumerate(items)
        for at in range(1, len(each))
        if each.weight[at] != 0
    ]

"""Merge a step's sequences into radix trees, so that every distinct prefix is stored and computed once."""

from collections.abc import Sequence

import numpy as np
import torch

from heed.types import Forest, Tokens


def build(sequences: Sequence[Tokens], *, share: bool = True, reads_last: bool = True) -> Forest:
    """Lay the sequences out depth first, each distinct prefix once.

    Sorted by their ids, sequences with a common prefix are neighbours, and what a sequence shares with
    all those before it is what it shares with its neighbour: the longest common prefix with the one
    before is exactly the part that is already in the buffer.

    The shift by one of next-token prediction happens here and nowhere else: a trained token's `source`
    is the buffer index of the token before it in its own sequence. Several sequences may train
    different tokens from one source. Trained tokens are listed in the order of the sequences given, shared or not.

    Args:
        sequences: at least one, none empty; `weight[0]` must be 0, since nothing predicts a first token.
        share: False gives every sequence a tree of its own; the loss and its gradient are the same.
        reads_last: False leaves each sequence's last token out of the buffer, for it is predicted and nothing is
            predicted from it: a sequence may then be one token longer than the model has positions. `last` is the
            token before it, and every sequence needs two tokens.

    Facts the tests hold it to:
        walking up from `last[s]` gives back sequence s, ids and positions;
        the number of buffer tokens is the number of distinct prefixes.
    """
    if not sequences:
        raise ValueError("a forest needs at least one sequence")
    for tokens in sequences:
        if len(tokens) < (1 if reads_last else 2) or tokens.weight[0] != 0:
            raise ValueError("a sequence must have a token to read, and its first token cannot be trained")
    read = [tokens.ids if reads_last else tokens.ids[:-1] for tokens in sequences]
    order = sorted(range(len(sequences)), key=lambda i: sort_key(read[i])) if share else range(len(sequences))

    num_tokens = 0
    path = np.empty(0, dtype=np.int64)  # buffer indices of the tokens of the sequence before
    previous = np.empty(0, dtype=np.int32)
    ids, position, closings = [], [], []
    sources: dict[int, np.ndarray] = {}
    last = np.empty(len(sequences), dtype=np.int64)
    for index in order:
        tokens = sequences[index]
        num_shared = common_prefix(previous, read[index]) if share else 0
        closings.append((path[num_shared:], num_tokens))
        num_new = len(read[index]) - num_shared
        path = np.concatenate([path[:num_shared], np.arange(num_tokens, num_tokens + num_new)])
        ids.append(read[index][num_shared:])
        position.append(np.arange(num_shared, len(read[index])))
        num_tokens += num_new
        sources[index] = path[np.flatnonzero(tokens.weight) - 1]
        last[index] = path[-1]
        previous = read[index]
    closings.append((path, num_tokens))

    subtree_end = np.empty(num_tokens, dtype=np.int64)
    for closed, end in closings:
        subtree_end[closed] = end
    trained = [np.flatnonzero(tokens.weight) for tokens in sequences]
    return Forest(
        ids=as_integers(ids),
        position=as_integers(position),
        subtree_end=torch.from_numpy(subtree_end),
        source=as_integers([sources[index] for index in range(len(sequences))]),
        target=as_integers([tokens.ids[at] for tokens, at in zip(sequences, trained, strict=True)]),
        weight=torch.from_numpy(
            np.concatenate([tokens.weight[at] for tokens, at in zip(sequences, trained, strict=True)]).astype(
                np.float64
            )
        ),
        sequence=as_integers([np.full(len(at), index) for index, at in enumerate(trained)]),
        last=torch.from_numpy(last),
        num_unshared_tokens=sum(map(len, read)),
    )


def sort_key(ids: np.ndarray) -> bytes:
    """Bytes that compare as the ids do, a prefix before what continues it."""
    return ids.astype(">i4").tobytes()


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading ids the two have in common."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def nodes(forest: Forest) -> list[tuple[int, int, int]]:
    """The trees' nodes in buffer order, each as (start, stop, subtree_end).

    A node is a longest run of tokens without a branching. Neighbours in the buffer with one
    subtree end are parent and child, so nodes are the runs of equal `subtree_end`.
    """
    ends = forest.subtree_end.cpu().numpy()
    starts = np.flatnonzero(np.diff(ends, prepend=-1))
    stops = np.append(starts[1:], len(ends))
    return [(int(a), int(b), int(ends[a])) for a, b in zip(starts, stops, strict=True)]


def as_integers(parts: list[np.ndarray]) -> torch.Tensor:
    """One int64 tensor from the parts."""
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))

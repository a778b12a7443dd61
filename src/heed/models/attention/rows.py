"""The paths of a forest as rows of padded batches: made once per forward, used by every layer's `row_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LONGEST_ROW = 256
"""tokens; beyond, the padded triangle of scores costs more than the calls that it saves"""
MOST_COPIES = 2.0
"""row places, padding included, per buffer token: beyond, sharing saves more than rows do"""
SHORTEST_SHARE = 0.7
"""a path shorter than this share of the longest in its batch begins a batch of its own"""


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Where each place of the rows is read from, and where each token's result is."""

    places: tuple[Tensor, ...]
    """batches of rows of about one length, (rows, longest) buffer index; behind a row's end stands its last token"""
    first: Tensor
    """(T,) index into the places of all batches, in their order, of one that holds each token"""
    again: Tensor
    """indices into the places of all batches of those that hold a token which `first` has elsewhere"""
    again_token: Tensor
    """the buffer index of each of them"""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.places[0].shape[1]


def rows_of(nodes: Sequence[tuple[int, int, int]], device: torch.device) -> Rows | None:
    """The forest's paths as rows, or None where blocks are cheaper.

    Args:
        nodes: (start, stop, subtree_end) of every run of tokens without a branching, in buffer order.
    """
    paths = sorted(paths_of(nodes), key=len, reverse=True)
    if len(paths[0]) > LONGEST_ROW:
        return None
    batches: list[list[np.ndarray]] = []
    for path in paths:
        if not batches or len(path) < SHORTEST_SHARE * len(batches[-1][0]):
            batches.append([])
        batches[-1].append(path)
    num_tokens = max(end for _, _, end in nodes)
    if sum(len(batch) * len(batch[0]) for batch in batches) > MOST_COPIES * num_tokens:
        return None
    first, begun, places, used = np.empty(num_tokens, dtype=np.int64), 0, [], []
    for batch in batches:
        longest = len(batch[0])
        places.append(np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in batch]))
        for path in batch:
            used.append(np.arange(begun, begun + len(path)))
            first[path] = used[-1]
            begun += longest
    place, token = np.concatenate(used), np.concatenate([path for batch in batches for path in batch])
    is_again = first[token] != place
    on_device = [torch.from_numpy(x).to(device) for x in (*places, first, place[is_again], token[is_again])]
    return Rows(tuple(on_device[:-3]), *on_device[-3:])


def paths_of(nodes: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Buffer indices of every path from a root to a leaf."""
    paths: list[np.ndarray] = []
    above: list[tuple[int, int, int]] = []
    for start, stop, end in nodes:
        while above and above[-1][2] <= start:
            above.pop()
        above.append((start, stop, end))
        if stop == end:
            paths.append(np.concatenate([np.arange(a, b) for a, b, _ in above]))
    return paths

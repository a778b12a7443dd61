"""Attention over a forest of many short sequences: every path from root to leaf is one row of a padded batch.

A block per tree node (see `tree_attention`) costs a few kernel calls each, which is nothing beside long nodes and most
of the work beside nodes of twenty tokens. There it is cheaper to copy: queries, keys and values are gathered along the
paths, one causal kernel runs over all rows, and each token's result is read from one row that it stands in. A token
that several paths share is computed in each of them, from the same inputs; only the row that is read gets a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

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
    first, begun, places = np.empty(num_tokens, dtype=np.int64), 0, []
    for batch in batches:
        longest = len(batch[0])
        places.append(np.stack([np.pad(path, (0, longest - len(path)), mode="edge") for path in batch]))
        for path in batch:
            first[path] = np.arange(begun, begun + len(path))
            begun += longest
    return Rows(tuple(torch.from_numpy(place).to(device) for place in places), torch.from_numpy(first).to(device))


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


def row_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, *, scale: float) -> Tensor:
    """Attention of every buffer token to its ancestors and itself.

    Args:
        query: (1, heads, T, head size).
        key, value: (1, key heads, T, head size); heads is a multiple of key heads.
        scale: factor of the scores.

    Returns:
        (1, heads, T, head size)
    """
    is_grouped = query.shape[1] != key.shape[1]
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]
    outs = []
    for place in rows.places:
        q, k, v = (x.index_select(0, place.reshape(-1)).unflatten(0, place.shape).transpose(1, 2) for x in flat)
        # Behind a row's end stand copies that no earlier token sees and that are never read.
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=is_grouped)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs).index_select(0, rows.first).transpose(0, 1)[None]

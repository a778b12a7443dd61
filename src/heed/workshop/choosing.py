"""In which order answers are chosen, so that a budget is the beginning of an order and a smaller one is part of it.

Every order is a function of its numbers alone: ties go to the record that stands earlier, and whatever computed the
numbers, in however many parts, has no say in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]


def at_random(count: int, seed: int) -> Indices:
    """(count,) records in an order that the seed fixes."""
    return np.random.default_rng(seed).permutation(count).astype(np.int64)


def highest_first(values: Floats, *, at_most: float = np.inf) -> Indices:
    """(m,) records with a value of at most `at_most`, by falling value, equal ones as they stand.

    Args:
        values: (n,); NaN is never chosen.
    """
    kept = np.flatnonzero(values <= at_most)
    return kept[np.argsort(-values[kept], kind="stable")].astype(np.int64)


def farthest_first(embeddings: Floats, count: int) -> Indices:
    """(min(count, n),) records, each as far as can be from those before it: greedy k-center.

        i_t = argmax_i min_{s < t} |x_i - x_{i_s}|

    where i_1 is the record nearest to the mean of all. The greatest distance of a record to its nearest chosen one is
    at most twice what the best choice of as many centres reaches.

    Args:
        embeddings: (n, width) of length 1, so that the farthest is the one whose greatest cosine is least.

    Memory: 8 bytes a record beside the embeddings. Time: n x width products for each record chosen.

    Source: Sener and Savarese 2018, arXiv:1708.00489, algorithm 1; Gonzalez 1985 for the bound.
    Differs from the source: there is no first pool of labelled records to start from, and no outlier is left out.
    """
    num_records = len(embeddings)
    chosen = np.empty(min(count, num_records), dtype=np.int64)
    if not len(chosen):
        return chosen
    at = int(np.argmax(embeddings @ embeddings.mean(axis=0)))
    nearest = np.full(num_records, -np.inf)
    for place in range(len(chosen)):
        chosen[place] = at
        np.maximum(nearest, embeddings @ embeddings[at], out=nearest)
        nearest[at] = np.inf
        at = int(np.argmin(nearest))
    return chosen


def unlike_first(order: Indices, embeddings: Floats, count: int, threshold: float) -> Indices:
    """(m,) records in this order, without those whose cosine with one kept before is above the threshold; m <= count.

    Args:
        order: records, the best first.
        embeddings: (n, width) of length 1.

    Source: Liu et al. 2024 (DEITA), arXiv:2312.15685, algorithm 1.
    """
    kept = np.empty((min(count, len(order)), embeddings.shape[1]), dtype=embeddings.dtype)
    chosen: list[int] = []
    for record in order:
        if len(chosen) == count:
            break
        if chosen and float((kept[: len(chosen)] @ embeddings[record]).max()) > threshold:
            continue
        kept[len(chosen)] = embeddings[record]
        chosen.append(int(record))
    return np.array(chosen, dtype=np.int64)

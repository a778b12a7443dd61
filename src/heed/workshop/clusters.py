"""Which records say the same, or nearly, and which of them stand in held-out data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heed.workshop.near import Groups, Sets, near_pairs
from heed.workshop.shingles import IS_COMPARED, PROMPT, UNIT

NONE = -1


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of the records that are not held out. T records."""

    root: np.ndarray
    """(T,) int64; the first record of the cluster that each belongs to, itself where it is alone"""
    held_out: np.ndarray
    """(T,) int64; the held-out record that each is the same as, or near; `NONE` where there is none"""
    similarity: np.ndarray
    """(T,) float64; to that held-out record"""


def clusters_of(rows: np.ndarray, num_train: int, threshold: float | None, sets: Sets, folder: Path) -> Found:
    """Clusters of what is the same, and, from a Jaccard similarity on, of what is linked by nearly the same.

    A record whose prompt is held out, or that is near a held-out one, is in no cluster: it is to go anyway.
    Neither the order of the records nor that of the pairs makes a difference to who is in a cluster with whom.

    Args:
        rows: (N, WIDTH) of the records, the held-out ones behind the first `num_train`.
        threshold: None where only the same counts.
        sets: the shingles of every record; of no meaning without a threshold.
        folder: for files on the way.
    """
    is_compared = rows[:, IS_COMPARED] == 1
    held_out, similarity = _same_as_held_out(rows, num_train, is_compared)
    left = np.flatnonzero(is_compared[:num_train] & (held_out == NONE))
    first = np.arange(num_train)
    first[left] = left[_first_of(rows[:, UNIT][left])]
    if threshold is None:
        return Found(first, held_out, similarity)
    distinct = np.unique(first[left])
    theirs = num_train + np.flatnonzero(is_compared[num_train:])
    if len(theirs):
        groups = Groups(np.where(np.arange(len(rows)) < num_train, 0, num_train), np.zeros(len(rows), bool))
        both = np.concatenate([distinct, theirs[np.unique(_first_of(rows[:, UNIT][theirs]))]])
        for a, b, near in near_pairs(sets, both, threshold, groups, folder):
            rising = np.argsort(near, kind="stable")
            ours, other = np.minimum(a, b)[rising], np.maximum(a, b)[rising]
            held_out[ours], similarity[ours] = other, near[rising]
            groups.is_settled[ours] = True
        held_out[left], similarity[left] = held_out[first[left]], similarity[first[left]]
        left = left[held_out[left] == NONE]
        distinct = np.unique(first[left])
    groups = Groups.apart(num_train)
    for a, b, _ in near_pairs(sets, distinct, threshold, groups, folder):
        groups.join(a, b)
    first[left] = groups.roots(first[left])
    return Found(first, held_out, similarity)


def _same_as_held_out(rows: np.ndarray, num_train: int, is_compared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the first held-out record of the same prompt, or that is the same; 1.0) of every record; (`NONE`, 0.0)."""
    found = np.full(num_train, NONE)
    for columns in (UNIT, PROMPT):
        order = np.concatenate([np.arange(num_train, len(rows)), np.arange(num_train)])
        order = order[is_compared[order]]
        first = order[_first_of(rows[:, columns][order])]
        is_held_out = (order < num_train) & (first >= num_train)
        found[order[is_held_out]] = first[is_held_out]
    return found, np.where(found == NONE, 0.0, 1.0)


def _first_of(digests: np.ndarray) -> np.ndarray:
    """(N,) for each of (N, 2) digests the first place of one that equals it."""
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1] if len(order) else order
    return first

"""Bytes that one of N processes holds of a model's tensors, their gradients and their moments: arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heed.models.blank_model import Held
from heed.train.optimiser import SMALLEST

BLOCK = 256
"""numbers of a moment in 8 bits that share a scale"""
QMAPS = 2 * 256 * 4
"""the two tables of 256 values that moments in 8 bits stand for, once for all"""
STEP = 4
"""bytes of AdamW's count of steps, which it keeps beside each tensor's moments"""


def local_size(shape: Sequence[int], shards: int, rank: int = 0) -> int:
    """Numbers of a tensor that process `rank` of `shards` holds: rows in equal runs, the last of which may be short."""
    if shards == 1:
        size = 1
        for n in shape:
            size *= n
        return size
    rows = -(-shape[0] // shards)
    own = max(0, min(rows, shape[0] - rank * rows))
    size = own
    for n in shape[1:]:
        size *= n
    return size


def parameter_bytes(held: Iterable[Held], shards: int, rank: int = 0) -> int:
    """Parameters, buffers and scales."""
    return sum(local_size(x.shape, shards if x.is_divided else 1, rank) * x.itemsize for x in held)


def gradient_bytes(held: Iterable[Held], shards: int, rank: int = 0) -> int:
    """Gradients of what is trained."""
    return parameter_bytes([x for x in held if x.is_trained], shards, rank)


def moment_bytes(held: Iterable[Held], shards: int, rank: int = 0, *, bits: int = 32) -> int:
    """AdamW's two moments of what is trained, and what it keeps beside them; see `heed.train.optimiser.adamw`."""
    trained = [x for x in held if x.is_trained]
    if bits == 32:
        return sum(2 * local_size(x.shape, shards, rank) * x.itemsize + STEP for x in trained)
    small = [x for x in trained if x.size < SMALLEST or x.is_table]
    large = [x for x in trained if not (x.size < SMALLEST or x.is_table)]
    scaled = sum(2 * (x.size + 4 * -(-x.size // BLOCK)) for x in large)
    return sum(2 * 4 * x.size for x in small) + scaled + (QMAPS if large else 0)


@dataclass(frozen=True)
class Together:
    """What a process of a divided model holds whole for a moment, in bytes."""

    parameters: int
    """those in no layer, from a forward to the end of its backward, and the layers at hand"""
    gradients: int
    """of the same, before they are summed and divided"""


LAYERS_AT_HAND = 3
"""the layer that computes, the one that is fetched for it to be followed by, and the buffer that it arrives in"""
GRADIENTS_AT_HAND = 2
"""a layer's gradients, and the buffer that they are summed in"""


def together_bytes(held: Sequence[Held]) -> Together:
    """An upper estimate of what is put together at once: how far fetching runs ahead depends on the device."""
    divided = [x for x in held if x.is_divided]
    layers: dict[int | None, list[Held]] = {}
    for x in divided:
        layers.setdefault(x.layer, []).append(x)
    root = layers.pop(None, [])
    at_hand = min(LAYERS_AT_HAND, len(layers)) * max((parameter_bytes(x, 1) for x in layers.values()), default=0)
    gradients = GRADIENTS_AT_HAND * max((gradient_bytes(x, 1) for x in layers.values()), default=0)
    of_root = gradient_bytes(root, 1)
    return Together(parameter_bytes(root, 1) + at_hand, max(of_root + gradients, GRADIENTS_AT_HAND * of_root))

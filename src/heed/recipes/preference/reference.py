"""What the reference says of fixed data: computed once, before anything is learnt, and kept in the run folder.

The model that a run opens *is* the reference until its first step, and a resumed run opens it again before it goes back
to its checkpoint. So no second model is held in memory.

    reference_logp.bin   32 bytes for each sequence, in the order in which they were computed:
                         digest (16), log-probability (float64, nats), checksum of both (8)

Sequences are computed in blocks of a fixed size, and a block is written when it is known, so memory does not depend on
how many there are. A pass that was killed at any moment goes on after its last whole block; since blocks are always cut
at the same places, the numbers are bit for bit those of a pass that was never disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from heed import files
from heed.errors import UserError
from heed.objectives.ragged import sum_by_sequence
from heed.recipes.preference.digests import DIGEST_SIZE, DigestIndex, digest
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching
from heed.train.progress import Progress
from heed.types import Forest, Tokens

KEPT = "reference_logp.bin"
AT_A_TIME = 64
"""groups in a block, planned into forwards together"""
ROW_SIZE = DIGEST_SIZE + 8 + 8

Group = tuple[Tokens, ...]
LogpOf = Callable[[Forest], torch.Tensor]
"""forest -> (N,) log p of each trained token, in nats"""
Reference = Callable[[Iterable[Tokens]], np.ndarray]
"""sequences -> (K,) float64, log-probability of each under the reference, summed over its trained tokens, in nats"""


class ReferenceLogp:
    """The `Reference` of the sequences of a finished pass, read through a memory map."""

    def __init__(self, path: Path) -> None:
        rows = _map(path)
        self._logp = rows[:, 2].view("<f8")
        self._index = DigestIndex(rows[:, :2])

    def __call__(self, sequences: Iterable[Tokens]) -> np.ndarray:
        """(K,) float64; a sequence that the pass did not compute is a KeyError."""
        return np.array([self._logp[self._index.place(digest(tokens))] for tokens in sequences], dtype=np.float64)


def not_needed(sequences: Iterable[Tokens]) -> np.ndarray:
    """The `Reference` of an objective that has none: (K,) zeros."""
    return np.array([0.0 for _ in sequences], dtype=np.float64)


def reference_logp(
    groups: Iterable[Group],
    logp_of: LogpOf,
    place: Place,
    batching: MicroBatching,
    *,
    num_groups: int,
    name: str = KEPT,
) -> ReferenceLogp:
    """Compute, with the model as it was opened, what is not in the run folder yet.

    Args:
        groups: sequences that share a prompt, together; read once, a block at a time.
        num_groups: how many there are, for the progress bar.
        name: of the file in the run folder.
    """
    path = place.folder.folder / name
    num_kept = place.world.on_first(lambda: _drop_torn_end(path))
    kept: np.ndarray | None = _map(path)[:num_kept]  # None from the first block on that has to be computed
    if num_kept:
        place.speaker.say(f"reference: {num_kept:,} log-probabilities are known from before")
    row = num_done = 0
    with contextlib.ExitStack() as stack:
        for block in _blocks(groups):
            digests = [digest(tokens) for group in block for tokens in group]
            if kept is None or kept[row : row + len(digests), :2].tobytes() != b"".join(digests):
                if kept is not None:  # what comes from here on is of other data, or not a whole block
                    kept = None
                    place.world.on_first(partial(_cut, path, row))
                    shown = place.world.is_first
                    progress = Progress("reference", total=num_groups, start=num_done, unit="prompts", shown=shown)
                    stack.enter_context(progress)
                _compute(block, digests, logp_of, path, place, batching)
                progress.update(num_done + len(block))
            row, num_done = row + len(digests), num_done + len(block)
    place.world.on_first(partial(_cut, path, row))
    return ReferenceLogp(path)


def _blocks(groups: Iterable[Group]) -> Iterator[list[Group]]:
    remaining = iter(groups)
    while block := list(islice(remaining, AT_A_TIME)):
        yield block


def _compute(
    block: Sequence[Group],
    digests: Sequence[bytes],
    logp_of: LogpOf,
    path: Path,
    place: Place,
    batching: MicroBatching,
) -> None:
    """Compute a block and add it to the file."""
    logp = np.concatenate(batching.per_sequence(block, partial(_sums, logp_of)))
    if not np.isfinite(logp).all():
        raise UserError(
            "the model gives an answer of the data no finite log-probability",
            where="the reference, before the first step",
            found=f"{logp[~np.isfinite(logp)][0]} nats",
            expected="a finite number for every answer",
            fix="--dtype float32, or another --model: this one's numbers overflow",
        )
    place.world.on_first(
        partial(_append, path, b"".join(_row(of, float(value)) for of, value in zip(digests, logp, strict=True)))
    )


def _sums(logp_of: LogpOf, forest: Forest) -> torch.Tensor:
    logp = logp_of(forest).double()
    return sum_by_sequence(logp, forest.sequence.to(logp.device), forest.num_sequences)


def _row(of: bytes, logp: float) -> bytes:
    content = of + np.float64(logp).astype("<f8").tobytes()
    return content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _map(path: Path) -> np.ndarray:
    """(N, 4) uint64, the whole rows of a file, of which only what is read is in memory."""
    num_rows = path.stat().st_size // ROW_SIZE if path.exists() else 0
    if not num_rows:
        return np.empty((0, ROW_SIZE // 8), dtype="<u8")
    return np.asarray(np.memmap(path, dtype="<u8", mode="r", shape=(num_rows, ROW_SIZE // 8)))


def _drop_torn_end(path: Path) -> int:
    """Cut the file behind its last whole row, as a kill or a power cut may have left it; how many rows that are."""
    rows = _map(path)
    num_whole = next((i for i, whole in enumerate(_are_whole(rows)) if not whole), len(rows))
    _cut(path, num_whole)
    return num_whole


def _are_whole(rows: np.ndarray) -> Iterator[bool]:
    for row in rows:
        content = row.tobytes()
        yield _checksum(content[:-8]) == content[-8:]


def _append(path: Path, content: bytes) -> None:
    with files.writing(path), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cut(path: Path, num_rows: int) -> None:
    with files.writing(path), path.open("ab") as file:
        file.truncate(num_rows * ROW_SIZE)

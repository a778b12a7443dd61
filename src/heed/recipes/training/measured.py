"""Which of the held-out records are measured, where there are more than take a moment.

Files are sorted: by task, by language, by length, good answers first. The first records of such a file are a sample of
one kind alone. So records are chosen by a hash of their tokens: as good as at random, the same in every run on the same
data, wherever a record stands and whatever stands beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heed.types import Tokens

ALL = 0
"""a limit that is none"""


@dataclass(frozen=True, eq=False)
class MeasuredRecords:
    """What is measured of a data set."""

    name: str
    records: np.ndarray
    """ascending"""
    num_held_out: int
    folder: Path
    """of the prepared data set"""

    @property
    def line(self) -> str | None:
        """What a user should know, where not all are measured."""
        if len(self.records) == self.num_held_out:
            return None
        return f"{self.name}: measured are {len(self.records):,} of {self.num_held_out:,} held out (--eval-limit)"


def measured_records(
    name: str, folder: Path, held_out: np.ndarray, limit: int, sequences: Callable[[int], tuple[Tokens, ...]]
) -> MeasuredRecords:
    """At most `limit` of the records held out, those whose tokens have the smallest hash.

    Args:
        held_out: (R,) records.
        limit: 0 for all of them.
        sequences: the tokens of a record.
    """
    chosen = held_out
    if limit != ALL and len(held_out) > limit:
        hashes = np.fromiter((_hash(sequences(int(record))) for record in held_out), np.uint64, len(held_out))
        chosen = np.sort(held_out[np.argsort(hashes, kind="stable")[:limit]])
    return MeasuredRecords(name, chosen, len(held_out), folder)


def _hash(sequences: tuple[Tokens, ...]) -> int:
    content = hashlib.blake2b(digest_size=8)
    for tokens in sequences:
        content.update(len(tokens).to_bytes(4, "little") + tokens.ids.astype("<i4").tobytes())
    return int.from_bytes(content.digest(), "little")

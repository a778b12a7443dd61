"""Token sequences told apart by 16 bytes each, and found again among millions without holding them in memory."""

from __future__ import annotations

import hashlib

import numpy as np

from heed.types import Tokens

DIGEST_SIZE = 16
"""bytes: among a billion sequences, two have the same with a probability of 1e-21"""


def digest(tokens: Tokens) -> bytes:
    """16 bytes that tell a sequence, and which of its tokens are trained, from any other."""
    trained = np.flatnonzero(tokens.weight).astype("<i4")
    return hashlib.blake2b(
        len(tokens).to_bytes(4, "little") + tokens.ids.astype("<i4").tobytes() + trained.tobytes(),
        digest_size=DIGEST_SIZE,
    ).digest()


class DigestIndex:
    """Finds the place of a digest in a list of them, by binary search: 16 bytes of memory for each."""

    def __init__(self, digests: np.ndarray) -> None:
        """Sort the list.

        Args:
            digests: (N, 2) uint64, little-endian halves of digests; may be a memory map, of which only the halves that
                are compared are read.
        """
        self._digests = digests
        first = np.array(digests[:, 0])
        self._order = np.argsort(first, kind="stable")
        self._first = first[self._order]

    def place(self, wanted: bytes) -> int:
        """Where it is; the last place, where it is there more than once.

        Raises:
            KeyError: it is not there.
        """
        first, second = np.frombuffer(wanted, dtype="<u8")
        at = int(np.searchsorted(self._first, first, side="right"))
        while at > 0 and self._first[at - 1] == first:
            at -= 1
            if self._digests[self._order[at], 1] == second:
                return int(self._order[at])
        raise KeyError(f"a sequence of the digest {wanted.hex()}")

"""All pairs of sets that are nearly the same, none left out and every one verified, without comparing all with all.

The Jaccard similarity of two sets is J(A, B) = |A & B| / |A | B|. Where it is at least t, they share at least
t max(|A|, |B|) elements. So, whatever order the elements are put in, the first |A| - ceil(t |A|) + 1 of one and the
first |B| - ceil(t |B|) + 1 of the other have one in common (prefix filtering: Chaudhuri, Ganti, Kaushik 2006; Bayardo,
Ma, Srikant 2007). Put the rare ones first, and few pairs share one that are not near. And where the first element that
they share leaves r_A and r_B from there on, they share min(r_A, r_B) at most, which must be t / (1 + t) (|A| + |B|) or
more (positional filtering: Xiao, Wang, Lin, Yu 2008). Unlike MinHash with bands, which
finds a pair of similarity s with probability 1 - (1 - s^r)^b, this finds every pair.

Sets lie on the disk; in memory are some numbers for each, and a part of the first elements at a time.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from heed.workshop.shingles import IN_ANSWER
from heed.workshop.words import mixed

COUNT_BITS, ELEMENT_BITS = 12, 32
"""of what is known of an element when elements are put in order: how frequent it is, and a part of itself"""
BUCKETS = 24
"""bits of the table in which elements are counted"""
AT_ONCE = 1 << 20
"""elements looked at in one go"""
COMPARED = 1 << 17
"""elements of pairs that are compared in one go: they lie here and there, and with each come 64 kB of its file"""
ENTRIES = 1 << 21
"""first elements sorted in one go"""
MOST_PARTS = 256
"""files that are open at once"""


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of 64-bit numbers on the disk, the elements of each in rising order. N sets."""

    file: mmap.mmap | bytes
    start: np.ndarray
    """(N + 1,) int64; where each begins, and the end"""
    num_in_answers: np.ndarray
    """(N,) int64; elements of the answers alone, which are compared by themselves, too"""

    @property
    def size(self) -> np.ndarray:
        return np.diff(self.start)

    @property
    def elements(self) -> np.ndarray:
        """All of them, read where they are looked at."""
        return np.frombuffer(self.file, np.uint64)

    def forget(self) -> None:
        """Let the system have the memory of what was read."""
        if isinstance(self.file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.file.madvise(mmap.MADV_DONTNEED)

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(P,) of pairs of sets: the Jaccard similarity of both, or of their answers alone where that is lower.

        So a long prompt in common makes no duplicates of two different answers. Of two sets without any element it is
        1, for both say nothing.
        """
        size = self.size
        found = np.empty(len(a))
        ends = np.cumsum(size[a] + size[b])
        begin = 0
        while begin < len(a):
            base = ends[begin - 1] if begin else 0
            end = max(int(np.searchsorted(ends, base + COMPARED, "right")), begin + 1)
            found[begin:end] = self._similarity(a[begin:end], b[begin:end])
            begin = end
            self.forget()
        return found

    def _similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        (left, pair), (right, other) = (self._gathered(each) for each in (a, b))
        # Scrambled one to one within a pair, so that all pairs are looked up in one sorted list.
        theirs = np.sort(right ^ mixed(other))
        ours = left ^ mixed(pair)
        at = np.minimum(np.searchsorted(theirs, ours), max(len(theirs) - 1, 0))
        is_shared = theirs[at] == ours if len(theirs) else np.zeros(len(ours), bool)
        shared = np.bincount(pair[is_shared], minlength=len(a))
        in_answers = np.bincount(pair[is_shared & (left >= IN_ANSWER)], minlength=len(a))
        of_answers = jaccard(in_answers, self.num_in_answers[a], self.num_in_answers[b])
        lower: np.ndarray = np.minimum(jaccard(shared, self.size[a], self.size[b]), of_answers)
        return lower

    def _gathered(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = self.size[rows]
        pair = np.repeat(np.arange(len(rows)), size)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(size) - size, size)
        return self.elements[np.repeat(self.start[rows], size) + within], pair


def jaccard(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """|A & B| / |A | B|; 1 where both are empty."""
    union = size_a + size_b - shared
    return np.where(union == 0, 1.0, shared / np.maximum(union, 1))


@dataclass(slots=True)
class Groups:
    """Which sets need not be compared: those of one group, and those that are settled. N sets."""

    parent: np.ndarray
    """(N,) int64; another set of the same group, or itself"""
    is_settled: np.ndarray
    """(N,) bool"""

    @classmethod
    def apart(cls, n: int) -> Groups:
        """Every set a group of its own."""
        return cls(np.arange(n), np.zeros(n, bool))

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The set that stands for the group of each."""
        root: np.ndarray = self.parent[rows]
        while ((above := self.parent[root]) != root).any():
            root = above
        self.parent[rows] = root
        return root

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Make one group of those of every pair; the lowest number stands for it."""
        parent = self.parent
        for one, other in zip(self.roots(a).tolist(), self.roots(b).tolist(), strict=True):
            while parent[one] != one:
                one = int(parent[one])
            while parent[other] != other:
                other = int(parent[other])
            parent[max(one, other)] = min(one, other)

    def are_open(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(P,) whether a pair still needs to be compared."""
        is_open: np.ndarray = (self.roots(a) != self.roots(b)) & ~self.is_settled[a] & ~self.is_settled[b]
        return is_open


def near_pairs(
    sets: Sets, rows: np.ndarray, threshold: float, groups: Groups, folder: Path
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(sets, other sets, similarities) of pairs of `rows` that are as near as `threshold`, in batches.

    Between two batches, whoever takes them may join groups or settle sets: pairs of one group are not looked at.

    Args:
        folder: for files on the way.
    """
    size = sets.size
    for first in _first_elements(sets, rows[size[rows] > 0], threshold, folder):
        for a, b in _candidates(first, size, threshold, groups):
            similarity = sets.similarity(a, b)
            is_near = similarity >= threshold
            if is_near.any():
                yield a[is_near], b[is_near], similarity[is_near]


SET, ELEMENT, REST = 0, 1, 2
"""columns of what is known of a first element: whose it is, itself, and how many there are from it on"""


def _first_elements(sets: Sets, rows: np.ndarray, threshold: float, folder: Path) -> Iterator[np.ndarray]:
    """(E, 3) the rarest elements of every set: all of an element at once, in parts that fit in memory."""
    size = sets.size
    counts = np.zeros(1 << BUCKETS, np.uint32)
    for part in _parts(size[rows]):
        elements, _ = sets._gathered(rows[part])
        np.add.at(counts, elements >> np.uint64(64 - 1 - BUCKETS) & np.uint64((1 << BUCKETS) - 1), np.uint32(1))
        sets.forget()
    num_first = num_first_of(size[rows], threshold)
    num_parts = min(max(1, -(-int(num_first.sum()) // ENTRIES)), MOST_PARTS)
    with contextlib.ExitStack() as stack:
        # Files without a name: whoever kills this process need not clear them away.
        files = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(num_parts)]
        _deal(sets, rows, counts, num_first, files)
        for file in files:
            file.seek(0)
            entries = np.frombuffer(file.read(), np.int64).reshape(-1, 3)
            file.truncate(0)
            yield entries


def _deal(sets: Sets, rows: np.ndarray, counts: np.ndarray, num_first: np.ndarray, files: Sequence[BinaryIO]) -> None:
    """Write the first elements of all sets into files, each element into one of them."""
    size = sets.size
    for part in _parts(size[rows]):
        elements, owner = sets._gathered(rows[part])
        count = np.minimum(counts[elements >> np.uint64(64 - 1 - BUCKETS) & np.uint64((1 << BUCKETS) - 1)], 4095)
        token = count.astype(np.uint64) << np.uint64(ELEMENT_BITS) | elements & np.uint64((1 << ELEMENT_BITS) - 1)
        ordered = np.sort(owner.astype(np.uint64) << np.uint64(COUNT_BITS + ELEMENT_BITS) | token)
        begins = np.cumsum(size[rows[part]]) - size[rows[part]]
        first = num_first[part]
        within = np.arange(first.sum()) - np.repeat(np.cumsum(first) - first, first)
        token = ordered[np.repeat(begins, first) + within] & np.uint64((1 << COUNT_BITS + ELEMENT_BITS) - 1)
        rest = np.repeat(size[rows[part]], first) - within
        entries = np.stack([np.repeat(rows[part], first), token.view(np.int64), rest], 1)
        which = token % np.uint64(len(files))
        for number, file in enumerate(files):
            file.write(entries[which == number].tobytes())
        sets.forget()


def num_first_of(size: np.ndarray, threshold: float) -> np.ndarray:
    """Of a set's elements in any order, how many are enough to share one with every set that is as near as that."""
    # A product that is whole but for rounding must not be rounded up.
    return size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1


def _parts(size: np.ndarray) -> Iterator[slice]:
    """Runs of sets of `AT_ONCE` elements together, or one that is larger."""
    ends = np.cumsum(size)
    begin = 0
    while begin < len(size):
        base = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, base + AT_ONCE, "right")), begin + 1)
        yield slice(begin, end)
        begin = end


def _candidates(
    first: np.ndarray, size: np.ndarray, threshold: float, groups: Groups
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of sets that have a first element in common, may be near by their sizes, and need to be compared."""
    first = first[np.argsort(first[:, ELEMENT], kind="stable")]
    is_again = first[1:, ELEMENT] == first[:-1, ELEMENT]
    is_repeated = np.zeros(len(first), bool)
    is_repeated[1:] |= is_again
    is_repeated[:-1] |= is_again
    first = first[is_repeated]
    first = first[np.lexsort((first[:, SET], size[first[:, SET]], first[:, ELEMENT]))]
    row, token, rest = first[:, SET], first[:, ELEMENT], first[:, REST]
    of_both = threshold / (1 + threshold)
    # The largest partner that a set can be near to, by its size and by what it has from this element on.
    largest = np.minimum(size[row] / threshold, rest / of_both - size[row]) + 1e-9
    at = np.arange(len(row))
    distance = 1
    while True:
        at = at[at + distance < len(row)]
        at = at[token[at] == token[at + distance]]
        # Sizes rise within an element: where this partner is too large, all after it are.
        at = at[size[row[at + distance]] <= largest[at]]
        if not len(at):
            return
        a, b = row[at], row[at + distance]
        is_open = rest[at + distance] >= of_both * (size[a] + size[b]) - 1e-9
        is_open &= groups.are_open(a, b)
        if is_open.any():
            pairs = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], 1)[is_open], axis=0)
            yield pairs[:, 0], pairs[:, 1]
        if distance & (distance - 1) == 0:
            at = at[_are_undecided(row, token, at, groups)]
        distance += 1


def _are_undecided(row: np.ndarray, token: np.ndarray, at: np.ndarray, groups: Groups) -> np.ndarray:
    """Whether the sets that share the element of each place are still of several groups."""
    if not len(at):
        return np.zeros(0, bool)
    begins = np.flatnonzero(np.concatenate([[True], token[1:] != token[:-1]]))
    root = groups.roots(row)
    is_undecided: np.ndarray = np.minimum.reduceat(root, begins) != np.maximum.reduceat(root, begins)
    return is_undecided[np.searchsorted(begins, at, "right") - 1]

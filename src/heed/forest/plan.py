"""Cut an optimiser step into forwards that fit in memory, keeping together what shares a prefix."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from heed.forest.build import common_prefix, sort_key
from heed.types import Tokens

Group = Sequence[Tokens]
"""Sequences that must stay in one forward: a conversation's branches, the answers to one prompt."""


def plan(groups: Sequence[Group], max_tokens: int, *, share: bool = True) -> list[list[int]]:
    """Deal the groups to forwards of at most `max_tokens` forest tokens; return group indices per forward.

    Groups are taken in the order of their ids, so neighbours share the longest prefixes, and a new forward
    starts when the next group's own tokens would not fit. A group longer than `max_tokens` gets a forward
    of its own. Only memory and speed depend on the cut, never the gradient.
    """
    order = sorted(range(len(groups)), key=lambda i: sort_key(groups[i][0].ids)) if share else range(len(groups))
    forwards: list[list[int]] = []
    size = SharedSize(share)
    for index in order:
        if not forwards or not size.add_if_fits(groups[index], max_tokens):
            forwards.append([])
            size = SharedSize(share)
            size.add(groups[index])
        forwards[-1].append(index)
    return forwards


def even_budget(groups: Sequence[Group], max_tokens: int, *, share: bool = True, multiple_of: int = 1) -> int:
    """The smallest budget that needs no more forwards than `max_tokens` does: the same work in equal parts.

    Equal parts have the lowest peak memory, and no small rest runs at the low speed of small matrices.
    The number of forwards is rounded up to a `multiple_of`, the processes that share them out.
    """
    if multiple_of == 1 and (total := total_tokens(groups, share=share)) <= max_tokens:
        return total
    num_forwards = len(plan(groups, max_tokens, share=share))
    num_forwards = -(-num_forwards // multiple_of) * multiple_of
    low, high = 0, max_tokens
    while high - low > max(1, max_tokens // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if len(plan(groups, middle, share=share)) <= num_forwards else (middle, high)
    return high


def deal(groups: Sequence[Group], max_tokens: int, *, share: bool, rank: int, size: int) -> list[list[int]]:
    """The forwards of one of `size` processes, as group indices: even parts of at most `max_tokens` forest tokens."""
    budget = even_budget(groups, max_tokens, share=share, multiple_of=size)
    return plan(groups, budget, share=share)[rank::size]


def total_tokens(groups: Sequence[Group], *, share: bool = True) -> int:
    """Forest tokens of all groups together."""
    size = SharedSize(share)
    for group in groups:
        size.add(group)
    return size.num_tokens


def cut(lengths: Sequence[int], shared: Sequence[int], max_tokens: int, *, carried: Sequence[int]) -> list[range]:
    """Cut sequences in the order of their ids into forwards of at most `max_tokens` forest tokens, and even ones.

    In that order what a sequence shares with all those before it is what it shares with its neighbour, so a sequence
    adds its length less that, and one pass finds the cuts. The budget is the smallest that needs no more forwards.

    Args:
        lengths: tokens of each sequence.
        shared: how many of its first tokens the one before has, too; 0 for all where prefixes are not shared.
        carried: how many of those need not be computed again where a forward begins.

    Returns:
        the sequences of each forward; one longer than `max_tokens` has a forward of its own.
    """

    def forwards(budget: int) -> list[range]:
        starts, size = [], budget + 1
        for index, length in enumerate(lengths):
            size += (new := length - shared[index])
            if new and size > budget:
                starts.append(index)
                size = length - carried[index]
        return [range(a, b) for a, b in zip(starts, [*starts[1:], len(lengths)], strict=True)]

    fewest = len(forwards(max_tokens))
    low, high = 0, max_tokens
    while high - low > max(1, max_tokens // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if len(forwards(middle)) <= fewest else (middle, high)
    return forwards(high)


class SharedSize:
    """How many forest tokens the sequences added so far take."""

    def __init__(self, share: bool) -> None:
        self.share = share
        self.num_tokens = 0
        self.sorted: list[tuple[bytes, int]] = []
        self.ids: list[np.ndarray] = []

    def cost(self, ids: np.ndarray) -> int:
        """Tokens one more sequence would add: its length less the longest prefix shared with a neighbour."""
        if not self.share:
            return len(ids)
        at = bisect_left(self.sorted, (sort_key(ids), -1))
        neighbours = self.sorted[max(0, at - 1) : at + 1]
        return len(ids) - max((common_prefix(self.ids[i], ids) for _, i in neighbours), default=0)

    def add(self, group: Group) -> None:
        """Take the group in, whatever its size."""
        for tokens in group:
            self.num_tokens += self.cost(tokens.ids)
            insort(self.sorted, (sort_key(tokens.ids), len(self.ids)))
            self.ids.append(tokens.ids)

    def add_if_fits(self, group: Group, max_tokens: int) -> bool:
        """Take the group in if the total stays within `max_tokens`; say whether it was."""
        before = self.num_tokens, list(self.sorted), len(self.ids)
        self.add(group)
        if self.num_tokens <= max_tokens:
            return True
        self.num_tokens, self.sorted = before[0], before[1]
        del self.ids[before[2] :]
        return False

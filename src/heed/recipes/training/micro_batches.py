"""How sequences are dealt to forwards, and how numbers come back from them in the order that was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from heed.config import tokens_per_forward
from heed.dist.world import World
from heed.forest.build import build
from heed.forest.plan import Group, deal
from heed.models.load import LoadedModel
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor


Part = TypeVar("Part")
SHARE_OF_FORWARD = 5 / 8
"""of the tokens at which a forward with logits for every one of them is fully busy"""


def lean_forward(max_tokens: int | None, loaded: LoadedModel) -> int:
    """Forest tokens of a forward: those asked for, or fewer than in supervised tuning, which hold fewer activations.

    Reward models have no language head's products to keep busy, and where several roles share a machine their memory
    is what counts.
    """
    return max_tokens or round(SHARE_OF_FORWARD * tokens_per_forward(None, loaded.device.type, loaded.width))


@dataclass(frozen=True)
class MicroBatching:
    """How a step is divided into micro-batches. Only memory and speed depend on it."""

    max_tokens: int
    """forest tokens of a forward"""
    share: bool
    """whether a beginning that sequences share is computed once"""
    world: World

    def forwards(self, groups: Sequence[Group]) -> list[list[int]]:
        """This process's forwards, as indices of groups; none of them is cut apart."""
        budget = self.max_tokens * self.world.group_size  # of which each process of a group holds its part
        return deal(groups, budget, share=self.share, rank=self.world.group, size=self.world.num_groups)

    def as_many_forwards(self, groups: Sequence[Group]) -> list[list[int]]:
        """This process's forwards; where processes move together, some twice, so that all take as many.

        Only for what is computed without learning from it.
        """
        own = self.forwards(groups)
        if not self.world.moves_together:
            return own
        of_all = self.world.gather_objects(own)
        spare = next((forwards[-1] for forwards in (own, *of_all) if forwards), [])
        return own + [spare] * (max(map(len, of_all)) - len(own))

    def forest(self, groups: Sequence[Group]) -> Forest:
        """One forward over all sequences of these groups, in their order."""
        return build([tokens for group in groups for tokens in group], share=self.share)

    def per_sequence(self, groups: Sequence[Group], of_forest: Callable[[Forest], Tensor]) -> list[np.ndarray]:
        """A number for every sequence: (K,) float64 for each group, on every process. Nothing learns from it.

        Args:
            of_forest: (S,) numbers, one for each sequence of a forest.
        """
        found: dict[int, np.ndarray] = {}
        for forward in self.as_many_forwards(groups):
            some = [groups[i] for i in forward]
            with torch.no_grad():
                numbers = of_forest(self.forest(some)).double().cpu().numpy()
            found |= zip(forward, np.split(numbers, np.cumsum([len(group) for group in some])[:-1]), strict=True)
        return self._everywhere(found, len(groups))

    def per_token(self, groups: Sequence[Group], of_forest: Callable[[Forest], Tensor]) -> list[list[np.ndarray]]:
        """Numbers for every trained token: (C, n) float64 for each sequence of each group, on every process.

        Args:
            of_forest: (C, N) numbers, C for each trained token of a forest.
        """
        found: dict[int, list[np.ndarray]] = {}
        for forward in self.as_many_forwards(groups):
            some = [groups[i] for i in forward]
            forest = self.forest(some)
            with torch.no_grad():
                numbers = of_forest(forest).double().cpu().numpy()
            ends = np.cumsum(np.bincount(forest.sequence.numpy(), minlength=forest.num_sequences))
            by_sequence = iter(np.split(numbers, ends[:-1], axis=1))
            found |= {i: [next(by_sequence) for _ in groups[i]] for i in forward}
        return self._everywhere(found, len(groups))

    def _everywhere(self, found: dict[int, Part], count: int) -> list[Part]:
        everywhere = {i: part for of_process in self.world.gather_objects(found) for i, part in of_process.items()}
        return [everywhere[i] for i in range(count)]

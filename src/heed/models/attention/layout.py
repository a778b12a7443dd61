"""What attention needs to know of a forest: made once per forward, used by every layer."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from heed.forest.build import nodes
from heed.models.attention.exchange import Exchange
from heed.models.attention.rows import Rows, rows_of
from heed.types import Forest


@dataclass(eq=False)
class ForestLayout:
    """The forest's mask in the forms the kernels want. Travels through the model as the `forest` keyword argument."""

    position: Tensor
    """(T,) position of each buffer token in its sequence"""
    subtree_end: Tensor
    """(T,) exclusive end of each token's subtree"""
    nodes: list[tuple[int, int, int]]
    """(start, stop, subtree_end) of every run of tokens without a branching"""
    rows: Rows | None = None
    """the paths as a padded batch, where that is the cheaper way on a CPU"""
    num_attention_calls: int = 0
    """how often attention was reached: a model that never calls it, or not in every layer, must not be trusted"""
    additive_masks: dict[tuple[object, ...], Tensor | None] = field(default_factory=dict)
    """masks of blocks that a sliding window cuts, kept for the layers to come"""
    block_masks: dict[int | None, object] = field(default_factory=dict)
    """FlexAttention block masks by sliding window"""

    exchange: Exchange | None = None
    """with the processes that share the forest's tokens; None where one has them all"""

    @property
    def own(self) -> slice:
        """The buffer tokens that this process computes outside attention."""
        return slice(None) if self.exchange is None else self.exchange.own

    @classmethod
    def of(cls, forest: Forest, device: torch.device) -> "ForestLayout":
        """The layout of a forest whose tensors will be read on `device`."""
        runs = nodes(forest)
        rows = rows_of(runs, device) if device.type == "cpu" else None
        return cls(forest.position.to(device), forest.subtree_end.to(device), runs, rows)

    def ancestors(self, start: int) -> list[tuple[int, int]]:
        """The (start, stop) of every node above the one that starts at `start`, from the root down."""
        return [(a, b) for a, b, end in self.nodes if b <= start < end]

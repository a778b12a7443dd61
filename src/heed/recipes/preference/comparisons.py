"""Comparisons as micro-batches: what the reward model and direct preference optimisation have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from heed.data.preferences import RankedTokens
from heed.objectives.preference import Comparisons, comparisons
from heed.recipes.training.micro_batches import MicroBatching
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ComparedForest:
    """All answers of some rankings in one forest, each computed once, and all comparisons among them."""

    forest: Forest
    compared: Comparisons
    lead: Tensor
    """(P,) by how many points of score the winner leads; 0 where the annotators gave only an order"""
    reference_logp: Tensor | None = None
    """(S,) log-probability of each answer under the reference, summed over its tokens, in nats"""
    sft_weight: Tensor | None = None
    """(S,) of each answer's NLL per token in the supervised term: above 0 for the best answers alone; float64"""

    @property
    def total_weight(self) -> float:
        """Rankings, since the comparisons of each weigh 1 together."""
        return float(self.compared.weight.sum())

    def divided_by(self, count: float) -> ComparedForest:
        """The same with every weight divided by `count`."""
        sft_weight = None if self.sft_weight is None else self.sft_weight / count
        return replace(
            self, compared=replace(self.compared, weight=self.compared.weight / count), sft_weight=sft_weight
        )


def on_device(pairs: Comparisons, device: torch.device) -> Comparisons:
    """The same comparisons where the rewards are that they compare."""
    return Comparisons(*(part.to(device) for part in (pairs.winner, pairs.loser, pairs.is_tie, pairs.weight)))


def compared(
    rankings: Sequence[RankedTokens],
    batching: MicroBatching,
    reference: Callable[[RankedTokens], np.ndarray] | None = None,
    *,
    sft_weight: float = 0.0,
) -> list[ComparedForest]:
    """A step over these rankings as this process's micro-batches.

    Args:
        sft_weight: of a ranking's best answer in a supervised term, shared by those that tie with it.
    """
    batches = []
    for forward in batching.forwards([ranking.sequences for ranking in rankings]):
        some = [rankings[i] for i in forward]
        pairs = comparisons([len(r.sequences) for r in some], [r.scores.tolist() for r in some])
        points = torch.from_numpy(
            np.concatenate([r.scores if r.has_margins else np.zeros_like(r.scores) for r in some])
        )
        known = None if reference is None else torch.from_numpy(np.concatenate([reference(r) for r in some]))
        forest = batching.forest([ranking.sequences for ranking in some])
        best = torch.from_numpy(np.concatenate([sft_weight * share_of_best(r) for r in some])) if sft_weight else None
        batches.append(ComparedForest(forest, pairs, points[pairs.winner] - points[pairs.loser], known, best))
    return batches


def share_of_best(ranking: RankedTokens) -> np.ndarray:
    """(K,) 1 for the best answer, or shared evenly by those that tie for it; 0 for the others."""
    is_best = ranking.scores == ranking.scores[0]
    share: np.ndarray = is_best / is_best.sum()
    return share

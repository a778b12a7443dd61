"""A forest scored by several processes together: each computes its slice of the tokens.

Embedding, projections, MLPs and the head's log-probs are of a process's own tokens; around attention tokens are
exchanged for heads (`Exchange`). What comes out is whole on every process, so that a loss made of it is the same on
all of them. Its gradient on a process is that of the sum of all processes' losses: where every weight is divided by
the sum of the weights over all processes, as in a step, it adds up to the gradient of one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from heed.dist.together import Together
from heed.models.attention.exchange import Exchange
from heed.models.attention.layout import ForestLayout
from heed.models.heads.likelihood import Likely
from heed.models.heads.token_logp import TokenScores
from heed.models.score import Score, Way, forest_states, likely_of, logp_of, nll_of
from heed.types import Forest


@dataclass(frozen=True, eq=False)
class Share:
    """What one process computes of a forest."""

    forest: Forest
    """the whole buffer, padded; of trained tokens those that this process predicts, by their place in its slice"""
    layout: ForestLayout
    entries: Int[Tensor, " n"]
    """which of the whole forest's trained tokens those are"""
    num_tokens: int
    """of the whole forest without padding"""
    num_trained: int
    """of the whole forest"""
    together: Together

    @classmethod
    def of(cls, forest: Forest, together: Together, device: torch.device) -> Share:
        """This process's share of a forest that all of the group have."""
        buffer = padded(forest, together.size)
        exchange = Exchange(together, buffer.num_tokens)
        layout = ForestLayout.of(buffer, device)
        layout.exchange = exchange
        own = exchange.own
        entries = torch.nonzero((forest.source >= own.start) & (forest.source < own.stop))[:, 0]
        part = replace(
            buffer,
            source=forest.source[entries] - own.start,
            target=forest.target[entries],
            weight=forest.weight[entries],
            sequence=forest.sequence[entries],
        )
        return cls(part, layout, entries, forest.num_tokens, forest.num_trained_tokens, together)

    def states(self, model: PreTrainedModel) -> Float[Tensor, "own width"]:
        """The final hidden states of this process's tokens."""
        return forest_states(model, self.forest, self.layout)

    def whole(self, of_own: Float[Tensor, " n"]) -> Float[Tensor, " N"]:
        """Numbers of all trained tokens from each process's of its own."""
        entries = self.entries.to(of_own.device)
        return self.together.total(of_own.new_zeros(self.num_trained).index_put((entries,), of_own))

    def joined(self, states: Float[Tensor, "own width"]) -> Float[Tensor, "T width"]:
        """The states of all tokens from each process's."""
        return self.together.joined(states)[: self.num_tokens]


def padded(forest: Forest, multiple_of: int) -> Forest:
    """The forest with a tree of tokens behind it that nothing sees and nothing is predicted from, if one is needed."""
    count = -forest.num_tokens % multiple_of
    if not count:
        return forest
    end = forest.num_tokens + count
    return replace(
        forest,
        ids=torch.cat([forest.ids, forest.ids[:1].expand(count)]),
        position=torch.cat([forest.position, torch.arange(count)]),
        subtree_end=torch.cat([forest.subtree_end, torch.full((count,), end)]),
    )


def shared_nll(together: Together, model: PreTrainedModel, forest: Forest) -> Score:
    """`forest_score` by a group.

    The loss is this process's tokens' times the size of the group: its mean over the group is the whole one, and that
    of its gradients too. log p is of all trained tokens.
    """
    share = Share.of(forest, together, model.device)
    of_own = replace(share.forest, weight=share.forest.weight * together.size)
    loss, logp = nll_of(model, share.states(model), of_own)
    return loss, share.whole(logp)


def shared_logp(
    together: Together,
    model: PreTrainedModel,
    forest: Forest,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> TokenScores:
    """`forest_logp` by a group."""
    share = Share.of(forest, together, model.device)
    found = logp_of(model, share.states(model), share.forest, temperature=temperature, with_entropy=with_entropy)
    entropy = None if found.entropy is None else share.whole(found.entropy)
    return TokenScores(share.whole(found.logp), entropy)


def shared_states(together: Together, model: PreTrainedModel, forest: Forest) -> Float[Tensor, "T width"]:
    """`forest_states` by a group."""
    share = Share.of(forest, together, model.device)
    return share.joined(share.states(model))


def shared_likely(together: Together, model: PreTrainedModel, forest: Forest) -> Likely:
    """`forest_likely` by a group."""
    share = Share.of(forest, together, model.device)
    logp, is_greedy = likely_of(model, share.states(model), share.forest)
    return share.whole(logp), share.whole(is_greedy.to(logp.dtype)) > 0


def by_forest_of(together: Together) -> Way:
    """The forest's way, by a group of processes."""

    def by_group(function: Callable[..., object]) -> Callable[..., object]:
        return partial(function, together)

    return Way(*map(by_group, (shared_nll, shared_logp, shared_states, shared_likely)))  # type: ignore[arg-type]

"""One optimiser step. The only place in heed that divides a loss by a count."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from heed.dist.divided import clip_gradients, is_shard
from heed.dist.world import World
from heed.errors import UserError


class MicroBatch(Protocol):
    """What one forward takes: items with weights, in which the loss is linear."""

    @property
    def total_weight(self) -> float:
        """Sum of the items' weights: trained tokens, conversations or comparisons."""
        ...

    def divided_by(self, count: float) -> Self:
        """The same with every weight divided by `count`."""
        ...


Batch = TypeVar("Batch", bound=MicroBatch)
Mean = tuple[float, float]
"""(sum, count) of a statistic in one forward; its mean is taken over the whole step"""
Statistics = Mapping[str, Mean | float]
"""by name; a plain number is a count, which is added up over the step"""
LossOf = Callable[[Batch], tuple[Tensor, Statistics]]
"""micro-batch -> (sum of weight * loss with its gradient, statistics by name)"""


@dataclass(frozen=True)
class Term(Generic[Batch]):
    """A part of the loss that is a mean over items of its own.

    coefficient * sum(weight * loss) / sum(weight)
    """

    micro_batches: Sequence[Batch]
    """of this process; other processes may have more, fewer or none"""
    loss_of: LossOf[Batch]
    coefficient: float = 1.0


def optimiser_step(
    parameters: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    terms: Sequence[Term[Any]],
    *,
    max_norm: float,
    world: World,
    fix: str = "lower --optim.lr, lengthen --optim.warmup, or use --dtype float32",
) -> dict[str, float]:
    """Accumulate the gradient of the sum of all terms over all micro-batches and processes; clip; step.

    The sum of a term's weights is taken over the whole step before the first backward. So every way of cutting the step
    into micro-batches, and of dealing them to processes, gives the same gradient up to rounding. The division is done
    on the weights, in which the loss is linear, so that no gradient is scaled after the fact. Where processes
    share a forward each has its loss and counts its weights: as often in the sum of the one as in that of the other.

    Args:
        max_norm: 2-norm of the whole gradient above which it is scaled down to it.
        fix: what to do about a loss or gradient that is not finite.

    Returns:
        `loss`: the sum of the terms, in nats where they are log-probabilities. Every statistic's mean or count over the
        step. `grad_norm`: before clipping.

    Raises:
        UserError: the loss or its gradient is not finite. No weight has moved.
    """
    accumulated = accumulate_gradient(terms, world=world)
    world.sum_gradients([parameter for parameter in parameters if not is_shard(parameter)])  # shards have theirs
    norm = clip_gradients(parameters, max_norm, world)
    if not (norm < float("inf") and abs(accumulated["loss"]) < float("inf")):
        optimiser.zero_grad(set_to_none=True)
        raise UserError(
            "the loss or its gradient is not finite",
            where="the training step; no weight has moved",
            found=f"loss {accumulated['loss']}, gradient norm {norm}",
            expected="finite numbers",
            fix=fix,
        )
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {**accumulated, "grad_norm": norm}


def accumulate_gradient(terms: Sequence[Term[Any]], *, world: World) -> dict[str, float]:
    """Add the gradient of the step's loss to the parameters of this process; see `optimiser_step`."""
    loss_sum, means = 0.0, []
    for term in terms:
        weight = sum(batch.total_weight for batch in term.micro_batches)
        count = float(world.sum(torch.tensor(weight, dtype=torch.float64)))
        besides = fillers(term.micro_batches, world)  # settled before the first forward, in which all meet
        for batch in term.micro_batches:
            loss, statistics = term.loss_of(batch.divided_by(count / term.coefficient))
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += float(loss.detach())
            means.append(statistics)
        for batch in besides:
            loss, _ = term.loss_of(batch)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    gathered = world.gather_objects((loss_sum, summed(means)))
    over_step = summed(sums for _, sums in gathered[:: world.group_size])  # those of a group are the same
    return {"loss": sum(loss for loss, _ in gathered), **as_numbers(over_step)}


def fillers(micro_batches: Sequence[Batch], world: World) -> list[Batch]:
    """Micro-batches of weight 0, with which this process takes as many forwards as any other, where all have to.

    None where processes do not move together.
    """
    if not world.moves_together:
        return []
    counts = world.gather_objects(len(micro_batches))
    if min(counts) == max(counts):
        return []
    offered = world.gather_objects(micro_batches[0] if micro_batches else None) if min(counts) == 0 else micro_batches
    filler = next(batch for batch in offered if batch is not None).divided_by(math.inf)
    return [filler] * (max(counts) - len(micro_batches))


def as_numbers(statistics: Statistics) -> dict[str, float]:
    """Sums and counts as means; what was counted nowhere has none, and is left out."""
    return {
        name: value[0] / value[1] if isinstance(value, tuple) else value
        for name, value in statistics.items()
        if not isinstance(value, tuple) or value[1]
    }


def summed(statistics: Iterable[Statistics]) -> dict[str, Mean | float]:
    """Sums and counts of each name, added up."""
    total: dict[str, Mean | float] = {}
    for name, value in chain.from_iterable(each.items() for each in statistics):
        before = total.get(name)
        if isinstance(value, tuple) and isinstance(before, tuple):
            total[name] = (before[0] + value[0], before[1] + value[1])
        elif isinstance(value, tuple) or before is None:
            total[name] = value
        else:
            assert not isinstance(before, tuple)
            total[name] = before + value
    return total


def likelihood(score: Callable[[Batch], tuple[Tensor, Tensor]]) -> LossOf[Batch]:
    """The loss of supervised tuning for the step: `score` gives the weighted NLL and log p of each trained token.

    Its statistics: `nll_per_token` in nats, weights aside, and `num_trained_tokens`.
    """

    def loss_of(batch: Batch) -> tuple[Tensor, Statistics]:
        loss, logp = score(batch)
        return loss, {"nll_per_token": (-float(logp.double().sum()), len(logp)), "num_trained_tokens": len(logp)}

    return loss_of


@torch.no_grad()
def evaluate(micro_batches: Sequence[Batch], loss_of: LossOf[Batch], *, world: World) -> dict[str, float]:
    """What a step over these micro-batches would report, without learning from them."""
    return accumulate_gradient([Term(micro_batches, loss_of)], world=world)

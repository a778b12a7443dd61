"""One optimiser step. The only place in heed that divides a loss by a count."""

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from heed.dist.world import World
from heed.errors import UserError


class MicroBatch(Protocol):
    """What one forward takes: items with weights, in which the loss is linear."""

    @property
    def total_weight(self) -> float:
        """Sum of the items' weights: trained tokens, conversations or comparisons."""
        ...

    @property
    def num_trained_tokens(self) -> int:
        """Tokens that carry loss."""
        ...

    def divided_by(self, count: float) -> Self:
        """The same with every weight divided by `count`."""
        ...


Batch = TypeVar("Batch", bound=MicroBatch)
LossOf = Callable[[Batch], tuple[Tensor, Tensor]]
"""micro-batch -> (sum of weight * loss with its gradient, detached log p of each trained token)"""


def optimiser_step(
    parameters: Sequence[Tensor],
    optimiser: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    loss_of: LossOf[Batch],
    *,
    max_norm: float,
    world: World,
) -> dict[str, float]:
    """Accumulate the gradient of sum(weight * loss) / sum(weight) over all micro-batches and processes; clip; step.

    The sum of weights is taken over the whole step before the first backward. So every way of cutting the step into
    micro-batches, and of dealing them to processes, gives the same gradient up to rounding. The division is done on
    the weights, in which the loss is linear, so that no gradient is scaled after the fact.

    Args:
        micro_batches: of this process; other processes may have more, fewer or none.
        max_norm: 2-norm of the whole gradient above which it is scaled down to it.

    Returns:
        `loss`: the step's mean, in nats. `nll_per_token`: mean over trained tokens, weights aside.
        `num_trained_tokens`. `grad_norm`: before clipping.

    Raises:
        UserError: the loss or its gradient is not finite. No weight has moved.
    """
    accumulated = accumulate_gradient(micro_batches, loss_of, world=world)
    world.sum_gradients(parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    if not (norm < float("inf") and abs(accumulated["loss"]) < float("inf")):
        optimiser.zero_grad(set_to_none=True)
        raise UserError(
            "the loss or its gradient is not finite",
            where="the training step; no weight has moved",
            found=f"loss {accumulated['loss']}, gradient norm {norm}",
            expected="finite numbers",
            fix="lower --optim.lr, lengthen --optim.warmup, or use --dtype float32",
        )
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return {**accumulated, "grad_norm": norm}


def accumulate_gradient(micro_batches: Sequence[Batch], loss_of: LossOf[Batch], *, world: World) -> dict[str, float]:
    """Add the gradient of the step's mean loss to the parameters of this process; see `optimiser_step`."""
    count = float(world.sum(torch.tensor(sum(b.total_weight for b in micro_batches), dtype=torch.float64)))
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in micro_batches:
        loss, logp = loss_of(batch.divided_by(count))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        sums += torch.stack([loss.detach().double().cpu(), logp.double().sum().cpu(), torch.tensor(float(len(logp)))])
    loss_sum, logp_sum, num_tokens = world.sum(sums).tolist()
    return {"loss": loss_sum, "nll_per_token": -logp_sum / num_tokens, "num_trained_tokens": int(num_tokens)}


@torch.no_grad()
def evaluate(micro_batches: Sequence[Batch], loss_of: LossOf[Batch], *, world: World) -> dict[str, float]:
    """What a step over these micro-batches would report, without learning from them."""
    return accumulate_gradient(micro_batches, loss_of, world=world)

"""The pace of a run that tunes on fixed data: what every step of `sft`, `reward` and `dpo` does to the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from heed.config import Optim
from heed.dist.world import World
from heed.models.trained import tables_of
from heed.parallel_config import Offload
from heed.train.optimiser import adamw, keep_moments_on_cpu, set_learning_rate
from heed.train.schedule import learning_rate
from heed.train.step import Term, optimiser_step


def optimiser_for(
    settings: Optim,
    named: Sequence[tuple[str, nn.Parameter]],
    model: nn.Module,
    say: Callable[[str], None],
    offload: Offload = (),
) -> torch.optim.Optimizer:
    """AdamW over what a run trains of a model; `say` hears what of its states is kept in 8 bits, if any is."""
    optimiser = adamw(named, weight_decay=settings.weight_decay, bits=settings.bits, in_32=tables_of(model), say=say)
    if "optimiser" in offload:
        keep_moments_on_cpu(optimiser)
    return optimiser


def step_on_schedule(
    step: int,
    optimiser: torch.optim.Optimizer,
    terms: Sequence[Term[Any]],
    *,
    settings: Optim,
    peak: float,
    total_steps: int,
    world: World,
) -> dict[str, float]:
    """One optimiser step at the learning rate of its place in the run.

    Args:
        step: from 1.
        peak: learning rate after warm-up.

    Returns:
        What `optimiser_step` reports, and `learning_rate`. Raises as `optimiser_step` does.
    """
    rate = learning_rate(
        step,
        peak=peak,
        warmup_steps=round(settings.warmup * total_steps),
        total_steps=total_steps,
        shape=settings.schedule,
    )
    set_learning_rate(optimiser, rate)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    numbers = optimiser_step(parameters, optimiser, terms, max_norm=settings.max_norm, world=world)
    return {**numbers, "learning_rate": rate}

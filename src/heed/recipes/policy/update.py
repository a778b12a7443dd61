"""The clipped steps on a rollout's answers: minibatches of experience, the policy's loss, and their metrics.

A rollout is learnt from in a few passes. Dropout is off everywhere. Log-probabilities that are compared all come from
the training forward, at the temperature of sampling.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heed.models.decode.answers import Answer
from heed.models.roles import Role
from heed.objectives.kl import kl_k2
from heed.objectives.policy import (
    TokenWeights,
    approximate_kl,
    clipped_surrogate,
    importance_ratio,
    is_ratio_clipped,
)
from heed.recipes.policy.rollout import RoleOutputs, Rollout, RolloutModels, importance_weights
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching
from heed.train.step import Mean, Statistics, Term, optimiser_step
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor

MAX_NORM = 1.0
"""of a gradient; a larger one is scaled down to it"""


@dataclass(frozen=True, eq=False)
class Experience:
    """An answer with all that is learnt from it: (n,) float64 for each of its tokens."""

    answer: Answer
    old_logp: Tensor
    """under the policy that drew it"""
    reference_logp: Tensor
    advantage: Tensor
    old_value: Tensor
    returns: Tensor
    """what the value should have been"""
    importance: Tensor
    """what the policy's loss is multiplied with, since another engine drew it; 1 where heed did"""


def experiences_of(
    rollout: Rollout, outputs: RoleOutputs, advantage: Tensor, returns: Tensor
) -> list[list[Experience]]:
    """A rollout's answers with what is learnt from each, by prompt.

    Args:
        advantage, returns: (N,) of every token, the answers one after the other.
    """
    lengths = [answer.num_tokens for answer in rollout.answers]
    columns = (
        outputs.logp,
        outputs.reference_logp,
        advantage,
        outputs.value,
        returns,
        importance_weights(rollout, outputs),
    )
    of_answer = zip(*(column.split(lengths) for column in columns), strict=True)
    return [[Experience(answer, *next(of_answer)) for answer in group] for group in rollout.groups]


@dataclass(frozen=True, eq=False)
class ExperienceBatch:
    """Answers in one forest, with what is learnt from each of their N tokens: a micro-batch of an optimiser step."""

    forest: Forest
    old_logp: Tensor
    reference_logp: Tensor
    advantage: Tensor
    old_value: Tensor
    returns: Tensor
    importance: Tensor
    weights: TokenWeights

    @property
    def total_weight(self) -> float:
        """What the sum of all weighted losses is divided by; not always the sum of the weights."""
        return self.weights.total

    def divided_by(self, count: float) -> ExperienceBatch:
        """The same with every weight divided by `count`."""
        return replace(self, weights=replace(self.weights, weight=self.weights.weight / count))


WeightsOf = Callable[["Tensor", int], TokenWeights]
"""(sequence (N,), number of sequences) -> how much each token counts"""


def micro_batches_of(
    minibatch: Sequence[Sequence[Experience]], batching: MicroBatching, weights_of: WeightsOf
) -> list[ExperienceBatch]:
    """An optimiser step over these answers as this process's micro-batches; answers to one prompt stay together."""
    batches = []
    sequences = [[each.answer.tokens for each in group] for group in minibatch]
    for forward in batching.forwards(sequences):
        forest = batching.forest([sequences[i] for i in forward])
        some = [each for i in forward for each in minibatch[i]]
        batches.append(
            ExperienceBatch(
                forest,
                torch.cat([each.old_logp for each in some]),
                torch.cat([each.reference_logp for each in some]),
                torch.cat([each.advantage for each in some]),
                torch.cat([each.old_value for each in some]),
                torch.cat([each.returns for each in some]),
                torch.cat([each.importance for each in some]),
                weights_of(forest.sequence, forest.num_sequences),
            )
        )
    return batches


def shuffled_minibatches(groups: Sequence[Any], count: int, *, seed: int, step: int, epoch: int) -> list[list[Any]]:
    """The groups in a new order, cut into minibatches of nearly equal size; a pure function of its arguments."""
    order = np.random.default_rng([seed, step, epoch]).permutation(len(groups))
    return [[groups[int(i)] for i in part] for part in np.array_split(order, count) if len(part)]


def policy_loss_of(
    models: RolloutModels, *, clip: float, clip_high: float | None = None, kl_weight: float = 0.0
) -> Callable[[ExperienceBatch], tuple[Tensor, Statistics]]:
    """The clipped surrogate of a step, plus `kl_weight` times the estimate k2 of KL(policy || reference).

    On the policy's own samples, the gradient of a token's k2 is that of the KL of that token's distribution. What a
    token does to the KL of those after it is left out: see `kl_k2`.

    Args:
        clip: see `clipped_surrogate`, as its `epsilon_low`.
        clip_high: its `epsilon_high`; None: the same.
    """
    high = clip if clip_high is None else clip_high

    def loss_of(batch: ExperienceBatch) -> tuple[Tensor, Statistics]:
        logp = models.logp(models.roles.policy, batch.forest).logp.double()
        old = batch.old_logp.to(logp)
        advantage = batch.advantage.to(logp)
        loss = clipped_surrogate(logp, old, advantage, epsilon_low=clip, epsilon_high=high)
        if kl_weight:
            loss = loss + kl_weight * kl_k2(logp, batch.reference_logp.to(logp))
        now = logp.detach()
        clipped = is_ratio_clipped(now, old, advantage, epsilon_low=clip, epsilon_high=high)
        ratio = importance_ratio(now, old)

        def mean(of: Tensor) -> Mean:
            return float(of.sum()), len(of)

        weight = batch.weights.weight.to(logp) * batch.importance.to(logp)
        return (weight * loss).sum(), {
            "clip_fraction": mean(clipped.double()),
            "approximate_kl": mean(approximate_kl(now, old)),
            "ratio_mean": mean(ratio),
            "ratio_square_mean": mean(ratio.square()),
        }

    return loss_of


def step_of(role: Role, optimiser: torch.optim.Optimizer, terms: Sequence[Term[Any]], place: Place) -> dict[str, float]:
    """One optimiser step of what a role learns, and its metrics."""
    parameters = [parameter for _, parameter in role.trained_parameters()]
    flag, rate = "--value.lr" if role.name == "value" else "--lr", optimiser.param_groups[0]["lr"]
    fix = f"{flag} {rate / 10:.1g}, a tenth of what it is here, with another --out"
    return optimiser_step(parameters, optimiser, terms, max_norm=MAX_NORM, world=place.world, fix=fix)


def mean_over_steps(steps: Sequence[dict[str, float]], loss_name: str) -> dict[str, float]:
    """The metrics of a phase's optimiser steps as one line: means over the steps, the variance of the ratio."""
    if not steps:
        return {}
    mean = {name: float(np.mean([each[name] for each in steps])) for name in steps[0]}
    mean[loss_name] = mean.pop("loss")
    if "ratio_square_mean" in mean:
        mean["ratio_variance"] = max(0.0, mean.pop("ratio_square_mean") - mean["ratio_mean"] ** 2)
    return mean


def copy_of(parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> dict[str, Tensor]:
    """What a role has learnt, for a checkpoint."""
    return {name: copy.deepcopy(parameter.detach()) for name, parameter in parameters}

"""Group-relative policy optimisation: several answers to each prompt, and each is as good as it beats the others.

    prompts -> groups of answers -> scores -> advantages within groups -> clipped steps of the policy -> run folder

    A = (score - mean of the group) / std of the group,   L = clipped surrogate + beta k2(policy || reference)

(Shao et al. 2024, arXiv:2402.03300.) No value model. The KL is in the loss, as there, but by the estimate k2, whose
gradient is that of each token's KL; k3's, which the paper has, is not. What a token does to the KL of those after it
is left out by both. With `kl.within` reward it is counted: then k1 of the whole answer is taken off its advantage, as
far as it is more than the mean of the others', which has the gradient of the KL of answers. Options: advantages that
are only centred, and a constant length in place of each answer's own (Liu et al. 2025, arXiv:2503.20783); the mean of
the others as the baseline (Ahmadian et al. 2024, arXiv:2402.14740); the mean over tokens (Yu et al. 2025,
arXiv:2503.14476). Everything else is as in PPO's recipe. The answers to a prompt are in one forest, so the prompt is
computed once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from heed.errors import UserError
from heed.objectives.advantage import (
    centred_group_advantages,
    group_advantages,
    group_deviations,
    leave_one_out_advantages,
    score_less_missing_stop,
)
from heed.objectives.policy import constant_length_weights, sequence_mean_weights, token_mean_weights
from heed.preference_config import GrpoSettings
from heed.recipes.policy.engine import drawing_as_asked
from heed.recipes.policy.phases import go_through_phases, is_over_budget, rate_of_phase, seed_of_phase
from heed.recipes.policy.rollout import draw_rollout, log_samples, role_outputs, rollout_metrics, score_rollout
from heed.recipes.policy.setup import PolicySetup, open_policy, optimiser_of, peak_rate
from heed.recipes.policy.update import (
    WeightsOf,
    experiences_of,
    mean_over_steps,
    micro_batches_of,
    policy_loss_of,
    shuffled_minibatches,
    step_of,
)
from heed.recipes.training.loop import Place, in_run_folder
from heed.train.checkpoint import restore_optimiser
from heed.train.optimiser import set_learning_rate
from heed.train.step import Term

if TYPE_CHECKING:
    from torch import Tensor

ADVANTAGES = {
    "group": group_advantages,
    "centred": centred_group_advantages,
    "leave-one-out": leave_one_out_advantages,
}
"""by the setting `advantage`"""


@dataclass(frozen=True, eq=False)
class Training:
    """Everything a phase needs."""

    settings: GrpoSettings
    setup: PolicySetup
    optimiser: torch.optim.Optimizer
    peak: float


def run(settings: GrpoSettings) -> None:
    """Let the model learn from rewards into its run folder; go on where an earlier run stopped."""
    refuse_uneven_groups(settings)
    in_run_folder(settings, train)


def train(settings: GrpoSettings, place: Place) -> None:
    """From the opened run folder to the policy in it."""
    setup = open_policy(settings, place, with_value=False)
    with drawing_as_asked(settings, setup, place) as setup:
        optimiser = optimiser_of(setup.models.roles.policy, settings.optim.bits, place.speaker.say, settings.offload)
        training = Training(settings, setup, optimiser, peak_rate(settings.lr, setup.models))
        go_through_phases(
            settings,
            setup,
            place,
            take_phase=lambda step: take_phase(training, step, place),
            state=lambda: {"optimiser": optimiser.state_dict()},
            put_back=lambda kept: restore_optimiser(optimiser, kept["optimiser"]),
        )


def take_phase(training: Training, step: int, place: Place) -> dict[str, float]:
    """One phase: the policy answers prompts, and learns which answers were better; returns its metrics."""
    settings, setup, models = training.settings, training.setup, training.setup.models

    # The policy answers each prompt of a batch several times; every answer is scored.
    began = time.perf_counter()
    num_prompts = settings.batch_size // settings.group_size
    prompts = setup.prompts.batch(step, num_prompts, settings.steps * num_prompts)
    rollout = draw_rollout(
        models,
        prompts,
        num_samples=settings.group_size,
        max_new_tokens=settings.max_new_tokens,
        seed=seed_of_phase(settings, step),
    )
    score = score_rollout(models, rollout)

    # log p of every token under policy and reference.
    outputs = role_outputs(models, rollout)
    log_samples(place, step, rollout, score, outputs)
    metrics = rollout_metrics(rollout, score, outputs)
    seconds_sampling = time.perf_counter() - began

    # How much better each answer is than the others to its prompt; every token of it has that advantage.
    score = score_less_missing_stop(score, rollout.stopped, penalty=settings.missing_stop)
    metrics |= spread(score, rollout.group)
    if is_over_budget(settings, metrics["kl_per_sequence"]):
        return metrics
    began = time.perf_counter()
    kl_in_reward = settings.kl.beta if settings.kl.within == "reward" else 0.0
    price = kl_in_reward * outputs.kl_per_sequence()
    advantage = advantages_of(score, price, rollout.group, outputs.sequence, kind=settings.advantage)
    experiences = experiences_of(rollout, outputs, advantage, returns=torch.zeros_like(advantage))

    # A few passes of clipped optimiser steps.
    rate = rate_of_phase(settings, step, peak=training.peak)
    set_learning_rate(training.optimiser, rate)
    kl_in_loss = settings.kl.beta if settings.kl.within == "loss" else 0.0
    loss_of = policy_loss_of(models, clip=settings.clip, clip_high=settings.clip_high, kl_weight=kl_in_loss)
    steps = []
    for epoch in range(settings.epochs):
        minibatches = shuffled_minibatches(
            experiences, settings.minibatches, seed=settings.seed, step=step, epoch=epoch
        )
        for minibatch in minibatches:
            batches = micro_batches_of(minibatch, models.batching, weights_of(settings))
            steps.append(step_of(models.roles.policy, training.optimiser, [Term(batches, loss_of)], place))
    return {
        **metrics,
        **mean_over_steps(steps, "policy_loss"),
        "beta": settings.kl.beta,
        "learning_rate": rate,
        "seconds_sampling": seconds_sampling,
        "seconds_learning": time.perf_counter() - began,
    }


def advantages_of(score: Tensor, price: Tensor, group: Tensor, sequence: Tensor, *, kind: str) -> Tensor:
    """(N,) advantage of every token: its answer's, against the other answers to the prompt.

    The KL is compared with the mean of the others', and is not divided by the deviation of the scores: where those are
    nearly equal it would drown them.

    Args:
        price: (S,) of each answer's KL, beside advantages; 0 where the KL is in the loss.
        group: (S,) which prompt each answer belongs to.
        sequence: (N,) which answer each token belongs to.
    """
    num_groups = int(group[-1]) + 1
    return (ADVANTAGES[kind](score, group, num_groups) - leave_one_out_advantages(price, group, num_groups))[sequence]


def spread(score: Tensor, group: Tensor) -> dict[str, float]:
    """How much the answers to a prompt differ in score, and how often not at all: such a group teaches nothing."""
    _, std, _ = group_deviations(score, group, int(group[-1]) + 1)
    return {"group_std": float(std.mean()), "share_of_groups_without_signal": float((std == 0).double().mean())}


def weights_of(settings: GrpoSettings) -> WeightsOf:
    """How much each token counts, by the setting `mean_over`."""
    by_name: dict[str, WeightsOf] = {
        "token": token_mean_weights,
        "sequence": sequence_mean_weights,
        "length": partial(constant_length_weights, length=settings.max_new_tokens),
    }
    return by_name[settings.mean_over]


def refuse_uneven_groups(settings: GrpoSettings) -> None:
    """A batch holds whole groups."""
    if settings.batch_size % settings.group_size == 0:
        return
    whole = max(1, settings.batch_size // settings.group_size) * settings.group_size
    raise UserError(
        "a batch does not hold whole groups",
        where="--batch-size, --group-size",
        found=f"{settings.batch_size} answers in groups of {settings.group_size}",
        expected="a multiple of the group size",
        fix=f"--batch-size {whole}",
    )

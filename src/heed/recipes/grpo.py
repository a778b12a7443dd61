"""Group-relative policy optimisation: several answers to each prompt, and each is as good as it beats the others.

    prompts -> groups of answers -> scores -> advantages within groups -> clipped steps of the policy -> run folder

    A = (score - mean of the group) / std of the group,   L = clipped surrogate + beta k2(policy || reference)

(Shao et al. 2024, arXiv:2402.03300.) No value model. The KL is in the loss, as there, but by the estimate k2, whose
gradient is that of the KL; k3, which the paper has, is not. Options: advantages that are only centred, and a constant
length in place of each answer's own (Liu et al. 2025, arXiv:2503.20783); the mean of the others as the baseline
(Ahmadian et al. 2024, arXiv:2402.14740); the mean over tokens (Yu et al. 2025, arXiv:2503.14476). Everything else is
as in PPO's recipe. The answers to a prompt are in one forest, so the prompt is computed once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from heed.errors import UserError
from heed.objectives.advantage import (
    centred_group_advantages,
    group_advantages,
    group_deviations,
    leave_one_out_advantages,
)
from heed.objectives.policy import constant_length_weights, sequence_mean_weights, token_mean_weights
from heed.preference_config import GrpoSettings
from heed.recipes.policy.learning import (
    Experience,
    Opening,
    WeightsOf,
    experienced,
    open_policy,
    optimiser_of,
    over_passes,
    peak_rate,
    policy_loss_of,
    shuffled,
    step_of,
)
from heed.recipes.policy.phases import draw_phase, go_through_phases, is_over_budget, rate_of_phase
from heed.recipes.policy.rollout import Answer, Groups, Said
from heed.recipes.training.loop import Place, in_run_folder
from heed.train.optimiser import set_learning_rate
from heed.train.step import Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Training:
    """Everything a phase needs, and what changes from one to the next."""

    settings: GrpoSettings
    opening: Opening
    optimiser: torch.optim.Optimizer
    peak: float

    @property
    def weights_of(self) -> WeightsOf:
        """How much each token counts."""
        length = partial(constant_length_weights, length=self.settings.max_new_tokens)
        by_name: dict[str, WeightsOf] = {
            "token": token_mean_weights,
            "sequence": sequence_mean_weights,
            "length": length,
        }
        return by_name[self.settings.mean_over]


def run(settings: GrpoSettings) -> None:
    """Let the model learn from rewards into its run folder; go on where an earlier run stopped."""
    refuse_uneven_groups(settings)
    in_run_folder(settings, train)


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


def train(settings: GrpoSettings, place: Place) -> None:
    """From the opened run folder to the policy in it."""
    opening = open_policy(settings, place, with_value=False)
    cast = opening.cast
    training = Training(settings, opening, optimiser_of(cast.roles.policy), peak_rate(settings.lr, cast))
    go_through_phases(
        settings,
        opening,
        place,
        take_phase=lambda step: take_phase(training, step, place),
        state=lambda: {"optimiser": training.optimiser.state_dict()},
        put_back=lambda kept: training.optimiser.load_state_dict(kept["optimiser"]),
    )


def take_phase(training: Training, step: int, place: Place) -> dict[str, float]:
    """Draw a batch of answers, and learn from it; returns its numbers for `metrics.jsonl`."""
    settings, opening = training.settings, training.opening
    num_prompts = settings.batch_size // settings.group_size
    drawn = draw_phase(settings, opening, step, place, num_prompts=num_prompts, num_samples=settings.group_size)
    numbers = drawn.told | spread(drawn.score, drawn.groups)
    if is_over_budget(settings, drawn.kl):
        return numbers
    began = time.perf_counter()
    rate = rate_of_phase(settings, step, peak=training.peak)
    experiences = credited(drawn.groups, drawn.said, drawn.score, kind=settings.advantage)
    return {
        **numbers,
        **learn(training, experiences, step, rate, place),
        "beta": settings.kl.beta,
        "learning_rate": rate,
        "seconds_sampling": drawn.seconds,
        "seconds_learning": time.perf_counter() - began,
    }


def group_of(groups: Groups) -> Tensor:
    """(S,) which group each answer belongs to."""
    return torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(group) for group in groups]))


def spread(score: np.ndarray, groups: Groups) -> dict[str, float]:
    """How much the answers to a prompt differ in score, and how often not at all: such a group teaches nothing."""
    _, std, _ = group_deviations(torch.from_numpy(score), group_of(groups), len(groups))
    return {"group_std": float(std.mean()), "share_of_groups_without_signal": float((std == 0).double().mean())}


def credited(groups: Groups, said: list[Said], score: np.ndarray, *, kind: str) -> list[list[Experience]]:
    """The credit of every token: its answer's advantage within the group."""
    of_kind = {
        "group": group_advantages,
        "centred": centred_group_advantages,
        "leave-one-out": leave_one_out_advantages,
    }[kind]
    advantage = of_kind(torch.from_numpy(score), group_of(groups), len(groups)).tolist()
    each = iter(zip(said, advantage, strict=True))

    def experience(answer: Answer) -> Experience:
        of_answer, value = next(each)
        return Experience(answer, of_answer, np.full_like(of_answer.logp, value), np.zeros_like(of_answer.logp))

    return [[experience(answer) for answer in group] for group in groups]


def learn(
    training: Training, experiences: list[list[Experience]], step: int, rate: float, place: Place
) -> dict[str, float]:
    """A few passes of optimiser steps over a phase's answers."""
    settings, cast = training.settings, training.opening.cast
    set_learning_rate(training.optimiser, rate)
    loss_of = policy_loss_of(cast, clip=settings.clip, kl_weight=settings.kl.beta)
    steps = []
    for epoch in range(settings.epochs):
        for part in shuffled(experiences, settings.minibatches, seed=settings.seed, step=step, epoch=epoch):
            term = Term(experienced(part, cast.batching, training.weights_of), loss_of)
            steps.append(step_of(cast.roles.policy, training.optimiser, [term], place))
    return over_passes(steps, "policy_loss")

"""Proximal policy optimisation against a reward, with a price on moving away from the tuned model.

    prompts -> answers -> score - beta KL -> advantages -> clipped steps of policy and value -> run folder

    maximise E[R(x, y)] - beta KL(policy || reference)

(Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155.) What is built, by the checklist that the
reference implementations agree on:

Set-up. Reward and value read the prompt with the answer. There is no padding: answers lie in a forest. Dropout is off
in every role. Each process draws with a seed of its own. Sampling limits nothing (top-k 0, top-p 1), and the
temperature divides the logits of every log-probability. Rewards are centred by the reward model's own offset; scores
are not scaled to a variance. The value starts as the reward model where that is an adapter on the same base or the run
trains all parameters, else as a head that says 0, and shares no weights with the policy. The reference is the tuned
model: adapters off, or a frozen copy.

Answers. What follows the first stop token never exists. An answer that did not stop is scored, less a penalty.
Log-probabilities are computed by the training forward, never taken from the sampler, so no importance weight is needed.

Rewards. The KL is estimated by k1, clamped to +-20, in the reward of each token, and the score is the last token's.
Beta is fixed or adapted to a target that is a sum over tokens and a mean over answers. Scores are not clipped and
rewards not whitened: both change what is maximised, and whitened advantages already bound a step.

Advantages. GAE with gamma 1 and lambda 0.95; whitened over all answers of all processes, after the returns.

Steps. Clipped surrogate with one epsilon and no dual clip; clipped value loss; both means over all tokens of the
optimiser step. Policy and value have optimisers of their own, so no coefficient weighs one against the other. The value
learns alone in the first phases. AdamW with epsilon 1e-8, linear warm-up and decay, gradient norm 1.
PPO-ptx: the supervised loss of other conversations, a mean over its own tokens, times a weight.

Kept for a bit-exact resume: both roles, both optimisers, beta, the random generators; prompts and draws are functions
of the seed and the phase. The run ends early when the KL of a phase exceeds the budget, before learning from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heed.config import dump
from heed.data.prepare import Preparation
from heed.errors import UserError
from heed.models.load import num_positions
from heed.objectives.advantage import (
    advantages_and_returns,
    explained_variance,
    moments,
    rewards_per_token,
    whiten,
)
from heed.objectives.kl import adapted_beta
from heed.objectives.policy import clipped_value_loss, is_value_clipped, token_mean_weights
from heed.preference_config import Kl, PpoSettings
from heed.recipes.policy.learning import (
    Experience,
    ExperiencedForest,
    Opening,
    copy_of,
    experienced,
    open_policy,
    optimiser_of,
    over_passes,
    peak_rate,
    policy_loss_of,
    put_back,
    shuffled,
    step_of,
)
from heed.recipes.policy.phases import draw_phase, go_through_phases, is_over_budget, rate_of_phase
from heed.recipes.policy.rollout import Groups, Said, flat, sequence_of
from heed.recipes.training.data_sets import Data, prepare_data
from heed.recipes.training.loop import Place, in_run_folder
from heed.recipes.training.setup import Opened
from heed.train.optimiser import set_learning_rate
from heed.train.step import Statistics, Term, likelihood
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor

GAMMA, LAMBDA = 1.0, 0.95
VALUE_CLIP = 0.2
"""change of a value, in units of reward, at which it stops learning"""
VALUE_ALONE = 0.05
"""share of the phases, the first ones, in which only the value learns"""
HORIZON = 10_000.0
"""answers over which a KL a fifth off its target changes beta by about a fifth"""


@dataclass(eq=False)
class Training:
    """Everything a phase needs, and what changes from one to the next."""

    settings: PpoSettings
    opening: Opening
    policy_optimiser: torch.optim.Optimizer
    value_optimiser: torch.optim.Optimizer
    peak: float
    beta: float

    @property
    def phases_of_value_alone(self) -> int:
        """The first phases, in which the policy does not move."""
        return round(VALUE_ALONE * self.settings.steps)


def run(settings: PpoSettings) -> None:
    """Let the model learn from rewards into its run folder; go on where an earlier run stopped."""
    refuse_beta_that_cannot_adapt(settings)
    in_run_folder(settings, train)


def refuse_beta_that_cannot_adapt(settings: PpoSettings) -> None:
    """Adapting multiplies beta, so from 0 it would never reach a target."""
    if settings.kl.target is None or settings.kl.beta > 0:
        return
    raise UserError(
        "a beta of 0 cannot be adapted to a target: it is multiplied, and stays 0",
        where="--kl.beta, --kl.target",
        found=f"a beta of 0 and a target of {settings.kl.target:g} nats per answer",
        expected="a beta above 0 to begin with, or no target",
        fix=f"--kl.beta {Kl().beta}",
    )


def train(settings: PpoSettings, place: Place) -> None:
    """From the opened run folder to the policy in it."""
    training = prepare_training(settings, place)
    value = training.opening.cast.roles.value
    assert value is not None

    def state() -> dict[str, Any]:
        return {
            "policy_optimiser": training.policy_optimiser.state_dict(),
            "value_optimiser": training.value_optimiser.state_dict(),
            "value": copy_of(value.trained_parameters()),
            "beta": training.beta,
        }

    def go_back(kept: dict[str, Any]) -> None:
        training.policy_optimiser.load_state_dict(kept["policy_optimiser"])
        training.value_optimiser.load_state_dict(kept["value_optimiser"])
        put_back(value.trained_parameters(), kept["value"])
        training.beta = kept["beta"]

    go_through_phases(
        settings,
        training.opening,
        place,
        take_phase=lambda step: take_phase(training, step, place),
        state=state,
        put_back=go_back,
    )


def prepare_training(settings: PpoSettings, place: Place) -> Training:
    """Open the roles and the data."""
    prepare_beside = partial(prepare_ptx, settings, place) if settings.ptx.data else None
    opening = open_policy(settings, place, with_value=True, prepare_beside=prepare_beside)
    roles = opening.cast.roles
    assert roles.value is not None
    return Training(
        settings=settings,
        opening=opening,
        policy_optimiser=optimiser_of(roles.policy),
        value_optimiser=optimiser_of(roles.value),
        peak=peak_rate(settings.lr, opening.cast),
        beta=settings.kl.beta,
    )


def prepare_ptx(settings: PpoSettings, place: Place, opened: Opened) -> Data:
    """The conversations whose supervised loss is kept low beside."""
    preparation = Preparation(
        template=opened.template,
        tokenizer=opened.tokenizer,
        max_length=num_positions(opened.loaded.model),
        too_long=settings.too_long,
        max_bad_records=settings.max_bad_records,
        held_out_share=0.0,
    )
    folder = place.folder.folder / "ptx"
    return prepare_data(
        settings.ptx.data, (), folder, preparation, seed=settings.seed, settings=dump(settings), world=place.world
    )


def take_phase(training: Training, step: int, place: Place) -> dict[str, float]:
    """Draw a batch of answers, and learn from it; returns its numbers for `metrics.jsonl`."""
    settings, opening, beta = training.settings, training.opening, training.beta
    drawn = draw_phase(settings, opening, step, place, num_prompts=settings.batch_size, num_samples=1)
    numbers = {**drawn.told, "beta": beta, "reward": float(drawn.score.mean()) - beta * drawn.kl}
    if is_over_budget(settings, drawn.kl):
        return numbers
    began = time.perf_counter()
    experiences, foreseen = credited(drawn.groups, drawn.said, drawn.score, beta=beta)
    rate = rate_of_phase(settings, step, peak=training.peak)
    learnt = learn(training, experiences, step, rate, place)
    if settings.kl.target is not None:
        training.beta = adapted_beta(
            beta,
            measured_kl=drawn.kl,
            target_kl=settings.kl.target,
            num_sequences=len(experiences),
            horizon=HORIZON,
        )
    return {
        **numbers,
        "explained_variance": foreseen,
        **learnt,
        "learning_rate": rate,
        "seconds_sampling": drawn.seconds,
        "seconds_learning": time.perf_counter() - began,
    }


def credited(
    groups: Groups, said: list[Said], score: np.ndarray, *, beta: float
) -> tuple[list[list[Experience]], float]:
    """The credit of every token by prompt, advantages whitened; and the explained variance of the values."""
    sequence, num_sequences = sequence_of(said), len(said)
    logp, reference, value = (
        flat([getattr(each, name) for each in said]) for name in ("logp", "reference_logp", "value")
    )
    reward = rewards_per_token(torch.from_numpy(score), logp, reference, sequence, beta=beta)
    advantage, returns = advantages_and_returns(
        reward, value, sequence, num_sequences=num_sequences, gamma=GAMMA, lam=LAMBDA, lam_value=LAMBDA
    )
    foreseen = explained_variance(value, returns)
    # Every process holds all answers of the phase, so these are the statistics of all.
    advantage = whiten(advantage, moments(advantage), shift_mean=True)
    lengths = [len(each.logp) for each in said]
    parts = zip(said, advantage.split(lengths), returns.split(lengths), strict=True)
    experiences = iter([(each, a.numpy(), r.numpy()) for each, a, r in parts])
    return [[Experience(answer, *next(experiences)) for answer in group] for group in groups], foreseen


def learn(
    training: Training, experiences: list[list[Experience]], step: int, rate: float, place: Place
) -> dict[str, float]:
    """A few passes of optimiser steps over a phase's answers."""
    settings, cast = training.settings, training.opening.cast
    roles = cast.roles
    assert roles.value is not None
    set_learning_rate(training.policy_optimiser, rate)
    set_learning_rate(training.value_optimiser, rate)
    policy_steps, value_steps = [], []
    for epoch in range(settings.epochs):
        parts = shuffled(experiences, settings.minibatches, seed=settings.seed, step=step, epoch=epoch)
        for number, part in enumerate(parts):
            batches = experienced(part, cast.batching, token_mean_weights)
            if step > training.phases_of_value_alone:
                terms: list[Term[Any]] = [Term(batches, policy_loss_of(cast, clip=settings.clip))]
                if training.opening.beside is not None:
                    terms.append(ptx_term(training, step, epoch * settings.minibatches + number))
                policy_steps.append(step_of(roles.policy, training.policy_optimiser, terms, place))
            term = Term(batches, partial(value_loss_of, training))
            value_steps.append(step_of(roles.value, training.value_optimiser, [term], place))
    of_value = over_passes(value_steps, "value_loss")
    of_value["value_grad_norm"] = of_value.pop("grad_norm")
    of_policy = over_passes(policy_steps, "policy_loss")
    if "nll_per_token" in of_policy:
        of_policy["ptx_nll"] = of_policy.pop("nll_per_token")
    return of_policy | of_value


def value_loss_of(training: Training, batch: ExperiencedForest) -> tuple[Tensor, Statistics]:
    """The clipped squared error of the values, and the share of them that is clipped."""
    value_role = training.opening.cast.roles.value
    assert value_role is not None
    value = training.opening.cast.values(value_role, batch.forest).double()
    old, returns = batch.old_value.to(value), batch.returns.to(value)
    loss = clipped_value_loss(value, old, returns, epsilon=VALUE_CLIP)
    clipped = is_value_clipped(value.detach(), old, returns, epsilon=VALUE_CLIP)
    weighted = (batch.weights.weight.to(value) * loss).sum()
    return weighted, {"value_clip_fraction": (float(clipped.sum()), len(clipped))}


def ptx_term(training: Training, step: int, number: int) -> Term[Forest]:
    """The supervised loss of some conversations, a mean over their own tokens."""
    settings, cast, data = training.settings, training.opening.cast, training.opening.beside
    assert data is not None
    per_phase = settings.epochs * settings.minibatches
    batch_size = max(1, settings.batch_size // settings.minibatches)
    at = (step - 1) * per_phase + number + 1
    conversations = data.training.batch(at, batch_size, settings.steps * per_phase * batch_size)
    forests = [
        cast.batching.forest([conversations[i] for i in forward]) for forward in cast.batching.forwards(conversations)
    ]

    def nll(forest: Forest) -> tuple[Tensor, Tensor]:
        logp = cast.logp(cast.roles.policy, forest).logp
        return -(forest.weight.to(logp) * logp).sum(), logp.detach()

    return Term(forests, likelihood(nll), settings.ptx.weight)

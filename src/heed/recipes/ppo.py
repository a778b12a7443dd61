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
from heed.models.load import num_positions, restore
from heed.objectives.advantage import (
    advantages_and_returns,
    explained_variance,
    moments,
    rewards_per_token,
    whiten,
)
from heed.objectives.kl import adapted_beta
from heed.objectives.policy import clipped_value_loss, is_value_clipped, token_mean_weights
from heed.preference_config import PpoSettings
from heed.recipes.datasets import Data, prepare_data
from heed.recipes.loop import Loop, Place, go_through, in_run_folder
from heed.recipes.policy import (
    Experience,
    ExperiencedForest,
    Opening,
    copy_of,
    experienced,
    log_answers,
    open_policy,
    optimiser_of,
    over_passes,
    peak_rate,
    policy_loss_of,
    put_back,
    save_policy,
    shuffled,
    told,
)
from heed.recipes.rollout import (
    Groups,
    Said,
    draw_answers,
    flat,
    less_missing_stops,
    score_answers,
    sequence_of,
    what_roles_say,
)
from heed.train.optimiser import set_learning_rate
from heed.train.progress import Progress
from heed.train.run import Checkpoint
from heed.train.schedule import learning_rate
from heed.train.step import Statistics, Term, likelihood, optimiser_step
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor

GAMMA, LAMBDA = 1.0, 0.95
VALUE_CLIP = 0.2
"""change of a value, in units of reward, at which it stops learning"""
WARMUP = 0.03
"""share of the phases in which the learning rate rises from 0"""
VALUE_ALONE = 0.05
"""share of the phases, the first ones, in which only the value learns"""
MAX_NORM = 1.0
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
    ptx: Data | None
    kl: float = 0.0
    """of the latest phase, in nats per answer"""

    @property
    def phases_of_value_alone(self) -> int:
        """The first phases, in which the policy does not move."""
        return round(VALUE_ALONE * self.settings.steps)

    def is_over_budget(self) -> bool:
        """Whether the latest phase's answers were further from the reference than allowed."""
        budget = self.settings.kl.budget
        return budget is not None and self.kl > budget


def run(settings: PpoSettings) -> None:
    """Let the model learn from rewards into its run folder; go on where an earlier run stopped."""
    in_run_folder(settings, train)


def train(settings: PpoSettings, place: Place) -> None:
    """From the opened run folder to the policy in it."""
    training = prepare_training(settings, place)
    cast = training.opening.cast
    value = cast.roles.value
    assert value is not None

    def state() -> dict[str, Any]:
        return {
            "policy_optimiser": training.policy_optimiser.state_dict(),
            "value_optimiser": training.value_optimiser.state_dict(),
            "value": copy_of(value.trained_parameters()),
            "beta": training.beta,
            "kl": training.kl,
        }

    def go_back(checkpoint: Checkpoint) -> None:
        restore(cast.opened.loaded, checkpoint.folder)
        kept = checkpoint.state(place.device)
        training.policy_optimiser.load_state_dict(kept["policy_optimiser"])
        training.value_optimiser.load_state_dict(kept["value_optimiser"])
        put_back(value.trained_parameters(), kept["value"])
        training.beta, training.kl = kept["beta"], kept["kl"]

    loop = Loop(
        title="learning from rewards",
        total_steps=settings.steps,
        save_every=settings.save_every,
        eval_every=0,
        take_step=lambda step: take_phase(training, step, place),
        measure=lambda step, progress: measure(training, place, step, progress),
        save_model=lambda to: save_policy(cast, to),
        state=state,
        restore=go_back,
        shown=("score", "kl_per_sequence", "stop_rate"),
        is_over=training.is_over_budget,
    )
    go_through(loop, place)
    if training.is_over_budget():
        place.speaker.say(f"ended early: the KL of {training.kl:.2f} nats per answer is over the budget")
    folder = place.folder.folder
    place.speaker.say(f"the tuned model is in {folder}: heed chat --model {folder}")


def prepare_training(settings: PpoSettings, place: Place) -> Training:
    """Open the roles and the data."""
    opening = open_policy(settings, place, with_value=True)
    roles = opening.cast.roles
    assert roles.value is not None
    return Training(
        settings=settings,
        opening=opening,
        policy_optimiser=optimiser_of(roles.policy),
        value_optimiser=optimiser_of(roles.value),
        peak=peak_rate(settings.lr, opening.cast),
        beta=settings.kl.beta,
        ptx=prepare_ptx(settings, opening, place) if settings.ptx.data else None,
    )


def prepare_ptx(settings: PpoSettings, opening: Opening, place: Place) -> Data:
    """The conversations whose supervised loss is kept low beside."""
    opened = opening.cast.opened
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
    settings, cast = training.settings, training.opening.cast
    began = time.perf_counter()
    prompts = training.opening.prompts.batch(step, settings.batch_size, settings.steps * settings.batch_size)
    groups = draw_answers(
        cast, prompts, num_samples=1, max_new_tokens=settings.max_new_tokens, seed=settings.seed * 1_000_003 + step
    )
    raw = score_answers(cast, groups)
    said = what_roles_say(cast, groups)
    log_answers(place, step, groups, raw, said)
    drawn = time.perf_counter()
    numbers = {**told(groups, raw, said), "beta": training.beta}
    score = less_missing_stops(raw, groups, penalty=settings.missing_stop)
    numbers["reward"] = float(score.mean()) - training.beta * numbers["kl_per_sequence"]
    training.kl = numbers["kl_per_sequence"]
    if training.is_over_budget():
        return numbers
    experiences, numbers["explained_variance"] = credited(groups, said, score, beta=training.beta)
    rate = learning_rate(
        step,
        peak=training.peak,
        warmup_steps=round(WARMUP * settings.steps),
        total_steps=settings.steps,
        shape="linear",
    )
    numbers |= learn(training, experiences, step, rate, place) | {"learning_rate": rate}
    if settings.kl.target is not None:
        training.beta = adapted_beta(
            training.beta,
            measured_kl=training.kl,
            target_kl=settings.kl.target,
            num_sequences=len(experiences),
            horizon=HORIZON,
        )
    return {
        **numbers,
        "seconds_sampling": drawn - began,
        "seconds_learning": time.perf_counter() - drawn,
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
    roles, world = cast.roles, place.world
    assert roles.value is not None
    set_learning_rate(training.policy_optimiser, rate)
    set_learning_rate(training.value_optimiser, rate)
    policy_steps, value_steps = [], []
    for epoch in range(settings.epochs):
        parts = shuffled(experiences, settings.minibatches, seed=settings.seed, step=step, epoch=epoch)
        for number, part in enumerate(parts):
            batches = experienced(part, cast.cut, token_mean_weights)
            if step > training.phases_of_value_alone:
                terms: list[Term[Any]] = [Term(batches, policy_loss_of(cast, clip=settings.clip))]
                if training.ptx is not None:
                    terms.append(ptx_term(training, step, epoch * settings.minibatches + number))
                policy_steps.append(
                    optimiser_step(
                        [parameter for _, parameter in roles.policy.trained_parameters()],
                        training.policy_optimiser,
                        terms,
                        max_norm=MAX_NORM,
                        world=world,
                    )
                )
            value_steps.append(
                optimiser_step(
                    [parameter for _, parameter in roles.value.trained_parameters()],
                    training.value_optimiser,
                    [Term(batches, partial(value_loss_of, training))],
                    max_norm=MAX_NORM,
                    world=world,
                )
            )
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
    settings, cast, data = training.settings, training.opening.cast, training.ptx
    assert data is not None
    per_phase = settings.epochs * settings.minibatches
    batch_size = max(1, settings.batch_size // settings.minibatches)
    at = (step - 1) * per_phase + number + 1
    conversations = data.training.batch(at, batch_size, settings.steps * per_phase * batch_size)
    forests = [cast.cut.forest([conversations[i] for i in forward]) for forward in cast.cut.forwards(conversations)]

    def nll(forest: Forest) -> tuple[Tensor, Tensor]:
        logp = cast.logp(cast.roles.policy, forest).logp
        return -(forest.weight.to(logp) * logp).sum(), logp.detach()

    return Term(forests, likelihood(nll), settings.ptx.weight)


def measure(training: Training, place: Place, step: int, progress: Progress) -> None:
    """What the policy answers to held-out prompts, and how that is scored."""
    opening, settings = training.opening, training.settings
    if not opening.held_out:
        return
    groups = draw_answers(
        opening.cast, opening.held_out, num_samples=1, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    score, said = score_answers(opening.cast, groups), what_roles_say(opening.cast, groups)
    numbers = told(groups, score, said)
    place.folder.log(step, "held_out", **numbers)
    progress.say(
        f"step {step:,}: held-out score {numbers['score']:.3f}, KL {numbers['kl_per_sequence']:.2f} nats per answer, "
        f"{numbers['stop_rate']:.0%} stopped"
    )

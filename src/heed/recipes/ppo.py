"""Proximal policy optimisation against a reward, with a price on moving away from the tuned model.

    prompts -> answers -> score - beta KL -> advantages -> clipped steps of policy and value -> run folder

    maximise E[R(x, y)] - beta KL(policy || reference)

(Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155.) What is built, by the checklist that the
reference implementations agree on:

Set-up. Reward and value read the prompt with the answer. There is no padding: answers lie in a forest. Dropout is off
in every role. What is drawn does not depend on the number of processes. Sampling limits nothing (top-k 0, top-p 1), and
the temperature divides the logits of every log-probability. Rewards are centred by the reward model's own offset. The
value starts as the reward model where that is an adapter on the same base or the run trains all parameters, else as a
head that says 0, and shares no weights with the policy. The reference is the tuned model: adapters off, or a frozen
copy.

Answers. What follows the first stop token never exists. An answer that did not stop is scored, less a penalty.
Log-probabilities are computed by the training forward, never taken from the sampler, so no importance weight is
needed.

Rewards. The KL is estimated by k1, clamped to +-20, in the reward of each token, and the score is the last token's.
Beta is fixed or adapted to a target that is a sum over tokens and a mean over answers. Scores are not clipped and
rewards not whitened: both change what is maximised, and whitened advantages already bound a step. The value counts in
the running size of what answers earned, score - beta KL: rewards times 100, with beta and the price of a missing stop
times 100, teach the same policy. Whatever is logged of rewards stays in their own units.

Advantages. GAE, by default with gamma 1 and lambda 0.95; whitened over all answers of all processes, after the
returns.

Steps. Clipped surrogate, with an epsilon of its own upwards if asked (clip-higher), and no dual clip; clipped value
loss; both means over all tokens of the optimiser step. Policy and value have optimisers and learning rates of their
own, so no coefficient weighs one against the other. The value learns alone in the first phases. AdamW with epsilon
1e-8, linear warm-up and decay, gradient norm 1. PPO-ptx: the supervised loss of other conversations, a mean over its
own tokens, times a weight.

Kept for a bit-exact resume: both roles, both optimisers, beta, the size of rewards, the random generators; prompts and
draws are functions of the seed and the phase. The run ends early when the KL of a phase exceeds the budget, before
learning from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from heed.data.prepare import Preparation
from heed.errors import UserError
from heed.models.load import num_positions
from heed.models.roles import Role
from heed.objectives.advantage import (
    advantages_and_returns,
    explained_variance,
    moments,
    rewards_per_token,
    score_less_missing_stop,
    whiten,
)
from heed.objectives.kl import adapted_beta
from heed.objectives.policy import clipped_value_loss, is_value_clipped, token_mean_weights
from heed.objectives.reward_scale import RewardScale
from heed.objectives.supervised import negative_log_likelihood
from heed.preference_config import Kl, PpoSettings
from heed.recipes.policy.engine import drawing_as_asked
from heed.recipes.policy.phases import go_through_phases, is_over_budget, rate_of_phase, seed_of_phase
from heed.recipes.policy.rollout import (
    RoleOutputs,
    RolloutModels,
    draw_rollout,
    log_samples,
    role_outputs,
    rollout_metrics,
    score_rollout,
)
from heed.recipes.policy.setup import PolicySetup, open_policy, optimiser_of, peak_rate
from heed.recipes.policy.update import (
    Experience,
    ExperienceBatch,
    copy_of,
    experiences_of,
    mean_over_steps,
    micro_batches_of,
    policy_loss_of,
    shuffled_minibatches,
    step_of,
)
from heed.recipes.training.data_sets import Data, prepare_data
from heed.recipes.training.loop import Place, in_run_folder
from heed.recipes.training.setup import Opened
from heed.train.checkpoint import restore_optimiser, restore_tensors
from heed.train.optimiser import set_learning_rate
from heed.train.same_run import deciding
from heed.train.step import Statistics, Term, likelihood
from heed.types import Forest

if TYPE_CHECKING:
    from torch import Tensor

HORIZON = 10_000.0
"""answers over which a KL a fifth off its target changes beta by about a fifth"""


@dataclass(eq=False)
class Training:
    """Everything a phase needs, and what changes from one to the next."""

    settings: PpoSettings
    setup: PolicySetup
    models: RolloutModels
    value: Role
    policy_optimiser: torch.optim.Optimizer
    value_optimiser: torch.optim.Optimizer
    peak: float
    """of the policy's learning rate"""
    beta: float
    scale: RewardScale = field(default_factory=RewardScale)


def run(settings: PpoSettings) -> None:
    """Let the model learn from rewards into its run folder; go on where an earlier run stopped."""
    refuse_beta_that_cannot_adapt(settings)
    in_run_folder(settings, train)


def train(settings: PpoSettings, place: Place) -> None:
    """From the opened run folder to the policy in it."""
    prepare_ptx = partial(prepare_ptx_data, settings, place) if settings.ptx.data else None
    setup = open_policy(settings, place, with_value=True, prepare_ptx=prepare_ptx)
    with drawing_as_asked(settings, setup, place) as setup:
        roles = setup.models.roles
        assert roles.value is not None
        training = Training(
            settings=settings,
            setup=setup,
            models=setup.models,
            value=roles.value,
            policy_optimiser=optimiser_of(roles.policy, settings.optim.bits, place.speaker.say, settings.offload),
            value_optimiser=optimiser_of(roles.value, settings.optim.bits, place.speaker.say, settings.offload),
            peak=peak_rate(settings.lr, setup.models),
            beta=settings.kl.beta,
        )
        go_through_phases(
            settings,
            setup,
            place,
            take_phase=lambda step: take_phase(training, step, place),
            state=lambda: state_of(training),
            put_back=lambda kept: go_back(training, kept),
        )


def take_phase(training: Training, step: int, place: Place) -> dict[str, float]:
    """One phase: the policy answers prompts, and policy and value learn from what that earned; returns its metrics."""
    settings, setup, models, beta = training.settings, training.setup, training.models, training.beta

    # The policy answers a batch of prompts; every answer is scored.
    began = time.perf_counter()
    prompts = setup.prompts.batch(step, settings.batch_size, settings.steps * settings.batch_size)
    rollout = draw_rollout(
        models,
        prompts,
        num_samples=1,
        max_new_tokens=settings.max_new_tokens,
        seed=seed_of_phase(settings, step),
    )
    score = score_rollout(models, rollout)

    # log p under policy and reference, and the value, of every token.
    outputs = role_outputs(models, rollout)
    log_samples(place, step, rollout, score, outputs)
    metrics = rollout_metrics(rollout, score, outputs)
    seconds_sampling = time.perf_counter() - began

    # What every answer earned: score - beta KL.
    score = score_less_missing_stop(score, rollout.stopped, penalty=settings.missing_stop)
    kl = metrics["kl_per_sequence"]
    metrics |= {"beta": beta, "reward": float(score.numpy().mean()) - beta * kl}
    if is_over_budget(settings, kl):
        return metrics
    began = time.perf_counter()

    # Of every token: an advantage for the policy and a return for the value, in the running size of rewards.
    outputs = count_in_size_of(training, score - beta * outputs.kl_per_sequence(), outputs)
    unit = training.scale.size
    advantage, returns = advantages_of(
        score / unit, outputs, beta=beta / unit, gamma=settings.gamma, lam=settings.gae_lambda
    )
    experiences = experiences_of(rollout, outputs, advantage, returns)

    # A few passes of clipped steps; then the price of the KL follows its target.
    learnt = learn(training, experiences, step, place)
    if settings.kl.target is not None:
        training.beta = adapted_beta(
            beta, measured_kl=kl, target_kl=settings.kl.target, num_sequences=len(score), horizon=HORIZON
        )
    return {
        **metrics,
        "reward_scale": unit,
        "explained_variance": explained_variance(outputs.value, returns),
        **learnt,
        "seconds_sampling": seconds_sampling,
        "seconds_learning": time.perf_counter() - began,
    }


def learn(training: Training, experiences: list[list[Experience]], step: int, place: Place) -> dict[str, float]:
    """A few passes of clipped optimiser steps of policy and value over a phase's answers; returns their metrics."""
    settings, models, policy, value = training.settings, training.models, training.models.roles.policy, training.value
    policy_loss = policy_loss_of(models, clip=settings.clip, clip_high=settings.clip_high)
    value_loss = value_loss_of(models, value, clip=settings.value.clip)
    rate = rate_of_phase(settings, step, peak=training.peak)
    value_peak = training.peak if settings.value.lr == "auto" else settings.value.lr
    value_rate = rate_of_phase(settings, step, peak=value_peak)
    set_learning_rate(training.policy_optimiser, rate)
    set_learning_rate(training.value_optimiser, value_rate)

    is_policy_learning = step > round(settings.value.warmup * settings.steps)
    policy_steps, value_steps = [], []
    for epoch in range(settings.epochs):
        minibatches = shuffled_minibatches(
            experiences, settings.minibatches, seed=settings.seed, step=step, epoch=epoch
        )
        for number, minibatch in enumerate(minibatches, start=epoch * settings.minibatches):
            batches = micro_batches_of(minibatch, models.batching, token_mean_weights)
            if is_policy_learning:
                terms = [Term(batches, policy_loss), *ptx_terms(training, step, number)]
                policy_steps.append(step_of(policy, training.policy_optimiser, terms, place))
            value_steps.append(step_of(value, training.value_optimiser, [Term(batches, value_loss)], place))
    return {
        **metrics_of_steps(policy_steps, value_steps),
        "learning_rate": rate,
        "value_learning_rate": value_rate,
    }


def count_in_size_of(training: Training, earned: Tensor, outputs: RoleOutputs) -> RoleOutputs:
    """Take what these answers earned into the running size of rewards, and let the value count in the new size.

    The value says of every state what it said before, in another unit: its head's weights are divided by what the unit
    was multiplied with (van Hasselt et al. 2016, arXiv:1602.07714, "Pop", without a shift). Every process holds all
    answers, so the size is the same on each.

    The optimiser's moments stay as they are: they tell how large gradients have been, and errors counted in the running
    size of rewards are about 1 in the new unit as they were in the old one. Moments brought into the new unit would
    expect gradients `ratio` to `ratio`² times smaller than those that come.

    Returns:
        the outputs with their values in the new unit.
    """
    before, training.scale = training.scale.size, training.scale.including(earned)
    ratio = training.scale.size / before
    training.value.change_unit(ratio)
    training.models = replace(training.models, value_unit=training.scale.size)
    return replace(outputs, value=outputs.value / ratio)


def advantages_of(
    score: Tensor, outputs: RoleOutputs, *, beta: float, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(N,) advantage and return of every token: GAE of score - beta KL, the advantages whitened.

    Every process holds all answers of the phase, so the moments are those of all.
    """
    reward = rewards_per_token(score, outputs.logp, outputs.reference_logp, outputs.sequence, beta=beta)
    advantage, returns = advantages_and_returns(
        reward,
        outputs.value,
        outputs.sequence,
        num_sequences=len(score),
        gamma=gamma,
        lam=lam,
        lam_value=lam,
    )
    return whiten(advantage, moments(advantage), shift_mean=True), returns


def value_loss_of(
    models: RolloutModels, role: Role, *, clip: float
) -> Callable[[ExperienceBatch], tuple[Tensor, Statistics]]:
    """The clipped squared error of the values, and the share of them that is clipped."""

    def loss_of(batch: ExperienceBatch) -> tuple[Tensor, Statistics]:
        value = models.values(role, batch.forest).double()
        old, returns = batch.old_value.to(value), batch.returns.to(value)
        loss = clipped_value_loss(value, old, returns, epsilon=clip)
        clipped = is_value_clipped(value.detach(), old, returns, epsilon=clip)
        weighted = (batch.weights.weight.to(value) * loss).sum()
        return weighted, {"value_clip_fraction": (float(clipped.sum()), len(clipped))}

    return loss_of


def ptx_terms(training: Training, step: int, number: int) -> list[Term[Any]]:
    """The supervised loss of some conversations, a mean over their own tokens; nothing where there are none.

    Args:
        number: of the optimiser step in its phase, from 0.
    """
    settings, models, data = training.settings, training.models, training.setup.ptx
    if data is None:
        return []
    per_phase = settings.epochs * settings.minibatches
    batch_size = max(1, settings.batch_size // settings.minibatches)
    at = (step - 1) * per_phase + number + 1
    conversations = data.training.batch(at, batch_size, settings.steps * per_phase * batch_size)
    batching = models.batching
    forests = [batching.forest([conversations[i] for i in forward]) for forward in batching.forwards(conversations)]

    def nll(forest: Forest) -> tuple[Tensor, Tensor]:
        logp = models.logp(models.roles.policy, forest).logp
        return negative_log_likelihood(logp, forest.weight.to(logp)).sum(), logp.detach()

    return [Term(forests, likelihood(nll), settings.ptx.weight)]


def metrics_of_steps(policy_steps: list[dict[str, float]], value_steps: list[dict[str, float]]) -> dict[str, float]:
    """A phase's optimiser steps of policy and value under the names of `metrics.jsonl`."""
    of_policy, of_value = mean_over_steps(policy_steps, "policy_loss"), mean_over_steps(value_steps, "value_loss")
    of_value["value_grad_norm"] = of_value.pop("grad_norm")
    if "nll_per_token" in of_policy:
        of_policy["ptx_nll"] = of_policy.pop("nll_per_token")
    return of_policy | of_value


def prepare_ptx_data(settings: PpoSettings, place: Place, opened: Opened) -> Data:
    """The conversations whose supervised loss is added to the policy's."""
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
        settings.ptx.data,
        (),
        folder,
        preparation,
        seed=settings.seed,
        eval_limit=0,
        settings=deciding(settings),
        world=place.world,
    )


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


def state_of(training: Training) -> dict[str, Any]:
    """What a checkpoint holds besides the policy itself."""
    return {
        "policy_optimiser": training.policy_optimiser.state_dict(),
        "value_optimiser": training.value_optimiser.state_dict(),
        "value": copy_of(training.value.trained_parameters()),
        "beta": training.beta,
        "reward_scale": asdict(training.scale),
    }


def go_back(training: Training, kept: dict[str, Any]) -> None:
    """Put back what `state_of` gave."""
    restore_optimiser(training.policy_optimiser, kept["policy_optimiser"])
    restore_optimiser(training.value_optimiser, kept["value_optimiser"])
    restore_tensors(dict(training.value.trained_parameters()), kept["value"])
    training.beta = kept["beta"]
    # Without one, as an earlier release kept it, values count in units of reward.
    training.scale = RewardScale(**kept.get("reward_scale", {}))
    training.models = replace(training.models, value_unit=training.scale.size)

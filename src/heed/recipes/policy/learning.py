"""What PPO and GRPO have in common: opening the roles, and the clipped policy step on a phase's answers.

A phase's answers are learnt from in a few passes. Dropout is off everywhere. Log-probabilities that are compared all
come from the training forward, at the temperature of sampling.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from heed.config import DataSource, dump, peak_learning_rate
from heed.data.prepare import Preparation, TooLong
from heed.data.prompts import PromptTokens
from heed.errors import UserError
from heed.evaluate.rewards import kind_of, open_reward
from heed.models.adapters.lora import keep_base
from heed.models.kernels.speed import speed_up
from heed.models.load import num_positions, prepare_training, save
from heed.models.roles import Role, roles_on_one_base, separate_models
from heed.models.self_check import ChosenScore, choose_score, everything_trained
from heed.objectives.kl import kl_k2
from heed.objectives.policy import (
    TokenWeights,
    approximate_kl,
    clipped_surrogate,
    importance_ratio,
    is_ratio_clipped,
)
from heed.preference_config import Kl, KlOfGroups
from heed.recipes.policy.rollout import Answer, Cast, Said
from heed.recipes.preference.data import PROMPTS, PreferenceData, prepare_preference_data
from heed.recipes.training.data_sets import Data
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching, lean_forward
from heed.recipes.training.setup import Opened, open_base
from heed.settings import Settings
from heed.train.optimiser import adamw
from heed.train.step import Mean, Statistics, Term, optimiser_step
from heed.types import Forest, Tokens

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT_SHARE = 0.05
"""of the prompts, by hash"""
MAX_HELD_OUT_PROMPTS = 64
"""that are answered in a measurement"""
SHARE_OF_TUNING_RATE = 0.1
"""of the learning rate that suits supervised tuning"""
ALPHA_OVER_RANK = 2.0
MAX_NORM = 1.0


class PolicySettings(Protocol):
    """What the settings of PPO and GRPO have in common."""

    @property
    def model(self) -> str: ...
    @property
    def reward(self) -> str: ...
    @property
    def data(self) -> tuple[DataSource, ...]: ...
    @property
    def max_bad_records(self) -> float: ...
    @property
    def template(self) -> str | None: ...
    @property
    def date(self) -> datetime.date | None: ...
    @property
    def max_prompt_length(self) -> int | None: ...
    @property
    def too_long(self) -> TooLong: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def missing_stop(self) -> float: ...
    @property
    def kl(self) -> Kl | KlOfGroups: ...


@dataclass(frozen=True, eq=False)
class Opening:
    """The roles of a run and its prompts, ready for the first batch of answers."""

    cast: Cast
    prompts: PreferenceData[PromptTokens]
    held_out: list[PromptTokens]
    beside: Data | None = None
    """conversations that are trained on beside the rewards"""


def open_policy(
    settings: PolicySettings, place: Place, *, with_value: bool, prepare_beside: Callable[[Opened], Data] | None = None
) -> Opening:
    """Load what the roles need, prepare the data, and prove that the forest computes what the model computes.

    Args:
        prepare_beside: prepares conversations that are trained on beside the rewards; they may be longer than answers,
            and are proved too.
    """
    assert settings.date is not None
    is_model = kind_of(settings.reward) == "model"
    rule = None if is_model else open_reward(settings.reward)
    say = place.speaker.say
    opened = open_base(settings.model, settings.template, place.device, settings.date, settings.seed, say)
    reward = settings.reward if is_model else None
    if settings.rank:
        keep_base(
            opened.loaded,
            place.folder.folder / "base",
            new_token_ids=opened.new_token_ids,
            stop_tokens=opened.stops,
        )
        roles = roles_on_one_base(
            opened.loaded,
            rank=settings.rank,
            alpha=ALPHA_OVER_RANK * settings.rank,
            seed=settings.seed,
            reward=reward,
            value="adapter" if with_value else None,
            new_token_ids=opened.new_token_ids,
        )
    else:
        roles = separate_models(opened.loaded, reward=reward, with_value=with_value)
    if roles.note:
        say(roles.note)
    played = [role for role in (roles.policy, roles.reference, roles.reward, roles.value) if role is not None]
    for model in {id(role.model): role.model for role in played}.values():
        speed_up(model)
        prepare_training(model, gradient_checkpointing=settings.gradient_checkpointing)
    opened = replace(opened, loaded=roles.loaded)
    positions = [n for role in played if (n := num_positions(role.model)) is not None]
    prompts = prepare_prompts(settings, opened, place, limit=min(positions, default=None))
    first = [prompts.sets[0].at(int(record)) for record in prompts.sets[0].training[:64]]
    longest = everything_trained(max(first, key=len).ids)
    beside = None if prepare_beside is None else prepare_beside(opened)
    longest_in_data = max(prompts.longest + settings.max_new_tokens, 0 if beside is None else beside.longest)
    chosen = self_checked(played, longest, longest_in_data=longest_in_data, say=say)
    loaded = opened.loaded
    share = all(chosen[role.model].shares_prefixes for role in played if role is not roles.reward)
    batching = MicroBatching(lean_forward(settings.max_tokens, loaded), share, place.world)
    cast = Cast(roles, opened, chosen, batching, settings.dtype, settings.temperature, rule)
    held_out = [prompt for found in prompts.held_out.values() for prompt in found][:MAX_HELD_OUT_PROMPTS]
    return Opening(cast, prompts, held_out, beside)


def self_checked(
    played: Sequence[Role], longest: Tokens, *, longest_in_data: int, say: Callable[[str], None]
) -> dict[torch.nn.Module, ChosenScore]:
    """How each model is asked, proved once for every model that there is, in the first role that it plays.

    Args:
        played: the policy first. What is said of it is always said; of another model only where it falls back.
        longest, longest_in_data: see `choose_score`.
    """
    chosen: dict[torch.nn.Module, ChosenScore] = {}
    for role in played:
        if role.model in chosen:
            continue
        with role.active() as model:
            found = choose_score(
                model, longest, longest_in_data=longest_in_data, num_positions=num_positions(model), share=True
            )
        if not chosen:
            say(f"self-check: {found.note}")
        elif not found.shares_prefixes:
            say(f"self-check of the {role.name}: {found.note}")
        chosen[model] = found
    return chosen


def prepare_prompts(
    settings: PolicySettings, opened: Opened, place: Place, *, limit: int | None
) -> PreferenceData[PromptTokens]:
    """The prompts of a run, each short enough that an answer of full length has positions left.

    Args:
        limit: positions of the role that has the fewest; None where there is no limit.
    """
    room = None if limit is None else limit - settings.max_new_tokens
    if room is not None and room < 1:
        raise UserError(
            "answers this long leave no room for a prompt",
            where="--max-new-tokens",
            found=f"{settings.max_new_tokens:,} tokens",
            expected=f"fewer than the model's {limit:,} positions",
            fix=f"--max-new-tokens {max(1, (limit or 2) // 2)}",
        )
    if room is not None and settings.max_prompt_length is not None and settings.max_prompt_length > room:
        raise UserError(
            "a prompt and an answer of the longest allowed are more than the model can read",
            where="--max-prompt-length, --max-new-tokens",
            found=f"{settings.max_prompt_length:,} and {settings.max_new_tokens:,} tokens",
            expected=f"at most {limit:,} together, the model's positions",
            fix=f"--max-prompt-length {room}, or leave it out",
        )
    assert isinstance(settings, Settings)
    return prepare_preference_data(
        PROMPTS,
        settings.data,
        (),
        place.folder.folder,
        Preparation(
            template=opened.template,
            tokenizer=opened.tokenizer,
            max_length=settings.max_prompt_length or room,
            too_long=settings.too_long,
            max_bad_records=settings.max_bad_records,
            held_out_share=HELD_OUT_SHARE,
            limited_by="--max-prompt-length" if settings.max_prompt_length else None,
        ),
        seed=settings.seed,
        settings=dump(settings),
        world=place.world,
    )


def optimiser_of(role: Role) -> torch.optim.AdamW:
    """AdamW over what a role learns."""
    return adamw(role.trained_parameters(), weight_decay=0.0)


def peak_rate(lr: float | Any, cast: Cast) -> float:
    """The learning rate to warm up to: the one given, or a tenth of what suits supervised tuning."""
    loaded = cast.opened.loaded
    return peak_learning_rate(
        lr,
        num_parameters=loaded.model.num_parameters(),
        has_adapter=loaded.adapter is not None,
        share=SHARE_OF_TUNING_RATE,
    )


# ---- learning from answers


@dataclass(frozen=True, eq=False)
class Experience:
    """An answer with all that is learnt from it: (n,) float64 for each of its tokens."""

    answer: Answer
    said: Said
    advantage: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True, eq=False)
class ExperiencedForest:
    """Answers in one forest, with what is learnt from each of their N tokens."""

    forest: Forest
    old_logp: Tensor
    reference_logp: Tensor
    advantage: Tensor
    old_value: Tensor
    returns: Tensor
    weights: TokenWeights

    @property
    def total_weight(self) -> float:
        """What the sum of all weighted losses is divided by; not always the sum of the weights."""
        return self.weights.total

    def divided_by(self, count: float) -> ExperiencedForest:
        """The same with every weight divided by `count`."""
        return replace(self, weights=replace(self.weights, weight=self.weights.weight / count))


WeightsOf = Callable[["Tensor", int], TokenWeights]
"""(sequence (N,), number of sequences) -> how much each token counts"""


def experienced(
    groups: Sequence[Sequence[Experience]], batching: MicroBatching, weights_of: WeightsOf
) -> list[ExperiencedForest]:
    """An optimiser step over these answers as this process's micro-batches; answers to one prompt stay together."""
    batches = []
    sequences = [[each.answer.tokens for each in group] for group in groups]
    for forward in batching.forwards(sequences):
        forest = batching.forest([sequences[i] for i in forward])
        some = [each for i in forward for each in groups[i]]

        def of(parts: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts))

        batches.append(
            ExperiencedForest(
                forest,
                of([each.said.logp for each in some]),
                of([each.said.reference_logp for each in some]),
                of([each.advantage for each in some]),
                of([each.said.value for each in some]),
                of([each.returns for each in some]),
                weights_of(forest.sequence, forest.num_sequences),
            )
        )
    return batches


def policy_loss_of(
    cast: Cast, *, clip: float, kl_weight: float = 0.0
) -> Callable[[ExperiencedForest], tuple[Tensor, Statistics]]:
    """The clipped surrogate of a step, plus `kl_weight` times the estimate k2 of KL(policy || reference).

    k2 is the estimate whose gradient, on the policy's own samples, is that of the KL.
    """

    def loss_of(batch: ExperiencedForest) -> tuple[Tensor, Statistics]:
        logp = cast.logp(cast.roles.policy, batch.forest).logp.double()
        old = batch.old_logp.to(logp)
        advantage = batch.advantage.to(logp)
        loss = clipped_surrogate(logp, old, advantage, epsilon_low=clip, epsilon_high=clip)
        if kl_weight:
            loss = loss + kl_weight * kl_k2(logp, batch.reference_logp.to(logp))
        now = logp.detach()
        clipped = is_ratio_clipped(now, old, advantage, epsilon_low=clip, epsilon_high=clip)
        ratio = importance_ratio(now, old)

        def mean(of: Tensor) -> Mean:
            return float(of.sum()), len(of)

        return (batch.weights.weight.to(logp) * loss).sum(), {
            "clip_fraction": mean(clipped.double()),
            "approximate_kl": mean(approximate_kl(now, old)),
            "ratio_mean": mean(ratio),
            "ratio_square_mean": mean(ratio.square()),
        }

    return loss_of


def step_of(role: Role, optimiser: torch.optim.Optimizer, terms: Sequence[Term[Any]], place: Place) -> dict[str, float]:
    """One optimiser step of what a role learns, and its numbers."""
    parameters = [parameter for _, parameter in role.trained_parameters()]
    return optimiser_step(parameters, optimiser, terms, max_norm=MAX_NORM, world=place.world)


def over_passes(numbers: Sequence[dict[str, float]], loss_name: str) -> dict[str, float]:
    """The numbers of a phase's optimiser steps as one line: means over the steps, the variance of the ratio."""
    if not numbers:
        return {}
    mean = {name: float(np.mean([each[name] for each in numbers])) for name in numbers[0]}
    mean[loss_name] = mean.pop("loss")
    if "ratio_square_mean" in mean:
        mean["ratio_variance"] = max(0.0, mean.pop("ratio_square_mean") - mean["ratio_mean"] ** 2)
    return mean


def shuffled(groups: Sequence[Any], minibatches: int, *, seed: int, step: int, epoch: int) -> list[list[Any]]:
    """The groups in a new order, cut into minibatches of nearly equal size; a pure function of its arguments."""
    order = np.random.default_rng([seed, step, epoch]).permutation(len(groups))
    return [[groups[int(i)] for i in part] for part in np.array_split(order, minibatches) if len(part)]


def save_policy(cast: Cast, to: Path) -> None:
    """Write the policy as plain transformers reads it."""
    opened = cast.opened
    save(opened.loaded, to, template=opened.saved_template(), stop_tokens=opened.stops)


def copy_of(parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> dict[str, Tensor]:
    """What a role has learnt, for a checkpoint."""
    return {name: copy.deepcopy(parameter.detach()) for name, parameter in parameters}


def put_back(parameters: Sequence[tuple[str, torch.nn.Parameter]], kept: dict[str, Tensor]) -> None:
    """Put back what `copy_of` took, bit for bit."""
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(kept[name])

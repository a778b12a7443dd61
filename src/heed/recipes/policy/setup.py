"""What PPO and GRPO open before their first phase: the roles, the reward, the prompts, and how all of them are read."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from heed.config import DataSource, Optim, lora_alpha, peak_learning_rate
from heed.data.prepare import Preparation, TooLong
from heed.data.prompts import PromptTokens
from heed.data.rendering.choice import EndOfTurn
from heed.data.rendering.render import SpecialText
from heed.dist.world import World
from heed.errors import UserError
from heed.evaluate.rewards import kind_of, open_reward
from heed.memory_config import Activations
from heed.models.adapters.targets import adapted_layers
from heed.models.four_bits import num_parameters
from heed.models.intake.access import Access
from heed.models.intake.dtypes import slower_in_bfloat16
from heed.models.intake.quantise import refuse_quantising
from heed.models.kernels.speed import speed_up
from heed.models.load import num_positions, prepare_training
from heed.models.roles import Role, Roles, roles_on_one_base, separate_models
from heed.models.self_check import ChosenScore, choose_score, everything_trained
from heed.models.trained import how_many_learn
from heed.parallel_config import Offload, Parallel
from heed.preference_config import Kl, KlOfGroups, PolicyLora, Rollouts
from heed.recipes.policy.reward_template import refuse_other_template
from heed.recipes.policy.rollout import RolloutModels
from heed.recipes.preference.data import PROMPTS, PreferenceData, prepare_preference_data
from heed.recipes.training.content import words_content
from heed.recipes.training.data_sets import Data
from heed.recipes.training.dividing import divided, may_be_divided
from heed.recipes.training.loop import Place
from heed.recipes.training.memory import nothing_to_offload
from heed.recipes.training.micro_batches import MicroBatching, lean_forward
from heed.recipes.training.scheduled_step import optimiser_for
from heed.recipes.training.setup import Opened, keep_base_of_run, open_base, refuse_names_beside_adapter
from heed.settings import Settings
from heed.train.same_run import deciding
from heed.types import Tokens

HELD_OUT_SHARE = 0.05
"""of the prompts, by hash"""
SHARE_OF_TUNING_RATE = 0.1
"""of the learning rate that suits supervised tuning"""


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
    def special_tokens_in_text(self) -> SpecialText: ...
    @property
    def end_of_turn(self) -> EndOfTurn: ...
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
    def activations(self) -> Activations: ...
    @property
    def dtype(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def eval_limit(self) -> int: ...
    @property
    def train(self) -> tuple[str, ...]: ...
    @property
    def parallel(self) -> Parallel: ...
    @property
    def offload(self) -> Offload: ...
    @property
    def quantise(self) -> str | None: ...
    @property
    def lora(self) -> PolicyLora: ...
    @property
    def steps(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def missing_stop(self) -> float: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def save_dtype(self) -> str: ...
    @property
    def kl(self) -> Kl | KlOfGroups: ...
    @property
    def rollout(self) -> Rollouts: ...


@dataclass(frozen=True, eq=False)
class PolicySetup:
    """The roles of a run and its prompts, ready for the first phase."""

    models: RolloutModels
    prompts: PreferenceData[PromptTokens]
    held_out: list[PromptTokens]
    ptx: Data | None = None
    """conversations whose supervised loss is added to the policy's"""


def open_policy(
    settings: PolicySettings, place: Place, *, with_value: bool, prepare_ptx: Callable[[Opened], Data] | None = None
) -> PolicySetup:
    """Load what the roles need, prepare the data, and prove that the forest computes what the model computes.

    Args:
        prepare_ptx: prepares the conversations of PPO-ptx; they may be longer than answers, and the self-check covers
            them too.
    """
    assert settings.date is not None
    refuse_names_beside_adapter(settings.train, settings.lora.rank)
    if settings.quantise is not None:
        refuse_quantising(settings.model, settings.lora.rank)
    is_model = kind_of(settings.reward) == "model"
    reward_function = None if is_model else open_reward(settings.reward)
    say = place.speaker.say
    if (slower := slower_in_bfloat16(place.device, settings.dtype)) is not None:
        say(slower)
    if (idle := nothing_to_offload(settings.activations, place.device)) is not None:
        say(idle)
    access = Access(settings.trust_remote_code, say)
    opened = open_base(
        settings.model,
        settings.template,
        place.device,
        settings.date,
        settings.seed,
        access,
        special_text=settings.special_tokens_in_text,
        end_of_turn=settings.end_of_turn,
        frozen=settings.lora.rank > 0,
        quantise=settings.quantise is not None,
        in_pieces=may_be_divided(settings, place.world),
    )
    place.folder.keep_content(words_content(opened.template, opened.tokenizer))
    if is_model:
        refuse_other_template(settings.reward, opened.template, access, say)
    roles = open_roles(settings, opened, place, reward=settings.reward if is_model else None, with_value=with_value)
    present = [role for role in (roles.policy, roles.reference, roles.reward, roles.value) if role is not None]
    for model in {id(role.model): role.model for role in present}.values():
        speed_up(model)
        prepare_training(model, activations=settings.activations)
    opened = replace(opened, loaded=roles.loaded)
    positions = [n for role in present if (n := num_positions(role.model)) is not None]
    prompts = prepare_prompts(settings, opened, place, limit=min(positions, default=None))
    first = [prompts.sets[0].at(int(record)) for record in prompts.sets[0].training[:64]]
    longest = everything_trained(max(first, key=len).ids)
    ptx = None if prepare_ptx is None else prepare_ptx(opened)
    longest_in_data = max(prompts.longest + settings.max_new_tokens, 0 if ptx is None else ptx.longest)
    loaded = opened.loaded
    max_tokens = lean_forward(settings.max_tokens, loaded)
    forwards = self_checked(
        present, longest, longest_in_data=longest_in_data, max_tokens=max_tokens, world=place.world, say=say
    )
    forwards = {
        model: divided(score, settings, place.world, say, next(r.name for r in present if r.model is model))
        for model, score in forwards.items()
    }
    roles = replace(
        roles,
        policy=roles.policy.renewed(),
        reference=roles.reference.renewed(),
        reward=roles.reward and roles.reward.renewed(),
        value=roles.value and roles.value.renewed(),
    )
    present = [role for role in (roles.policy, roles.reference, roles.reward, roles.value) if role is not None]
    share = all(forwards[role.model].shares_prefixes for role in present if role is not roles.reward)
    batching = MicroBatching(max_tokens, share, place.world)
    models = RolloutModels(roles, opened, forwards, batching, settings.dtype, settings.temperature, reward_function)
    held_out = [prompt for found in prompts.held_out.values() for prompt in found]
    return PolicySetup(models, prompts, held_out, ptx)


def open_roles(
    settings: PolicySettings, opened: Opened, place: Place, *, reward: str | None, with_value: bool
) -> Roles:
    """Policy, reference, reward and value: adapters on one base, or models of their own where the rank is 0."""
    say, lora = place.speaker.say, settings.lora
    access = Access(settings.trust_remote_code, say)
    if lora.rank:
        keep_base_of_run(opened, place)
        roles = roles_on_one_base(
            opened.loaded,
            rank=lora.rank,
            alpha=lora_alpha(lora),
            seed=settings.seed,
            reward=reward,
            with_value=with_value,
            new_token_ids=opened.new_token_ids,
            targets=lora.targets,
            access=access,
        )
        say(f"adapters on {adapted_layers(roles.policy.model)}")
    else:
        roles = separate_models(
            opened.loaded,
            reward=reward,
            with_value=with_value,
            train=settings.train,
            new_token_ids=opened.new_token_ids,
            access=access,
        )
        say(f"policy: {how_many_learn(roles.policy.model)}")
    if roles.note:
        say(roles.note)
    return roles


def self_checked(
    present: Sequence[Role],
    longest: Tokens,
    *,
    longest_in_data: int,
    max_tokens: int,
    world: World,
    say: Callable[[str], None],
) -> dict[torch.nn.Module, ChosenScore]:
    """How each model is read, proved once for every model that there is, in the first role that it has.

    Args:
        present: the policy first. What is said of it is always said; of another model only where it falls back.
        longest, longest_in_data, max_tokens: see `choose_score`.
    """
    chosen: dict[torch.nn.Module, ChosenScore] = {}
    for role in present:
        if role.model in chosen:
            continue
        with role.active() as model:
            found = choose_score(
                model,
                longest,
                longest_in_data=longest_in_data,
                num_positions=num_positions(model),
                share=True,
                max_tokens=max_tokens,
                world=world,
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
        eval_limit=settings.eval_limit,
        settings=deciding(settings),
        world=place.world,
    )


def optimiser_of(role: Role, bits: int, say: Callable[[str], None], offload: Offload = ()) -> torch.optim.Optimizer:
    """AdamW over what a role learns."""
    return optimiser_for(Optim(bits=bits, weight_decay=0.0), role.trained_parameters(), role.model, say, offload)


def peak_rate(lr: float | Any, models: RolloutModels) -> float:
    """The learning rate to warm up to: the one given, or a tenth of what suits supervised tuning."""
    loaded = models.opened.loaded
    return peak_learning_rate(
        lr,
        num_parameters=num_parameters(loaded.model),
        has_adapter=loaded.adapter is not None,
        share=SHARE_OF_TUNING_RATE,
    )

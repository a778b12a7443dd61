"""Which models a recipe holds, and the largest forward that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from heed.config import SftSettings, tokens_per_forward
from heed.forest.plan import deal
from heed.models.blank_model import Held, Loss
from heed.plan_config import PlanSettings
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings, RewardSettings
from heed.recipes.training.micro_batches import SHARE_OF_FORWARD
from heed.settings import Settings
from heed.types import Tokens

RECIPES: dict[str, type[Settings]] = {
    "sft": SftSettings,
    "reward": RewardSettings,
    "dpo": DpoSettings,
    "kto": DpoSettings,
    "ppo": PpoSettings,
    "grpo": GrpoSettings,
}
LOSSES: dict[str, Loss] = {"sft": "nll", "reward": "reward"}
"""what is made of hidden states; log-probabilities in all other recipes"""
LONGEST = 2_048


@dataclass(frozen=True)
class Model:
    """One model that a run holds on every device."""

    name: str
    held: tuple[Held, ...]


def rank_of(settings: PlanSettings) -> int:
    """The adapter's rank: the one given, or the recipe's own."""
    rank = settings.lora.rank
    return int(RECIPES[settings.recipe].model_fields["lora"].default.rank) if rank is None else rank


def models_of(settings: PlanSettings, held: Sequence[Held], width: int, dtype_size: int) -> list[Model]:
    """What a run holds, the trained model first: with adapters all roles stand on one base, else each is a model.

    Args:
        held: of the model that is trained.
        dtype_size: bytes of a number of the checkpoint, which frozen copies keep.
    """
    head = Held((1, width), 4, is_trained=True)
    if settings.recipe == "reward":
        return [Model("model", (*held, head))]
    if settings.recipe not in ("ppo", "grpo"):
        return [Model("model", tuple(held))]
    scored = settings.reward == "model"
    with_value = settings.recipe == "ppo"
    frozen = tuple(
        replace(x, is_trained=False, itemsize=min(x.itemsize, dtype_size) if len(x.shape) > 1 else x.itemsize)
        for x in held
    )
    if rank_of(settings):
        adapter = [x for x in held if x.is_trained]
        more = [*adapter, head] if with_value else []
        if scored:
            more += [replace(x, is_trained=False) for x in (*adapter, head)]
        return [Model("policy", (*held, *more))]
    models = [Model("policy", tuple(held)), Model("reference", frozen)]
    if scored:
        models.append(Model("reward", (*frozen, replace(head, is_trained=False))))
    if with_value:
        models.append(Model("value", (*held, head)))
    return models


@dataclass(frozen=True)
class Forward:
    """The largest forward of a step."""

    lengths: tuple[int, ...]
    """of its sequences, which share nothing"""
    num_idle: int
    """processes that have no forward in a step"""

    @property
    def num_tokens(self) -> int:
        """Its tokens."""
        return sum(self.lengths)


def forward_of(settings: PlanSettings, *, positions: int | None, width: int) -> Forward:
    """The largest forward of the process that has most to do, where every sequence is of full length.

    Args:
        positions: the longest sequence that the model has positions for.
        width: of its hidden states.
    """
    length = length_of(settings, positions)
    fields = RECIPES[settings.recipe].model_fields
    batch_size = settings.batch_size or int(fields["batch_size"].default)
    together = {"reward": 2, "dpo": 2, "grpo": settings.group_size}.get(settings.recipe, 1)
    groups = batch_size
    if settings.recipe in ("ppo", "grpo"):
        groups = -(-batch_size // (int(fields["minibatches"].default) * together))
    most = most_tokens(settings, width)
    sequence = Tokens(np.zeros(length, dtype=np.int32), np.zeros(length, dtype=np.float32))
    forwards = deal([[sequence] * together] * groups, most, share=False, rank=0, size=settings.world)
    largest = max(map(len, forwards), default=1)
    return Forward((length,) * (largest * together), max(0, settings.world - groups))


def length_of(settings: PlanSettings, positions: int | None) -> int:
    """Tokens of a sequence: those given, or 2,048 where the model has positions for them."""
    return settings.max_length or min(LONGEST, positions or LONGEST)


def most_tokens(settings: PlanSettings, width: int) -> int:
    """Forest tokens of a forward: those given, or the recipe's own."""
    most = tokens_per_forward(settings.max_tokens, settings.device, width)
    is_lean = settings.recipe != "sft" and settings.max_tokens is None  # see `lean_forward`
    return round(SHARE_OF_FORWARD * most) if is_lean else most

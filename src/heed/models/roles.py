"""Who does what in learning from rewards: policy, reference, reward and value, on one base or as models of their own.

`policy` learns, `reference` is what it started as, `reward` scores whole answers and `value` predicts, before each
token, what is yet to come. With adapters all four stand on one base that is in memory once, and a role is a choice of
adapter; in full training each is a model. Either way a role runs inside `with role.active() as model:`, and its
backward may run inside or after it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from heed.models.adapters.folder import is_adapter
from heed.models.adapters.lora import add_adapter
from heed.models.adapters.new_rows import mend_new_rows
from heed.models.adapters.switch import Switchable, adapter_on, switchable_layers
from heed.models.adapters.targets import ALL_LINEAR
from heed.models.frozen import narrow
from heed.models.heads.scalar import (
    SCORE_IN_ADAPTER,
    RewardModel,
    ScalarHead,
    as_language_adapter,
    freeze_language_head,
    head_of,
    load_reward_model,
    put_adapter,
    read_note,
    require_same_tokenizer,
    reward_adapter_weights,
    scalars_at,
    trunk_fingerprint,
    values_at,
    width_of,
    zero_head,
)
from heed.models.intake.access import CAREFUL, Access, peft_warnings_hidden
from heed.models.load import LoadedModel, load_tokenizer
from heed.models.pieces import complete, is_in_pieces
from heed.models.trained import ALL, HEAD, choose_trained
from heed.types import Forest

POLICY_ADAPTER = "default"
"""the policy's has peft's own name for a first adapter, so that it is saved as any other is"""

Named = tuple[tuple[str, nn.Parameter], ...]


@dataclass(frozen=True, eq=False)
class Role:
    """One of the four: a model, the adapter that is on while it plays, and the head that reads its states."""

    name: str
    """`policy`, `reference`, `reward` or `value`"""
    model: PreTrainedModel
    adapter: str | None = None
    """the adapter on `model` that is on; None: none is, or the model has none"""
    layers: tuple[Switchable, ...] = ()
    """where the model looks up which adapter is on"""
    head: ScalarHead | None = None
    """of reward and value"""
    offset: float = 0.0
    """taken off what the head says"""
    trained: Named = ()
    """what learns when this role learns"""

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """The model as this role; what was on before comes back afterwards. Roles may be active inside one another.

        No `requires_grad` is touched, and activations that are recomputed are recomputed with the adapter of their
        forward (see `prepare_training`), so a backward gives the same gradient inside and after.
        """
        with adapter_on(self.layers, self.adapter):
            yield self.model

    def renewed(self) -> Role:
        """The same role once the parameters of its model are others, as they are after the model is divided."""
        now = dict(self.model.named_parameters())
        return replace(self, trained=tuple((name, now.get(name, parameter)) for name, parameter in self.trained))

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that learn, each once, by name; none of another role's."""
        return list(self.trained)

    def rewards(self, states: Float[Tensor, "T width"], forest: Forest) -> Float[Tensor, " S"]:
        """Each sequence's reward, float64: head(h_last) - offset."""
        assert self.head is not None, f"the {self.name} has no head"
        return scalars_at(states, forest, self.head).double() - self.offset

    def values(self, states: Float[Tensor, "T width"], forest: Forest, *, unit: float = 1.0) -> Float[Tensor, " N"]:
        """The value before each trained token, with its gradient: head(h) - offset / unit.

        Args:
            unit: what the head counts in, in units of reward; the offset is in units of reward.
        """
        assert self.head is not None, f"the {self.name} has no head"
        return values_at(states, forest, self.head) - self.offset / unit

    def change_unit(self, ratio: float) -> None:
        """Let the head count in a unit `ratio` times as large: it says 1 / `ratio` of what it said."""
        assert self.head is not None, f"the {self.name} has no head"
        with torch.no_grad():
            self.head.weight.div_(ratio)


@dataclass(frozen=True, eq=False)
class Roles:
    """The cast of one run."""

    policy: Role
    reference: Role
    reward: Role | None
    """None where rewards come from elsewhere: a rule, or the user's own function"""
    value: Role | None
    """None where advantages need no values"""
    loaded: LoadedModel
    """the policy as `save` and `restore` take it"""
    reward_model: RewardModel | None = None
    """a reward model with weights of its own, where it is not an adapter on the policy's base"""
    note: str = ""
    """one line for the user, where there is something to say"""


def roles_on_one_base(
    policy: LoadedModel,
    *,
    rank: int,
    alpha: float,
    seed: int,
    reward: str | None,
    with_value: bool,
    new_token_ids: Sequence[int] = (),
    targets: Sequence[str] = (ALL_LINEAR,),
    access: Access = CAREFUL,
) -> Roles:
    """One base in memory and an adapter for each role that learns; the reference is the base with all adapters off.

    Args:
        policy: a model without an adapter: one that supervised tuning made was merged when it was loaded.
        rank, alpha: of the policy's adapter, and of the value's where no reward adapter gives it a start.
        reward: a reward model's folder. An adapter that was trained on this very base joins it; any other is loaded
            as a model of its own, and the notes say so.
        with_value: whether there are values: by an adapter of its own, which starts as the reward's adapter and head
            where there is one on this base (Huang et al. 2024, arXiv:2403.17031) and else as the base with a head that
            says 0.
        new_token_ids: tokens whose rows the policy's adapter trains in full.
        targets: layers that the policy's adapter is on; see `lora_targets`.
    """
    if policy.adapter is not None:
        raise ValueError("the roles' base must have no adapter of its own: merge it first")
    if reward is not None:
        require_same_tokenizer(load_tokenizer(reward, access), policy.tokenizer, where=reward)
    joining = reward if reward is not None and _stands_on(reward, policy.model) else None
    separate = load_reward_model(reward, policy.device, access) if reward is not None and joining is None else None
    loaded = add_adapter(policy, rank=rank, alpha=alpha, new_token_ids=new_token_ids, seed=seed, targets=targets)
    if joining is not None:
        join(loaded, joining, "reward")
    if with_value:
        if joining is not None:
            join(loaded, joining, "value")
        else:
            _add_fresh(loaded, "value", rank=rank, alpha=alpha, seed=seed + 1)
    model, layers = loaded.model, tuple(switchable_layers(loaded.model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(adapter_of(name) in (POLICY_ADAPTER, "value"))
    reward_role = (
        Role("reward", model, "reward", layers, *_head_in(joining, loaded.device)) if joining is not None else None
    )
    return Roles(
        policy=Role("policy", model, POLICY_ADAPTER, layers, trained=_of_adapter(model, POLICY_ADAPTER)),
        reference=Role("reference", model, None, layers),
        reward=_alone(separate) if separate is not None else reward_role,
        value=_value_on_base(loaded, layers, reward_role) if with_value else None,
        loaded=loaded,
        reward_model=separate,
        note=f"{reward} is no adapter on this base: the reward model has weights of its own" if separate else "",
    )


def _value_on_base(loaded: LoadedModel, layers: tuple[Switchable, ...], reward: Role | None) -> Role:
    """The value as an adapter of its own that starts as the reward's."""
    offset = 0.0 if reward is None else reward.offset
    head = _silent_head(loaded) if reward is None else _trainable_copy(reward.head)
    trained = (*_of_adapter(loaded.model, "value"), *_of_head(head))
    return Role("value", loaded.model, "value", layers, head, offset, trained)


def separate_models(
    policy: LoadedModel,
    *,
    reward: str | None,
    with_value: bool,
    train: Sequence[str] = (ALL,),
    new_token_ids: Sequence[int] = (),
    access: Access = CAREFUL,
) -> Roles:
    """A model for each role, for training all parameters: the policy, a frozen copy of it, the reward's, the value's.

    The value's model starts as the reward model, head and offset included, where there is one, and else as the policy
    with a head that says 0. To be called before `prepare_training`, which is then called on policy and value.

    Args:
        policy: a model without an adapter.
        reward: a reward model's folder.
        train: what learns of policy and value; see `choose_trained`. The value's own head always does.
        new_token_ids: tokens that were added to the policy's vocabulary.
    """
    if policy.adapter is not None:
        raise ValueError("a policy with an adapter shares its base with the other roles: see roles_on_one_base")
    if any(getattr(module, "gradient_checkpointing", False) for module in policy.model.modules()):
        raise ValueError("a model that recomputes activations cannot be copied: prepare training after the roles")
    if reward is not None:
        require_same_tokenizer(load_tokenizer(reward, access), policy.tokenizer, where=reward)
    if is_in_pieces(policy.model):
        access.say("models of their own for each role are copies: every process has them whole before they are divided")
        complete(policy.model)
    scorer = load_reward_model(reward, policy.device, access, for_tuning=with_value) if reward is not None else None
    reference = narrow(copy.deepcopy(policy.model))
    value = _value_alone(policy, scorer, train) if with_value else None
    if scorer is not None:
        mend_new_rows(narrow(scorer.loaded.model))
    choose_trained(policy.model, train, new_token_ids=new_token_ids)
    return Roles(
        policy=Role("policy", policy.model, trained=tuple(policy.trained_parameters())),
        reference=Role("reference", reference),
        reward=_alone(scorer) if scorer is not None else None,
        value=value,
        loaded=policy,
        reward_model=scorer,
    )


def _value_alone(policy: LoadedModel, scorer: RewardModel | None, train: Sequence[str]) -> Role:
    """The value as a model of its own."""
    start = policy if scorer is None else scorer.loaded
    model = copy.deepcopy(start.model) if start.adapter is None else copy.deepcopy(start.adapter).merge_and_unload()
    model.requires_grad_(True)
    choose_trained(model, [name for name in train if name != HEAD])
    freeze_language_head(model)
    head = _silent_head(policy) if scorer is None else _trainable_copy(scorer.head)
    learns = tuple((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    offset = 0.0 if scorer is None else scorer.offset
    return Role("value", model, head=head, offset=offset, trained=(*learns, *_of_head(head)))


def _alone(scorer: RewardModel) -> Role:
    """A reward model with weights of its own, its adapter always on."""
    return Role("reward", scorer.loaded.model, head=scorer.head, offset=scorer.offset)


# -- adapters that join -----------------------------------------------------------------------------------------------


def _stands_on(reward: str, model: PreTrainedModel) -> bool:
    """Whether a reward model is an adapter, and was trained on a base with exactly this model's weights."""
    return is_adapter(reward) and read_note(reward).get("base") == trunk_fingerprint(model)


def join(loaded: LoadedModel, reward: str, name: str) -> None:
    """Put a reward adapter's layers and weights beside the adapters that are there, under another name."""
    assert loaded.adapter is not None
    _add(loaded.adapter, name, as_language_adapter(reward))
    put_adapter(loaded.adapter, name, reward_adapter_weights(reward), where=reward)


def _add_fresh(loaded: LoadedModel, name: str, *, rank: int, alpha: float, seed: int) -> None:
    """Another adapter on the layers that the policy's is on; it starts as the base."""
    assert loaded.adapter is not None
    config = copy.deepcopy(loaded.adapter.peft_config[POLICY_ADAPTER])
    assert isinstance(config, LoraConfig)
    config.r, config.lora_alpha, config.trainable_token_indices = rank, alpha, None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _add(loaded.adapter, name, config)


def _add(adapter: PeftModel, name: str, config: LoraConfig) -> None:
    with torch.random.fork_rng(), peft_warnings_hidden():
        adapter.add_adapter(name, config)


def adapter_of(parameter: str) -> str | None:
    """The adapter that a parameter belongs to, by the parameter's name; None for the base's own."""
    kinds = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "trainable_tokens_delta")
    parts = parameter.split(".")
    return next((parts[at + 1] for at, part in enumerate(parts[:-1]) if part in kinds), None)


def _of_adapter(model: PreTrainedModel, adapter: str) -> Named:
    return tuple((name, parameter) for name, parameter in model.named_parameters() if adapter_of(name) == adapter)


def _of_head(head: ScalarHead) -> Named:
    return tuple((f"score.{name}", parameter) for name, parameter in head.named_parameters())


def _head_in(reward: str, device: torch.device) -> tuple[ScalarHead, float]:
    """The frozen head in a reward adapter's folder, and the offset beside it."""
    head = head_of(reward_adapter_weights(reward)[SCORE_IN_ADAPTER]).to(device)
    return head.requires_grad_(False), float(read_note(reward)["offset"])


def _silent_head(loaded: LoadedModel) -> ScalarHead:
    return zero_head(width_of(loaded.model), loaded.device)


def _trainable_copy(head: ScalarHead | None) -> ScalarHead:
    assert head is not None
    return copy.deepcopy(head).requires_grad_(True)

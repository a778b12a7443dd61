"""The memory of one device in a run, row by row, and the moment at which it is fullest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from heed.errors import UserError
from heed.models.blank_model import BlankModel, Held, StepMemory, blank_model, held_by, step_memory
from heed.models.four_bits import num_parameters
from heed.models.intake.access import Access
from heed.models.intake.quantise import refuse_quantised, refuse_quantising
from heed.parallel_config import Parallel
from heed.plan_config import PlanSettings, num_bytes
from heed.recipes.planning.bytes_held import gradient_bytes, moment_bytes, parameter_bytes, together_bytes
from heed.recipes.planning.roles import (
    LOSSES,
    RECIPES,
    Forward,
    Model,
    forward_of,
    length_of,
    models_of,
    most_tokens,
    rank_of,
)
from heed.recipes.policy.rollout import CACHED_PER_TOKEN
from heed.recipes.training.dividing import FITS, needed_by_copy
from heed.recipes.training.setup import refuse_names_beside_adapter, refuse_reward_model

KEPT_FREE = 0.1
"""share of a device's memory for its context, libraries' work space and the allocator's gaps"""
LAYOUTS = {"ddp": "a copy on each process", "fsdp": "divided among all", "hsdp": "divided within each machine"}


@dataclass(frozen=True)
class Row:
    """One kind of thing in a device's memory."""

    name: str
    num_bytes: int
    is_exact: bool
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What each device of a run holds."""

    settings: PlanSettings
    ways: dict[str, Parallel]
    """how each model lies on the processes"""
    shards: int
    """processes that a divided model is divided among"""
    forward: Forward
    rows: tuple[Row, ...]
    at_once: dict[str, int]
    """bytes held at once in each part of a step"""
    budget: int
    """bytes of a device, less what is kept free"""
    is_whole: bool
    """whether activations are among them; where they could not be followed the sum is too small by them"""
    num_parameters: int
    num_trained: int
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The most that is held at once, in bytes."""
        return max(self.at_once.values())

    @property
    def fullest(self) -> str:
        """When that is."""
        return max(self.at_once, key=lambda name: self.at_once[name])

    @property
    def fits(self) -> bool:
        """Whether a device has room for it, for all that is known."""
        return self.total <= self.budget


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a model before a step of it is followed."""

    held: tuple[Held, ...]
    positions: int | None
    width: int
    checkpoint_size: int
    """bytes of a number in its files"""
    num_parameters: int
    num_trained: int
    cache_per_token: int
    """bytes of a token's keys and values, in all layers"""


@dataclass(eq=False)
class Followed:
    """Models opened and steps followed so far: plans that differ elsewhere share them."""

    say: Callable[[str], None]
    facts: dict[object, Facts] = field(default_factory=dict)
    steps: dict[object, StepMemory | None] = field(default_factory=dict)

    def opened(self, settings: PlanSettings) -> BlankModel:
        """A blank model as these settings open it."""
        return blank_model(
            settings.model,
            Access(settings.trust_remote_code, self.say),
            rank=rank_of(settings),
            targets=settings.lora.targets,
            train=settings.train,
            quantise=settings.quantise is not None,
            recompute=settings.activations == "recompute",
            is_reward=settings.recipe == "reward",
        )

    def facts_of(self, settings: PlanSettings) -> Facts:
        """What the model holds."""
        key = _key(settings)
        if key not in self.facts:
            made = self.opened(settings)
            self.facts[key] = Facts(
                tuple(held_by(made.model)),
                made.positions,
                made.width,
                made.checkpoint_size,
                num_parameters(made.model),
                num_parameters(made.model, trained=True),
                made.cache_per_token,
            )
        return self.facts[key]

    def step_of(self, settings: PlanSettings, lengths: tuple[int, ...]) -> StepMemory | None:
        """What a step holds; None where it depends on numbers that a blank model has not, as which expert is asked."""
        loss = LOSSES.get(settings.recipe, "logp")
        key = (_key(settings), settings.activations, settings.dtype, settings.device, lengths)
        if key not in self.steps:
            made, kernel = self.opened(settings), settings.device == "cuda"
            try:
                self.steps[key] = step_memory(made, lengths, loss=loss, dtype=settings.dtype, kernel=kernel)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a family's forward raises whatever it likes of tensors without numbers
                self.say(f"a step of this model cannot be followed without weights: {str(error).splitlines()[0][:120]}")
                self.steps[key] = None
        return self.steps[key]


def _key(settings: PlanSettings) -> tuple[object, ...]:
    is_reward = settings.recipe == "reward"
    return rank_of(settings), settings.lora.targets, settings.train, settings.quantise, is_reward


def refuse_contradictions(settings: PlanSettings) -> None:
    """Raise where a run with these settings would be refused."""
    refuse_names_beside_adapter(settings.train, rank_of(settings))
    if settings.quantise is not None:
        refuse_quantising(settings.model, rank_of(settings))
    if settings.recipe != "reward":
        refuse_reward_model(settings.model)
    refuse_quantised(settings.model)
    divides = settings.parallel in ("fsdp", "hsdp")
    if settings.world == 1 and (divides or settings.offload):
        raise UserError(
            "a model is to be divided among processes, and there is one process",
            where="--world",
            found=f"--world 1 with --parallel {settings.parallel} --offload {','.join(settings.offload) or 'nothing'}",
            expected="several processes",
            fix="--world 2, or leave out --parallel and --offload",
        )
    if settings.parallel == "ddp" and settings.offload:
        offload = ",".join(settings.offload)
        raise UserError(
            "what is kept in the CPU's memory is a process's part of a model, and each is to have a copy",
            where="--parallel, --offload",
            found=f"--parallel ddp --offload {offload}",
            expected="a divided model",
            fix=f"--parallel fsdp --offload {offload}",
        )
    if settings.parallel == "hsdp":
        refuse_unlike_machines(settings)


def refuse_unlike_machines(settings: PlanSettings) -> None:
    """Raise where processes do not make several machines with equally many."""
    world, local = settings.world, settings.per_machine
    if world > local and world % local == 0:
        return
    raise UserError(
        "copies on several machines, each divided within, need several machines that are alike",
        where="--parallel hsdp, --world, --per-machine",
        found=f"{world:,} processes, {local:,} on a machine",
        expected="at least two machines with equally many processes",
        fix=f"--world {max(2, -(-world // local)) * local}, or --parallel fsdp",
    )


def refuse_too_long(settings: PlanSettings, positions: int | None) -> None:
    """Raise where sequences are longer than the model can read."""
    if positions is not None and settings.max_length is not None and settings.max_length > positions:
        raise UserError(
            "sequences are longer than the model has positions for",
            where="--max-length",
            found=f"{settings.max_length:,} tokens",
            expected=f"at most {positions:,}",
            fix=f"--max-length {positions}",
        )


def refuse_small_moments(settings: PlanSettings, is_divided: bool) -> None:
    """Raise where 8-bit moments would be divided."""
    if settings.optim.bits == 8 and is_divided:
        raise UserError(
            "an optimiser in 8 bits cannot step parameters that are divided among processes",
            where="--optim.bits 8, --parallel",
            found="parameters of which each process would hold a part",
            expected="whole parameters on every process, or states in 32 bits, which are divided with them",
            fix="--optim.bits 32",
        )


def way_of(settings: PlanSettings, model: Model, memory: int) -> Parallel:
    """How a model lies on the processes: as asked, or as a run on devices of this memory would choose."""
    if settings.parallel != "auto":
        return settings.parallel
    if settings.world == 1:
        return "ddp"
    size = parameter_bytes([x for x in model.held if x.is_divided], 1)
    num_trained = sum(x.size for x in model.held if x.is_trained)
    return "fsdp" if settings.offload or needed_by_copy(size, num_trained) > FITS * memory else "ddp"


def planned(settings: PlanSettings, followed: Followed, *, only_if_held_fits: bool = False) -> Plan:
    """The memory of the device that holds most: the first, whose parts are never the short ones.

    Args:
        only_if_held_fits: whether no step is followed where there is no room for what is held without one.
    """
    refuse_contradictions(settings)
    facts = followed.facts_of(settings)
    refuse_too_long(settings, facts.positions)
    models = models_of(settings, facts.held, facts.width, facts.checkpoint_size)
    memory = num_bytes(settings.memory)
    ways = {model.name: way_of(settings, model, memory) for model in models}
    refuse_small_moments(settings, any(way != "ddp" for way in ways.values()))
    shards = settings.per_machine if settings.parallel == "hsdp" else settings.world
    forward = forward_of(settings, positions=facts.positions, width=facts.width)
    budget = round((1 - KEPT_FREE) * memory)
    rows, in_time = _rows(settings, models, ways, shards, None, facts)
    step = None
    if not (only_if_held_fits and max(in_time.values()) > budget):
        step = followed.step_of(settings, forward.lengths)
        rows, in_time = _rows(settings, models, ways, shards, step, facts)
    return Plan(
        settings=settings,
        ways=ways,
        shards=shards,
        forward=forward,
        rows=tuple(rows),
        at_once=in_time,
        budget=budget,
        is_whole=step is not None,
        num_parameters=facts.num_parameters,
        num_trained=facts.num_trained,
        notes=tuple(_notes(settings, forward, facts)),
    )


def _rows(
    settings: PlanSettings,
    models: Sequence[Model],
    ways: dict[str, Parallel],
    shards: int,
    step: StepMemory | None,
    facts: Facts,
) -> tuple[list[Row], dict[str, int]]:
    parts = {model.name: 1 if ways[model.name] == "ddp" else shards for model in models}
    divided = [model for model in models if parts[model.name] > 1]
    on_cpu = {model.name for model in divided if "parameters" in settings.offload}
    here = [model for model in models if model.name not in on_cpu]
    parameters = sum(parameter_bytes(m.held, parts[m.name]) for m in here)
    parameters += sum(parameter_bytes([x for x in m.held if not x.is_divided], 1) for m in models if m not in here)
    gradients = sum(gradient_bytes(m.held, parts[m.name]) for m in here)
    moments = sum(moment_bytes(m.held, parts[m.name], bits=settings.optim.bits) for m in here)
    visiting = "optimiser" in settings.offload
    put = [together_bytes(model.held) for model in divided]
    together = max((each.parameters + each.gradients for each in put), default=0)
    rows = [
        Row("parameters", parameters, True, "kept by the CPU between uses" if on_cpu else ""),
        Row("gradients", gradients, True, "kept by the CPU" if on_cpu else ""),
        Row("optimiser state", moments, True, "visits for the optimiser's step" if visiting and not on_cpu else ""),
        Row("layers put together", together, False, "at most, for a moment" if together else ""),
    ]
    if step is not None:
        exact = settings.device == "cpu"  # a GPU's kernels keep the same, and use work space of their own
        rows += [
            Row("activations", step.activations, exact, "kept for the backward"),
            Row("logits", step.logits, exact, "a chunk of them, and their gradients"),
            Row("backward", step.backward, exact, "beyond these two"),
        ]
    always = parameters + (0 if visiting else moments)
    in_time = {
        "forward and backward": always + gradients + together + (step.peak if step else 0),
        "optimiser's step": parameters + gradients + moments,
    }
    if settings.recipe in ("ppo", "grpo"):
        answers = _answers(settings, models[0], facts, is_divided=models[0] in divided)
        whole = ", and the whole policy" if models[0] in divided else ""
        rows.append(Row("answers being drawn", answers, False, f"keys and values{whole}; not during a step"))
        in_time["drawing answers"] = always + answers
    return rows, in_time


def _answers(settings: PlanSettings, policy: Model, facts: Facts, *, is_divided: bool) -> int:
    """Keys and values of the answers that a process draws together, and the whole policy where it is divided."""
    length = length_of(settings, facts.positions)
    batch_size = settings.batch_size or int(RECIPES[settings.recipe].model_fields["batch_size"].default)
    at_a_time = max(1, CACHED_PER_TOKEN * most_tokens(settings, facts.width) // length)
    count = min(-(-batch_size // settings.world), at_a_time)
    whole = parameter_bytes([x for x in policy.held if x.is_divided], 1) if is_divided else 0
    return count * length * facts.cache_per_token + whole


def _notes(settings: PlanSettings, forward: Forward, facts: Facts) -> list[str]:
    notes = []
    if forward.num_idle:
        notes.append(
            f"{forward.num_idle:,} of {settings.world:,} processes have nothing to do in a step: "
            f"--batch-size {settings.world} or more gives each something"
        )
    notes.append("tokens that a chat template adds are not counted: a few rows of embeddings and head")
    return notes

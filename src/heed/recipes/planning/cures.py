"""Settings that take less memory, each planned before it is offered: what is named fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from heed.errors import UserError, typed
from heed.plan_config import PlanOptim, PlanSettings
from heed.recipes.planning.device import Followed, Plan, planned
from heed.recipes.planning.roles import rank_of
from heed.settings import Settings, flag

MOST_CURES = 4
SMALL_RANK = 16
FEWEST_TOKENS = 64
MOST_DEVICES = 1024
COMBINED, ADAPTERS = ("several", "offload", "devices"), {"adapter", "four bits"}
"""kinds of cures that are looked for where no single setting is enough; those that change what is learnt"""

Turned = dict[str, Any]
"""settings by name, as `model_copy` takes them"""


@dataclass(frozen=True)
class Cure:
    """A command that fits where the one that was asked for does not."""

    command: str
    turned: str
    """what it does otherwise, in words"""
    total: int
    """bytes that it holds at most"""


def cures_of(settings: PlanSettings, followed: Followed) -> list[Cure]:
    """Up to four: single settings that are enough, else several together, more devices, an adapter.

    Those come first that change nothing of what is learnt.
    """
    found: list[Cure] = []
    kinds: set[str] = set()
    for kind, words, turned in _candidates(settings):
        if len(found) == MOST_CURES:
            break
        tried = settings.model_copy(update=turned)
        needless = kind in COMBINED and kinds - ADAPTERS
        if kind in kinds or needless or not turned or command_of(tried) in {cure.command for cure in found}:
            continue
        plan = _planned(tried, followed)
        if plan is not None and plan.fits and plan.is_whole:
            found.append(Cure(command_of(tried), words, plan.total))
            kinds.add(kind)
    return found


def _planned(settings: PlanSettings, followed: Followed) -> Plan | None:
    """The plan; None where a run would be refused, or holds too much before a forward already."""
    try:
        return planned(settings, followed, only_if_held_fits=True)
    except UserError:
        return None


def _candidates(settings: PlanSettings) -> Iterator[tuple[str, str, Turned]]:
    """(kind, words, settings) from the least to the most; one of a kind is offered."""
    recompute: Turned = {} if settings.activations == "recompute" else {"activations": "recompute"}
    low: Turned = {} if settings.dtype == "bfloat16" else {"dtype": "bfloat16"}
    divides = settings.parallel in ("fsdp", "hsdp")
    shards: Turned = {} if settings.world == 1 or divides else {"parallel": "fsdp"}
    fewer: Turned = {"max_tokens": 1}  # every sequence, or group of them, a forward of its own
    small: Turned = {} if settings.optim.bits == 8 else {"optim": PlanOptim(bits=8)}
    whole = settings.offload == ("parameters", "optimiser")
    offload: Turned = {} if settings.world == 1 or whole else {"offload": ("parameters", "optimiser")}
    moments: Turned = {} if settings.world == 1 or settings.offload else {"offload": ("optimiser",)}
    yield "recompute", "activations computed twice", recompute
    yield "tokens", "a forward for each sequence", fewer if settings.max_tokens != 1 else {}
    yield "dtype", "activations in 16 bits", low
    yield "shards", "parameters divided", shards
    yield "moments", "moments kept by the CPU", shards | moments if moments else {}
    yield "small", "moments in 8 bits", small
    together = recompute | shards
    sums = ("several", "activations computed twice" + (", parameters divided" if shards else ""))
    yield *sums, together
    yield sums[0], f"{sums[1]}, a forward for each sequence", together | fewer
    yield sums[0], f"{sums[1]}, a forward for each sequence, 16 bits", together | fewer | low
    if small and settings.world == 1:
        yield sums[0], "activations computed twice, moments in 8 bits", together | small | fewer
    yield "offload", "parameters and moments kept by the CPU", offload and together | offload
    yield "offload", "the same with a forward for each sequence", offload and together | offload | fewer
    if not settings.offload and settings.optim.bits == 32:
        world = 2 * settings.world
        while world <= MOST_DEVICES:
            yield "devices", f"{world:,} devices", together | {"world": world, "parallel": "fsdp"}
            world *= 2
    if rank_of(settings) == 0 and "all" in settings.train:
        adapter = {"lora": settings.lora.model_copy(update={"rank": SMALL_RANK})}
        yield "adapter", "an adapter alone is trained", adapter
        yield "adapter", "an adapter alone, activations computed twice", adapter | recompute
    if settings.quantise is None and "all" in settings.train:
        rank = rank_of(settings) or SMALL_RANK
        packed = {"lora": settings.lora.model_copy(update={"rank": rank}), "quantise": "nf4"}
        yield "four bits", "an adapter on a base in four bits", packed
        yield "four bits", "the same, activations computed twice", packed | recompute
        yield "four bits", "the same, a forward for each sequence", packed | recompute | fewer


def command_of(settings: PlanSettings) -> str:
    """The settings as they are typed."""
    return " ".join(["heed plan", *_flags(settings, "")])


def _flags(settings: Settings, prefix: str) -> Iterator[str]:
    for name, about in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _flags(value, f"{prefix}{name}.")
        elif value != about.default and name != "print_json":
            word = flag(prefix + name)
            if isinstance(value, tuple):
                yield f"{word} {typed(','.join(value))}"
            else:
                yield word if value is True else f"{word} {typed(str(value))}"

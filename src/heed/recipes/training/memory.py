"""Out of memory, told in five parts wherever in a run it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from heed.config import Lora
from heed.errors import UserError, is_out_of_memory
from heed.memory_config import Activations
from heed.settings import Settings

FEWEST_TOKENS = 64
SMALL_RANK = 8


class MemorySettings(Protocol):
    """What the settings of every run that trains say of the memory that it takes."""

    @property
    def model(self) -> str: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def activations(self) -> Activations: ...
    @property
    def lora(self) -> Lora: ...


@contextmanager
def memory_told(settings: Settings, device: torch.device) -> Iterator[None]:
    """Turn what allocators raise into an error that names what takes less memory; other errors pass.

    Raises:
        UserError: memory was used up inside.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        taken: MemorySettings = settings  # type: ignore[assignment]
        raise out_of_memory(error, taken, device) from error


def out_of_memory(error: BaseException, settings: MemorySettings, device: torch.device) -> UserError:
    """The five parts of it: what was asked for, and those of the cures that the settings have not taken yet."""
    allocator = " ".join(str(error).split())[:300] or type(error).__name__
    tokens = "as many tokens as the device likes" if settings.max_tokens is None else f"{settings.max_tokens:,} tokens"
    cures = [f"--max-tokens {fewer_tokens(settings.max_tokens)} makes forwards smaller"]
    cures += fewer_activations(settings.activations, device)
    if settings.lora.rank == 0:
        cures.append(f"--lora.rank {SMALL_RANK} trains an adapter alone")
    elif settings.lora.rank > SMALL_RANK:
        cures.append(f"--lora.rank {SMALL_RANK} trains a smaller adapter")
    return UserError(
        "there is not enough memory",
        where=f"{settings.model} on {device}",
        found=f"{allocator}; a forward takes {tokens}",
        expected="room for the weights, what is learnt, and the activations of one forward",
        fix="; ".join(cures),
    )


def fewer_activations(taken: Activations, device: torch.device) -> list[str]:
    """The next step to fewer activations in the device's memory, none where the last is taken.

    The CPU's memory is where they lie already on a CPU.
    """
    if taken in ("keep", "selective"):
        return ["--activations recompute keeps the inputs of layers alone"]
    if taken == "recompute" and device.type == "cuda":
        return ["--activations offload keeps them in the memory of the CPU"]
    return []


def nothing_to_offload(activations: Activations, device: torch.device) -> str | None:
    """What `offload` comes to where the device's memory is the CPU's."""
    if activations != "offload" or device.type != "cpu":
        return None
    return "activations: offload keeps inputs of layers in the CPU's memory, where they are already: as recompute"


def fewer_tokens(max_tokens: int | None) -> int:
    """Half the tokens of a forward; the default is at least 1,024."""
    return max(FEWEST_TOKENS, (max_tokens or 1_024) // 2)

"""How a model lies on several processes: settings that every recipe that trains has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from heed.settings import Whole

Parallel = Literal["auto", "ddp", "fsdp", "hsdp"]
Parallelism = Annotated[
    Parallel,
    Field(
        description="under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"
    ),
]
SequenceParallel = Annotated[
    Whole,
    Field(ge=1, description="processes that share each forward's sequences, tokens exchanged for heads in attention"),
]
Offload = tuple[Literal["parameters", "optimiser"], ...]


def names_in(value: object) -> object:
    """Let several names stand in one text with commas between, and a single one without a list."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
        return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    return value


Offloading = Annotated[
    Offload,
    BeforeValidator(names_in),
    Field(description="of a divided model, kept in the CPU's memory between uses: parameters, optimiser"),
]

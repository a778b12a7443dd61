"""What a forward keeps for its backward: a setting that every recipe that trains has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

Activations = Literal["keep", "recompute", "selective", "offload"]


def of_a_switch(value: object) -> object:
    """A file of an older release says `gradient_checkpointing: true` or `false`, and a flag may say it as text."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    return ("recompute" if value else "keep") if isinstance(value, bool) else value


KeptActivations = Annotated[
    Activations,
    BeforeValidator(of_a_switch),
    Field(description="kept for the backward: all, layers' inputs, and products, inputs on the CPU"),
]
PlannedActivations = Annotated[
    Literal["keep", "recompute"],
    BeforeValidator(of_a_switch),
    Field(description="kept for the backward: all, or layers' inputs alone"),
]
"""those whose memory `heed plan` can tell"""
FORMER_SWITCH = "gradient_checkpointing"
FORMERLY = {FORMER_SWITCH: "activations"}
"""what the setting was called while it was a switch"""

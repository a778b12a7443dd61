"""Which models GGUF can hold the way heed writes it: their architecture's name, and why another one is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from heed.errors import UserError, typed


@dataclass(frozen=True)
class Family:
    """An architecture of llama.cpp, and what of it a config of transformers must say for both to compute the same."""

    arch: str
    """`general.architecture`"""
    fixed: Mapping[str, tuple[Any, ...]]
    """values of the config that llama.cpp takes for granted"""
    rotates_pairs: bool = False
    """whether rotary positions turn neighbouring coordinates (2i, 2i + 1), where transformers turns (i, i + d / 2)"""


SILU = {"hidden_act": ("silu",)}
NO_WINDOW = {"use_sliding_window": (False,)}
FAMILIES = {
    "llama": Family("llama", SILU, rotates_pairs=True),
    "mistral": Family("llama", {**SILU, "sliding_window": (None,)}, rotates_pairs=True),
    "qwen2": Family("qwen2", {**SILU, **NO_WINDOW}),
    "qwen3": Family("qwen3", {**SILU, **NO_WINDOW, "attention_bias": (False,)}),
    "gpt2": Family(
        "gpt2",
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
}
"""by transformers' `model_type`"""
ROPES = ("default", "linear", "llama3")
"""scalings of rotary positions that heed writes"""


def family_of(config: PreTrainedConfig, where: str, *, own_code: bool = False) -> Family:
    """The family of a model by its config.

    Args:
        own_code: whether the model is computed by code that it brings, and not by transformers'.

    Raises:
        UserError: it is none that heed writes, or its config asks for what llama.cpp does not compute.
    """
    family = FAMILIES.get(config.model_type)
    if family is None or own_code:
        found = f"{config.model_type}{', with code of its own' if own_code else ''}"
        raise _refused("this family of models is not written as GGUF", where, found, own_code=own_code)
    for key, allowed in family.fixed.items():
        value = getattr(config, key, allowed[0])
        if value not in allowed:
            raise _refused(
                "llama.cpp computes this model otherwise", where, f"{key}: {value}, where it takes {allowed[0]}"
            )
    if (rope := rope_of(config).get("rope_type", "default")) not in ROPES:
        raise _refused("this scaling of positions is not written as GGUF", where, f"rope_type: {rope}")
    return family


def rope_of(config: PreTrainedConfig) -> Mapping[str, Any]:
    """Base and scaling of the rotary positions; empty for a model that has none."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _refused(problem: str, where: str, found: str, *, own_code: bool = False) -> UserError:
    return UserError(
        problem,
        where=where,
        found=found,
        expected=f"a model of one of the families {', '.join(FAMILIES)}, with {', '.join(ROPES)} positions",
        fix=f"heed export {typed(where)} --to folder --out FOLDER{' --trust-remote-code' * own_code}: "
        "a folder that transformers, vLLM and MLX read",
    )

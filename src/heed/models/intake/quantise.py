"""A base that is quantised as it is read, and the note beside an adapter that says so."""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heed.errors import UserError, typed
from heed.models.four_bits import BLOCK_SIZE, hold_packed, num_parameters, packed_layers, rounded, scales_of, size_of
from heed.models.intake.files import ADAPTER_CONFIG, CONFIG, file_of, settings_in

NF4 = "nf4"
NOTE = "quantised.json"
"""file beside an adapter that was trained on a quantised base"""
EXTRA = ("bitsandbytes", "accelerate")


def refuse_quantising(name: str, rank: int) -> None:
    """Raise if a base cannot be quantised while it is read, before anything of it is.

    Args:
        rank: of the adapter that is trained on it.
    """
    if not rank:
        raise UserError(
            "weights in four bits cannot be trained, and there is no adapter to train in their place",
            where="--quantise, --lora.rank",
            found=f"--quantise {NF4} and --lora.rank 0",
            expected="an adapter on the frozen base",
            fix="--lora.rank 16",
        )
    refuse_without_library(f"--quantise {NF4}")
    if file_of(name, ADAPTER_CONFIG) is not None:
        raise UserError(
            "an adapter that is to be merged into its base is no model to quantise yet",
            where=f"--model {typed(name)}, --quantise {NF4}",
            found="the folder of an adapter",
            expected="a whole model, whose weights can be quantised one by one as they are read",
            fix=f"heed merge --model {typed(name)} --out {typed(f'{name}-merged')}, "
            f"and --model {typed(f'{name}-merged')}",
        )


def without_library() -> str:
    """What is not installed of what reads and writes four bits; empty where nothing lacks."""
    return " and no ".join(library for library in EXTRA if find_spec(library) is None)


def refuse_without_library(where: str) -> None:
    """Raise if what reads and writes four bits is not installed."""
    if lacking := without_library():
        raise UserError(
            "weights in four bits need a package that is not installed",
            where=where,
            found=f"no {lacking}",
            expected=f"{' and '.join(EXTRA)}, which come with heed's extra 'quantise'",
            fix="pip install 'heed-lm[quantise]'",
        )


def refuse_quantised(name: str) -> None:
    """Raise if a model that is to be tuned is quantised in its files: nobody can say what its weights were."""
    settings = settings_in(name, CONFIG).get("quantization_config")
    if not settings:
        return
    method = str(settings.get("quant_method", "bitsandbytes")) if isinstance(settings, dict) else "an unnamed method"
    raise UserError(
        "this model is quantised already, and is not tuned as it is",
        where=f"{name}/{CONFIG}, quantization_config",
        found=f"weights that {method} has rounded",
        expected="the model that it was made from, which heed quantises while it reads it",
        fix=f"--model ORIGINAL --quantise {NF4} --lora.rank 16",
    )


def while_reading(device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs to quantise each weight as it is read, so that no second copy is ever whole."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def settle_packed(model: PreTrainedModel, name: str) -> list[str]:
    """Let a model that was just read compute as `four_bits` says where it is in four bits; names those layers.

    Raises:
        UserError: its config says that it is quantised, and its weights are not.
    """
    try:
        return hold_packed(model)
    except ValueError as error:
        settings = settings_in(name, CONFIG).get("quantization_config")
        method = settings.get("quant_method", "bitsandbytes") if isinstance(settings, dict) else "four bits"
        raise UserError(
            "the model is not quantised as its config says",
            where=f"{name}/{CONFIG}, quantization_config",
            found=f"{method}; {error}",
            expected="weights that bitsandbytes has packed",
            fix=f"give the model that it was made from: --model ORIGINAL; or, if these weights are whole, take "
            f"quantization_config out of {name}/{CONFIG}",
        ) from error


def forget_library(model: PreTrainedModel) -> None:
    """Take transformers' own marks off a model that heed quantised: its config stays that of its files."""
    for attribute in ("hf_quantizer", "is_loaded_in_4bit", "is_quantized", "quantization_method"):
        if attribute in vars(model):
            delattr(model, attribute)
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        for attribute in ("quantization_config", "_pre_quantization_dtype"):
            if attribute in vars(config):
                delattr(config, attribute)
    for part in (part for part in model.modules() if isinstance(part, PreTrainedModel)):
        part.config._is_quantized = False


def told(model: PreTrainedModel) -> str:
    """What of a base without adapters is in four bits, as a line for the user, and what is not."""
    packed = packed_layers(model)
    num_packed = sum(map(size_of, packed.values()))
    num_bytes = sum(
        tensor.numel() * tensor.element_size()
        for module in packed.values()
        for tensor in (module.get_parameter("weight"), *scales_of(module).values())
    )
    num_all, head = num_parameters(model), model.get_output_embeddings()
    kept = [
        name for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D) and module is not head
    ]
    left = f", and so do {len(kept):,} linear layers: {', '.join(kept[:4])}" if kept else ""
    return (
        f"base in NF4: {len(packed):,} linear layers with {num_packed:,} of {num_all:,} parameters in "
        f"{num_bytes / 1e6:,.1f} MB, {8 * num_bytes / max(1, num_packed):.2f} bits each; "
        f"embeddings, head and norms stay as they are{left}"
    )


def refuse_nothing_packed(model: PreTrainedModel, name: str) -> None:
    """Raise if no layer of a model could be quantised: its memory would be what it is without."""
    if packed_layers(model):
        return
    raise UserError(
        "no weight of this model can be kept in four bits",
        where=f"--model {typed(name)}, --quantise {NF4}",
        found=f"a {type(model).__name__} without a linear layer besides its head",
        expected="linear layers",
        fix="leave out --quantise",
    )


def refuse_unfinite(model: PreTrainedModel, name: str) -> None:
    """Raise if a weight that was put in four bits was no number: one is enough to spoil the scales of its layer."""
    for layer, module in packed_layers(model).items():
        if not all(bool(scale.isfinite().all()) for scale in scales_of(module).values()):
            raise UserError(
                "a weight of the base is not finite, and cannot be kept in four bits",
                where=f"{name}: {layer}.weight",
                found="NaN or infinity",
                expected="finite weights",
                fix=f"copy {name} again from where it came from; or another --model, such as an earlier checkpoint of "
                "the training that made it",
            )


# -- the note beside an adapter ------------------------------------------------------------------------------------


def write_note(model: PreTrainedModel, folder: Path) -> None:
    """Say beside an adapter that its base was quantised, and which layers; nothing where it was not."""
    layers = sorted(packed_layers(model))
    if layers:
        library = f"bitsandbytes {version('bitsandbytes')}"
        note = {"method": NF4, "block_size": BLOCK_SIZE, "double": True, "library": library, "layers": layers}
        (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def layers_of_note(name: str) -> list[str]:
    """The layers of its base that were in four bits when an adapter was trained; none where it was not quantised.

    Raises:
        UserError: the note speaks of another way to quantise than heed's.
    """
    note = settings_in(name, NOTE)
    if not note:
        return []
    ours = {"method": NF4, "block_size": BLOCK_SIZE, "double": True}
    theirs = {key: note.get(key) for key in ours}
    layers = note.get("layers")
    if theirs != ours or not isinstance(layers, list) or not layers:
        raise UserError(
            "the base of this adapter was quantised in a way that heed does not know",
            where=f"{name}/{NOTE}",
            found=json.dumps(theirs) + ("" if layers else ", without layers"),
            expected=json.dumps(ours) + " and the names of the layers",
            fix=f"heed merge --model {typed(name)} --out {typed(f'{name}-merged')}, which needs no quantised base",
        )
    return [str(layer) for layer in layers]


def was_quantised(name: str) -> bool:
    """Whether an adapter was trained on a base in four bits."""
    return bool(layers_of_note(name))


def refuse_other_layers(model: PreTrainedModel, layers: list[str], name: str) -> None:
    """Raise if other layers were quantised now than when the adapter was trained."""
    if differing := sorted(packed_layers(model).keys() ^ set(layers)):
        raise UserError(
            "the base was quantised in other layers than when its adapter was trained",
            where=f"{name}/{NOTE}",
            found=f"{len(differing):,} layers are quantised in one of the two alone: {', '.join(differing[:3])}",
            expected="the same layers",
            fix=f"heed merge --model {typed(name)} --out {typed(f'{name}-merged')}, which needs no quantised base",
        )


@torch.no_grad()
def round_layers(model: PreTrainedModel, layers: list[str]) -> None:
    """Give these layers of a whole model the weights that their four-bit forms have, in float32."""
    for name in layers:
        module = model.get_submodule(name)
        weight = module.get_parameter("weight")
        straight = weight.t() if isinstance(module, Conv1D) else weight
        straight.copy_(rounded(straight))

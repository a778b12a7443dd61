"""Which layers of a model get an adapter: by group, or by the ends of their names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heed.errors import UserError
from heed.settings import nearest

ALL_LINEAR, ATTENTION, MLP = "all-linear", "attention", "mlp"


def lora_targets(model: PreTrainedModel, names: Sequence[str]) -> str | list[str]:
    """What peft is to look for, so that exactly the layers that `names` mean get an adapter.

    Args:
        names: `all-linear`: every linear layer but the language head; `attention`: those in attention modules; `mlp`:
            the others inside the model's layers; anything else is a layer's name or the end of it, such as `q_proj`.

    Raises:
        UserError: a name that no linear layer has.
    """
    if ALL_LINEAR in names:
        return ALL_LINEAR
    linear = linear_layers(model)
    chosen = {layer for name in names for layer in _meant_by(name, model, linear)}
    everything = [name for name, _ in model.named_modules()]
    for shortened in (_last_part, _name_in_layer):
        ends = {shortened(name) for name in chosen}
        if {name for name in everything if _ends_in(name, ends)} == chosen:
            return sorted(ends)
    return sorted(chosen)


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer but the language head, by name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _meant_by(name: str, model: PreTrainedModel, linear: Mapping[str, nn.Module]) -> list[str]:
    attentions = [at for at, module in model.named_modules() if "attention" in type(module).__name__.lower()]
    in_attention = [layer for layer in linear if any(layer.startswith(f"{at}.") for at in attentions)]
    if name == ATTENTION:
        found = in_attention
    elif name == MLP:
        found = [layer for layer in linear if layer not in in_attention and _name_in_layer(layer) != layer]
    else:
        found = [layer for layer in linear if _ends_in(layer, [name])]
    if found:
        return found
    known = sorted({_last_part(layer) for layer in linear})
    near = nearest(name, [ATTENTION, MLP, ALL_LINEAR, *known])
    raise UserError(
        f"no layer that could get an adapter is called {name!r}",
        where="--lora.targets",
        found=name,
        expected=f"{ALL_LINEAR}, {ATTENTION}, {MLP}, or names of linear layers: {', '.join(known)}",
        fix=f"--lora.targets {near or ALL_LINEAR}",
    )


def _ends_in(name: str, ends: Iterable[str]) -> bool:
    """peft's own rule."""
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _name_in_layer(name: str) -> str:
    """What follows the number of its layer: `self_attn.q_proj`; the whole name of what is in none."""
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[0] + 1 :]) if numbers else name


def adapted_layers(model: nn.Module, adapter: str = "default") -> str:
    """How many layers have an adapter, for the user: `14 linear layers: down_proj 2, gate_proj 2, ...`."""
    names = [
        _last_part(name)
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    ]
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(Counter(names).items()))
    return f"{len(names):,} linear layers: {counts}"

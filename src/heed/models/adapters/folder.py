"""An adapter's folder or repository: its base found, its weights put on that base, all of them or it is an error."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from heed.allocator import freed_at_once
from heed.dist.divided import is_shard, put
from heed.errors import UserError
from heed.models.adapters.new_rows import mend_new_rows
from heed.models.frozen import hold_frozen
from heed.models.intake.access import CAREFUL, Access, peft_warnings_hidden
from heed.models.intake.dtypes import checkpoint_dtype
from heed.models.intake.files import ADAPTER_CONFIG, CONFIG, GENERATION, file_of, opened
from heed.models.intake.quantise import layers_of_note, refuse_other_layers, refuse_without_library, round_layers, told
from heed.models.intake.weights import AROUND_ALL, WRAPPERS, listed, load_weights

OWN_BASE = "base"
"""folder in a run with an adapter that holds the base where the original alone would not do"""
PEFT_PREFIX = "base_model.model."
"""before the name of each of an adapter's weights"""
BASE = "base model of the adapter"
BaseAs = Literal["trained", "rounded", "fresh"]


def is_adapter(name: str) -> bool:
    """Whether the folder or repository holds an adapter and not a model of its own."""
    return file_of(name, ADAPTER_CONFIG) is not None


def base_of(name: str) -> str:
    """The folder or hub name of an adapter's base.

    A base that the run keeps is found beside the adapter, or beside the checkpoints that the adapter is one of, even
    after the run's folder was moved.
    """
    folder = Path(name)
    if (folder / OWN_BASE / CONFIG).is_file():
        return str(folder / OWN_BASE)
    named = str(read_adapter_config(name).base_model_name_or_path or "")
    of_run = folder.absolute().parents[1] / OWN_BASE if len(folder.absolute().parents) > 1 else folder
    if Path(named).name == OWN_BASE and not Path(named).is_dir() and (of_run / CONFIG).is_file():
        return str(of_run)
    return named


def read_adapter_config(name: str) -> PeftConfig:
    """What `adapter_config.json` says."""
    config: PeftConfig = opened(name, lambda: PeftConfig.from_pretrained(name), "adapter")
    return config


def read_adapter_weights(name: str) -> dict[str, Tensor]:
    """The weights in an adapter's folder or repository by peft's names, whatever wrappers had put into them."""
    weights: dict[str, Tensor] = opened(name, lambda: load_peft_weights(name, device="cpu"), "adapter")
    return {_peft_name(key): weight for key, weight in weights.items()}


def _peft_name(key: str) -> str:
    plain = re.sub(WRAPPERS, "", re.sub(rf"^{AROUND_ALL}", "", key))
    return PEFT_PREFIX + re.sub(r"(lora_[A-Za-z_]+)\.default(?=\.|$)", r"\1", plain)


def load_adapter(
    name: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    base: str | None = None,
    access: Access = CAREFUL,
    *,
    base_as: BaseAs = "trained",
) -> PeftModel:
    """An adapter on its base model, which stops where the adapter was taught to.

    Args:
        dtype: of all that is not kept in fewer bits.
        base: replaces the base that the adapter names, and is taken as it is.
        base_as: what becomes of a base that was quantised when the adapter was trained. `trained`: it is quantised
            again; `rounded`: its layers have the weights of their four-bit forms in float32; `fresh`: it is left whole.
    """
    named = base or base_of(name)
    if base is None:
        refuse_lost_base(name, named)
    layers = layers_of_note(name) if base is None and base_as != "fresh" else []
    if layers:
        inner = quantised_base(name, named, layers, device, dtype, access, base_as)
    else:
        inner = load_weights(AutoModelForCausalLM, named, dtype, access, BASE).to(device)
    config, weights = read_adapter_config(name), read_adapter_weights(name)
    config.inference_mode = True
    adapter = put_on(inner, config, where=name, base=named)
    fill_adapter(adapter, "default", weights, where=name, base=named)
    if (path := file_of(name, GENERATION)) is not None:
        inner.generation_config = opened(name, lambda: GenerationConfig.from_pretrained(path.parent), "adapter")
    return adapter.eval()


def quantised_base(
    name: str,
    base: str,
    layers: list[str],
    device: torch.device,
    dtype: torch.dtype,
    access: Access,
    base_as: BaseAs = "trained",
) -> PreTrainedModel:
    """The base as it was when the adapter was trained on it; see `load_adapter`."""
    refuse_without_library(f"{name}, whose base was quantised")
    if base_as == "rounded":
        model = load_weights(AutoModelForCausalLM, base, torch.float32, access, BASE)
        round_layers(model, layers)
        return model.to(device, dtype)
    # From the dtype of the files, as in training: rounded to another first, the codes would be others.
    with freed_at_once():
        model = load_weights(AutoModelForCausalLM, base, checkpoint_dtype(base), access, BASE, quantise_on=device)
    refuse_other_layers(model, layers, name)
    access.say(f"{name}: its base is quantised as it was trained, and the adapter stays beside it; {told(model)}")
    if dtype == torch.float32:
        hold_frozen(model)
    else:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    return model.requires_grad_(False).to(device)


def refuse_lost_base(name: str, base: str) -> None:
    """Raise if the base that an adapter names is a folder that is not there."""
    is_path = not base or Path(base).is_absolute() or base.startswith((".", "~"))
    if not is_path or (base and Path(base).is_dir()):
        return
    raise UserError(
        "the base model of the adapter is not where the adapter says",
        where=f"{name}/{ADAPTER_CONFIG}",
        found=f"base_model_name_or_path: {base or 'nothing'}" + (", no such folder" if base else ""),
        expected="the folder or hub name of the model that it was trained on",
        fix=f'write where the base is now as "base_model_name_or_path" in {name}/{ADAPTER_CONFIG}; '
        f"or heed merge --model '{name}' --base FOLDER --out MERGED, and --model MERGED",
    )


def put_on(model: PreTrainedModel, config: PeftConfig, *, where: str, base: str) -> PeftModel:
    """The adapter's layers on the model, with weights that are yet to be filled in."""
    config.base_model_name_or_path = None  # peft puts the model's own name there, and warns where another stood
    try:
        with torch.random.fork_rng(), peft_warnings_hidden():
            adapter: PeftModel = get_peft_model(model, config)
        mend_new_rows(adapter)
    except Exception as error:
        raise _does_not_fit(where, base, " ".join(str(error).split())[:300]) from error
    return adapter


def fill_adapter(adapter: PeftModel, name: str, weights: Mapping[str, Tensor], *, where: str, base: str) -> None:
    """Give the adapter of this name its weights by peft's names, all of them, or it is an error.

    Raises:
        UserError: a weight has no place in the model, has another shape, or is missing.
    """
    ours = get_peft_model_state_dict(adapter, adapter_name=name, save_embedding_layers=False)
    if any(map(is_shard, ours.values())):  # a run that goes on from what it wrote itself
        if differing := weights.keys() ^ ours.keys():
            raise _does_not_fit(where, base, f"{min(differing)} is in one of them alone")
        for key, tensor in ours.items():
            put(weights[key], tensor)
        return
    try:
        with peft_warnings_hidden():
            result: Any = set_peft_model_state_dict(adapter, dict(weights), adapter_name=name)
    except (RuntimeError, IndexError, KeyError) as error:
        raise _does_not_fit(where, base, " ".join(str(error).split())[:300]) from error
    kind = PEFT_TYPE_TO_PREFIX_MAPPING.get(adapter.peft_config[name].peft_type, "lora_")
    own = re.compile(rf"\.(?:{kind}\w*|trainable_tokens_\w+|modules_to_save)\.{re.escape(name)}(?:\.|$)")
    # Rows of a tied head are the embeddings' own, under a second name that no file holds.
    parameters = dict(adapter.named_parameters(remove_duplicate=False))
    filled = {id(parameter) for key, parameter in parameters.items() if key not in set(result.missing_keys)}
    missing = sorted(key for key in result.missing_keys if own.search(key) and id(parameters.get(key)) not in filled)
    unplaced = sorted(result.unexpected_keys)
    if missing or unplaced:
        of_all = f"of {len(weights):,} weights"
        found = (
            f"{len(unplaced):,} {of_all} have no place: {listed(unplaced, 2)}" if unplaced else "",
            f"{len(missing):,} are missing: {listed(missing, 2)}" if missing else "",
        )
        raise _does_not_fit(where, base, "; ".join(part for part in found if part))


def _does_not_fit(where: str, base: str, found: str) -> UserError:
    return UserError(
        "the adapter does not fit this base model",
        where=f"{where}, on {base}",
        found=found,
        expected="the base model that the adapter was trained on, with the tokens that were added to it",
        fix=f"heed merge --model '{where}' --base FOLDER --out MERGED names another one; left out, "
        f"the one in {ADAPTER_CONFIG} is taken",
    )

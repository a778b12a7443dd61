"""A model's weights, and the report of their loading read: what is missing would be trained from random numbers."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from heed.errors import UserError
from heed.models.intake.access import Access
from heed.models.intake.files import opened
from heed.models.intake.quantise import (
    forget_library,
    refuse_nothing_packed,
    refuse_unfinite,
    settle_packed,
    while_reading,
)
from heed.models.pieces import opened_in_pieces

WRAPPERS = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
"""what torch.compile, FSDP, activation checkpointing and Lightning put into the names of weights, anywhere"""
AROUND_ALL = rf"(?:module\.|base_model\.model\.|{WRAPPERS})+"
"""what data parallelism and peft put before the names of all weights, with the others in any order"""
RENAMED = {rf"^{AROUND_ALL}": "", rf"\.{WRAPPERS}": "."}
"""patterns in the names of weights, and what they become"""

MENDED = "heed_mended"
"""attribute of a model that is not what its files are to plain transformers, so that they cannot stand for it"""

HEED_ATTENDS = (None, "eager", "sdpa")
"""attentions that a config may ask for; heed computes attention by itself, and checks against one of these"""


def load_weights(
    auto: Any,
    name: str,
    dtype: torch.dtype,
    access: Access,
    what: str,
    *,
    spare: Callable[[str], bool] | None = None,
    quantise_on: torch.device | None = None,
    in_pieces: bool = False,
) -> PreTrainedModel:
    """The model of a folder or hub name, every weight of it from there.

    Args:
        auto: transformers' class for the kind of model, such as `AutoModelForCausalLM`.
        dtype: that the weights are loaded in.
        what: what an error calls it.
        spare: tells which missing weights do no harm; none do where it is left out.
        quantise_on: where the linear layers are put in four bits, each while it is read; None leaves them whole.
        in_pieces: whether layers' matrices may stay in the files until they are wanted; see `heed.models.pieces`.

    Raises:
        UserError: weights are missing or have another shape than the config says, or nothing can be loaded at all.
    """
    config, mended = fitting_config(name, access, what)
    how = {} if quantise_on is None else while_reading(quantise_on)

    def load(**more: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        found: tuple[PreTrainedModel, dict[str, Any]] = opened(
            name,
            lambda: auto.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                trust_remote_code=access.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, with both shapes
                **how,
                **more,
            ),
            what,
        )
        return found

    pieces = _in_pieces(auto, name, config, dtype, access, what) if in_pieces and quantise_on is None else None
    model, report = pieces or load()
    found = {before for key in report["unexpected_keys"] if (before := wrapping_of(key))}
    if report["missing_keys"] and found:
        access.say(f"{name}: the names of weights are read without {', '.join(sorted(found))}")
        model, report = load(key_mapping=RENAMED)
        _forget_renaming(model)
        mended = True
    missing = sorted(key for key in report["missing_keys"] if spare is None or not spare(key))
    mismatched = sorted((key, tuple(theirs), tuple(ours)) for key, theirs, ours in report["mismatched_keys"])
    unexpected = sorted(report["unexpected_keys"])
    num_weights = len(model.state_dict())
    if mismatched:
        raise _other_shapes(name, what, model, mismatched)
    if missing:
        raise _missing(name, what, missing, unexpected, num_weights)
    if unexpected:
        access.say(
            f"{name}: {len(unexpected):,} weights have no place in a {type(model).__name__} and are left out: "
            f"{listed(unexpected)}"
        )
    settle_packed(model, name)
    if quantise_on is not None:
        forget_library(model)
        refuse_nothing_packed(model, name)
        refuse_unfinite(model, name)
    _untie(model, name, access)
    setattr(model, MENDED, mended)
    return model


def _in_pieces(
    auto: Any, name: str, config: Any, dtype: torch.dtype, access: Access, what: str
) -> tuple[PreTrainedModel, dict[str, Any]] | None:
    """The model in pieces and the report of its loading; None where it has to be read whole, which is said."""
    kind = None if access.trust_remote_code else auto._model_mapping.get(type(config), None)
    found = opened(name, lambda: opened_in_pieces(kind, name, config, dtype), what)
    if not isinstance(found, str):
        return found
    access.say(f"{name}: every process reads the whole model before it is divided: {found}")
    return None


def was_mended(model: PreTrainedModel) -> bool:
    """Whether the files of this model would give another one, or none, to plain transformers."""
    return bool(getattr(model, MENDED, False))


def fitting_config(name: str, access: Access, what: str) -> tuple[Any, bool]:
    """The model's config, without what would stop it from loading and has no part in what heed computes.

    Also whether plain transformers would not load it as it was.
    """
    mended = False
    config = opened(name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=access.trust_remote_code), what)
    for each in (config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", {}))):
        if each is None:
            continue
        if getattr(each, "_attn_implementation_internal", None) not in HEED_ATTENDS:
            each._attn_implementation_internal = None
            mended = True
        rows, pad = getattr(each, "vocab_size", None), getattr(each, "pad_token_id", None)
        if isinstance(rows, int) and isinstance(pad, int) and not 0 <= pad < rows:
            each.pad_token_id, mended = None, True
            access.say(f"{name}: the padding token {pad} has no row in a table of {rows:,}; it is not used")
    return config, mended


def wrapping_of(key: str) -> str:
    """What wrappers put into the name of a weight; nothing where it is plain."""
    before = re.match(AROUND_ALL, key)
    inside = re.search(WRAPPERS, key)
    return before[0] if before else inside[0] if inside else ""


def listed(keys: Iterable[str], most: int = 4) -> str:
    """The first few of many names, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - most:,} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _forget_renaming(model: PreTrainedModel) -> None:
    """Transformers would undo at saving how names were read, and so put the wrappers' back."""
    kept = [each for each in model._weight_conversions if not RENAMED.keys() & set(each._original_source_patterns)]
    model._weight_conversions = kept


def _missing(name: str, what: str, missing: list[str], unexpected: list[str], num_weights: int) -> UserError:
    found = f"{len(missing):,} of {num_weights:,} weights are missing: {listed(missing)}"
    fix = "give the whole model: save_pretrained writes it, and --model takes its folder"
    adapter = [key for key in unexpected if "lora_" in key or ".base_layer." in key]
    if adapter:
        found += f"; {len(adapter):,} belong to an adapter that was not merged: {listed(adapter, 2)}"
        fix = "save it with merge_and_unload(), or give the adapter's folder (adapter_config.json) as --model"
    elif unexpected:
        found += f"; {len(unexpected):,} have other names: {listed(unexpected, 2)}"
    elif all(key.startswith(("lm_head.", "embed_out.")) for key in missing):
        fix = (
            f'give them too; or, if the head is the embeddings, write "tie_word_embeddings": true in {name}/config.json'
        )
    return UserError(
        f"the {what} is not whole: it would go on from random numbers",
        where=name,
        found=found,
        expected="every weight that its config.json speaks of",
        fix=fix,
    )


def _other_shapes(name: str, what: str, model: PreTrainedModel, mismatched: list[Any]) -> UserError:
    key, theirs, ours = mismatched[0]
    found = f"{len(mismatched):,} weights have another shape: {key} is {theirs}, by config.json it were {ours}"
    fix = "give weights and config.json of one model"
    rows = {theirs[0] for _, theirs, ours in mismatched if theirs[1:] == ours[1:]}
    tables = {id(parameter) for layer in _tables(model) for parameter in layer.parameters()}
    of_tables = {key for key, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in tables}
    if len(rows) == 1 and {key for key, _, _ in mismatched} <= of_tables:
        fix = f'write "vocab_size": {rows.pop()} in {name}/config.json'
    return UserError(
        f"the {what} is not the one its config.json speaks of",
        where=name,
        found=found,
        expected="weights of the shapes that config.json gives",
        fix=fix,
    )


def _tables(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]


def _untie(model: PreTrainedModel, name: str, access: Access) -> None:
    """Let the config say that the head has weights of its own where the checkpoint holds other ones than it says.

    Transformers reads them so, and would tie them at the next change of the vocabulary.
    """
    tables = [layer.weight for layer in _tables(model)]
    config = model.config.get_text_config()
    if getattr(config, "tie_word_embeddings", False) and len(tables) == 2 and tables[0] is not tables[1]:
        model.config.tie_word_embeddings = config.tie_word_embeddings = False
        access.say(f"{name}: the head has weights of its own, although config.json says that it shares the embeddings'")

"""Low-rank adapters (LoRA, Hu et al. 2022, arXiv:2106.09685): W + alpha / rank * B A, with A and B trained."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import TaskType
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import cached_file

from heed.errors import UserError, typed
from heed.models.adapters.folder import BaseAs, is_adapter, load_adapter
from heed.models.adapters.new_rows import mend_new_rows
from heed.models.adapters.targets import ALL_LINEAR, lora_targets
from heed.models.four_bits import has_packed
from heed.models.frozen import hold_frozen
from heed.models.intake.access import CAREFUL, Access, peft_warnings_hidden
from heed.models.intake.copies import copy_with_tables
from heed.models.intake.dtypes import checkpoint_dtype, weight_files
from heed.models.intake.files import GENERATION
from heed.models.intake.vocabulary import num_rows
from heed.models.intake.weights import load_weights, was_mended
from heed.models.load import LoadedModel, set_stops
from heed.models.stops import stop_ids_of
from heed.models.writing import write


def add_adapter(
    loaded: LoadedModel,
    *,
    rank: int,
    alpha: float,
    new_token_ids: Sequence[int],
    seed: int,
    targets: Sequence[str] = (ALL_LINEAR,),
) -> LoadedModel:
    """Put an adapter on every linear layer but the head, or on those of `targets`, and freeze the rest.

    B starts at 0, so the adapted model starts as the base. Rows of new tokens are trained in full in embeddings and
    head: a low-rank change of a frozen random row could not give a token its meaning.

    Args:
        targets: see `lora_targets`.
    """
    torch.manual_seed(seed)
    model = loaded.model
    hold_frozen(model)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=lora_targets(model, targets),
        trainable_token_indices=_rows_of(loaded, new_token_ids) or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 keeps W transposed
    )
    with peft_warnings_hidden():
        adapter = get_peft_model(model, config)
    mend_new_rows(model)
    # A relative path would be looked for wherever the next program happens to be started.
    name = str(model.name_or_path)
    adapter.peft_config["default"].base_model_name_or_path = str(Path(name).absolute()) if Path(name).is_dir() else name
    return LoadedModel(adapter.get_base_model(), loaded.tokenizer, adapter)


def _rows_of(loaded: LoadedModel, new_token_ids: Sequence[int]) -> dict[str, list[int]]:
    """The layers, by name, in which the new tokens have a row of their own."""
    if not new_token_ids:
        return {}
    model = loaded.model
    names = {id(module): name for name, module in model.named_modules()}
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inner] if inner.weight is outer.weight else [inner, outer]
    return {names[id(layer)].rsplit(".", 1)[-1]: list(new_token_ids) for layer in layers}


def keep_base(loaded: LoadedModel, folder: Path, *, new_token_ids: Sequence[int], stop_tokens: Sequence[str]) -> None:
    """Keep a base of the run's own where its adapter could not be loaded onto the original, or would not stop on it.

    Plain transformers takes vocabulary and generation config from the base that an adapter names. With new tokens,
    or where the base was mended or is itself an adapter merged into another, the model is written whole. Where only
    the stop tokens are others, the run's base is links to the original's files beside a generation config of its own.

    Args:
        folder: the base's place in the run. One that is there already is from the same run and stays.
        stop_tokens: tokens that end a response.
    """
    name = str(loaded.model.name_or_path)
    before = stop_ids_of(loaded.model)
    set_stops(loaded.model, loaded.tokenizer, stop_tokens)
    stops_there = set(stop_ids_of(loaded.model)) <= set(before)
    if new_token_ids or is_adapter(name) or was_mended(loaded.model):
        write_extended_base(loaded, folder)
    elif not stops_there:
        _link_base(loaded, folder)


def write_extended_base(loaded: LoadedModel, folder: Path) -> None:
    """Keep the base with its new tokens beside the adapter, which could not be loaded onto the smaller original."""
    if not folder.is_dir():
        unfinished = _unfinished(folder)
        if has_packed(loaded.model):
            _write_whole(loaded.model, unfinished)
        else:
            write(loaded.model, unfinished)
        write(loaded.tokenizer, unfinished)
        _into_place(unfinished, folder)
    loaded.model.name_or_path = str(folder)


def _write_whole(model: PreTrainedModel, folder: Path) -> None:
    """Write a quantised model with the weights of its files, and tables that have grown since: nothing is rounded."""
    name = str(model.name_or_path)
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): at for at, module in model.named_modules()}
    tables = {f"{names[id(layer)]}.{key}": p for layer in (inner, outer) for key, p in layer.named_parameters()}
    if was_mended(model) or not copy_with_tables(weight_files(name), tables, folder):
        # Files of another kind, or under other names, are read whole.
        whole = load_weights(AutoModelForCausalLM, name, checkpoint_dtype(name), Access(say=lambda line: None), "model")
        whole.resize_token_embeddings(num_rows(model), mean_resizing=False)
        with torch.no_grad():
            for ours, theirs in ((whole.get_input_embeddings(), inner), (whole.get_output_embeddings(), outer)):
                for key, parameter in theirs.named_parameters():
                    ours.get_parameter(key).copy_(parameter)
        write(whole, folder)
        return
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _link_base(loaded: LoadedModel, folder: Path) -> None:
    """The original's files by name, and the model's own generation config."""
    if not folder.is_dir():
        name = str(loaded.model.name_or_path)
        original = Path(name) if Path(name).is_dir() else Path(str(cached_file(name, "config.json"))).parent
        unfinished = _unfinished(folder)
        for file in sorted(original.iterdir()):
            if file.is_file() and file.name != GENERATION:
                (unfinished / file.name).symlink_to(file.resolve())
        loaded.model.generation_config.save_pretrained(unfinished)
        _into_place(unfinished, folder)
    loaded.model.name_or_path = str(folder)


def _unfinished(folder: Path) -> Path:
    """An empty folder beside `folder`, under a name that a killed process may leave behind."""
    unfinished = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def _into_place(unfinished: Path, folder: Path) -> None:
    """Rename the finished folder; where another process of the run was first, its equal one stays."""
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(unfinished)


def open_adapter(
    name: str, base: str | None, device: torch.device, access: Access = CAREFUL, *, base_as: BaseAs = "fresh"
) -> PeftModel:
    """The adapter of a run or a folder, on its base in float32, with its layers apart; see `load_adapter`."""
    if not is_adapter(name):
        whole = Path(name).is_dir()
        raise UserError(
            "there is no adapter to merge",
            where="--model",
            found=f"{name}: " + ("no adapter_config.json in it" if whole else "no such folder"),
            expected="the folder of a run with --lora.rank above 0, or another adapter's folder",
            fix=f"heed chat --model {typed(name)} talks to it as it is: all its parameters are there"
            if whole
            else "check the path; --model OUT, with the folder that the run was given as --out",
        )
    return load_adapter(name, device, base=base, access=access, base_as=base_as)


@torch.no_grad()
def next_token_logp(model: PreTrainedModel | PeftModel, ids: Sequence[int]) -> Tensor:
    """Log-probability of every token after every prefix of `ids`: (L, vocabulary), float32 on the CPU."""
    batch = torch.tensor([list(ids)], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=batch, use_cache=False).logits
    return torch.log_softmax(logits[0].float(), dim=-1).cpu()

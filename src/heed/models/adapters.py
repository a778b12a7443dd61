"""Low-rank adapters (LoRA, Hu et al. 2022, arXiv:2106.09685): W + alpha / rank * B A, with A and B trained."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import TaskType

from heed.errors import UserError
from heed.models.load import LoadedModel


def add_adapter(
    loaded: LoadedModel, *, rank: int, alpha: float, new_token_ids: Sequence[int], seed: int
) -> LoadedModel:
    """Put an adapter on every linear layer but the head, and freeze the rest.

    B starts at 0, so the adapted model starts as the base. Rows of new tokens are trained in full in embeddings and
    head: a low-rank change of a frozen random row could not give a token its meaning.
    """
    torch.manual_seed(seed)
    model = loaded.model
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices=_rows_of(loaded, new_token_ids) or None,
    )
    adapter = get_peft_model(model, config)
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


def write_extended_base(loaded: LoadedModel, folder: Path) -> None:
    """Keep the base with its new tokens beside the adapter, which could not be loaded onto the smaller original."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    loaded.model.name_or_path = str(folder)


def merged_difference(loaded: LoadedModel, ids: torch.Tensor) -> tuple[LoadedModel, float]:
    """Fold the adapter into its base; also return the largest difference of a log-probability on `ids` (1, L)."""
    if loaded.adapter is None:
        raise UserError(
            "there is no adapter to merge",
            where="--model",
            found="a model with all its parameters",
            expected="the folder of a run with --lora.rank above 0",
            fix="use the model as it is: it needs no merging",
        )
    with torch.no_grad():
        before = torch.log_softmax(loaded.model(ids).logits.float(), dim=-1)
        merged = loaded.adapter.merge_and_unload()
        after = torch.log_softmax(merged(ids).logits.float(), dim=-1)
    return LoadedModel(merged, loaded.tokenizer), float((before - after).abs().max())

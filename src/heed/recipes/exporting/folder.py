"""A model as a folder for transformers, vLLM, MLX and others: any dtype, in files of at most so many bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from heed import files
from heed.errors import UserError, typed
from heed.export_config import ExportSettings
from heed.models.adapters.lora import next_token_logp
from heed.models.export.differs import differs
from heed.models.intake.access import Access
from heed.models.load import LoadedModel, SavedModel, drop_weights, load_model, load_tokenizer, num_positions
from heed.models.stops import stop_ids_of
from heed.models.writing import write
from heed.recipes import merge


def export(loaded: LoadedModel, settings: ExportSettings, dtype: torch.dtype, access: Access) -> None:
    """Write, load as plain transformers does, compare; nothing is at `out` unless both say the same."""
    out, say = Path(settings.out), access.say
    merge.refuse_taken(out)
    model, tokenizer = loaded.model, loaded.tokenizer
    words = merge.words(tokenizer)
    ids = tokenizer(words, add_special_tokens=False).input_ids[: num_positions(model)]
    before, stops = next_token_logp(model, ids), stop_ids_of(model)
    refuse_too_large(model, dtype)
    with files.new_folder(out) as folder:
        merge.cast_weights(model, dtype)
        write(model, folder, max_shard_size=settings.shards)
        write(tokenizer, folder)
        merge.cast_weights(model, torch.float32)
        rounded = next_token_logp(model, ids)
        drop_weights(model)  # the copy that is loaded again needs the room
        again = load_model(str(folder), torch.device("cpu"), access=access)
        refuse_other(merge.largest_difference(rounded, next_token_logp(again, ids)), out)
        merge.refuse_other_words(tokenizer, load_tokenizer(str(folder), access), stops, stop_ids_of(again))
        shards = len(list(folder.glob("*.safetensors")))
    name = str(dtype).removeprefix("torch.")
    say(
        f"written in {name} in {shards} file{'s' * (shards > 1)} and loaded again; rounding to {name} moved "
        f"log-probabilities by at most {merge.largest_difference(before, rounded):.1e} nats on {len(ids)} tokens"
    )
    say(f"the model is in {out}: heed chat --model {typed(out)}; vllm serve {typed(out)}")


def refuse_too_large(model: SavedModel, dtype: torch.dtype) -> None:
    """A weight beyond the largest number of a dtype would be written as infinity."""
    for name, parameter in model.named_parameters():
        rounded = parameter.detach().to(dtype)
        if bool(parameter.isfinite().all()) and not bool(rounded.isfinite().all()):
            short = str(dtype).removeprefix("torch.")
            raise UserError(
                f"a weight does not fit {short}",
                where=name,
                found=f"a weight of {float(parameter.detach().abs().max()):.3g}",
                expected=f"at most {torch.finfo(dtype).max:,.0f}, the largest number of {short}",
                fix="--dtype float32",
            )


def refuse_other(apart: float, out: Path) -> None:
    """A folder that loads as another model is not kept."""
    if not apart <= merge.TOLERANCE_OF_COPY:
        raise differs("loaded again", out, f"log-probabilities that differ by {apart:.3g} nats", "the same ones")

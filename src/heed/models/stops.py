"""Where generation stops: one rule for what is saved, sampled, chatted with and examined."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, taught: Sequence[str] = ()) -> list[int]:
    """Every token at which the model's answers end: those of its template, joined with those of its checkpoint.

    The checkpoint's are the `eos_token_id` of its generation config and of its config. One counts only where the model
    has a row for it. A config carries the default of its family, which in another vocabulary is a word: what it names
    counts only where it is a special token of this tokenizer.

    Args:
        taught: tokens that end a response under the chat template; they come first.
    """
    config = model.config.get_text_config()
    defaults = listed_ids(getattr(config, "eos_token_id", None))
    own = [*stop_ids_of(model), *defaults]
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    num_rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr, arg-type]
    real = [each for each in own if 0 <= each < num_rows and (each in special or each not in defaults)]
    return list(dict.fromkeys([*(int(tokenizer.convert_tokens_to_ids(token)) for token in taught), *real]))


def stop_ids_of(model: PreTrainedModel) -> list[int]:
    """The tokens at which the model's own generation config stops, as it says them."""
    return listed_ids(model.generation_config.eos_token_id) if model.generation_config is not None else []


def listed_ids(ids: int | Sequence[int] | None) -> list[int]:
    """Ids as configs name them: none, one or several."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

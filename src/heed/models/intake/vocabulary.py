"""Tokens and rows: whether every token of a tokenizer has a row in the model's table, and what is done if not."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heed.errors import UserError
from heed.models.intake.access import Access
from heed.models.intake.weights import listed


def num_rows(model: PreTrainedModel) -> int:
    """Rows of the model's table of embeddings."""
    return int(model.get_input_embeddings().weight.shape[0])


def rowless_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's tokens that have no row in the model's table, by id."""
    rows = num_rows(model)
    if len(tokenizer) <= rows:
        return []
    return sorted((token for token, id_ in tokenizer.get_vocab().items() if id_ >= rows), key=tokenizer.get_vocab().get)


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, access: Access) -> list[str]:
    """Take tokens without a row out of use, where nothing writes them; return them.

    They count as special tokens from then on, so that data which holds one is told. A padding token among them is no
    longer named: saved with the model, its id would make whoever pads with it read beyond the table.

    Raises:
        UserError: a token that text or the model itself writes has no row.
    """
    rowless = rowless_tokens(model, tokenizer)
    if not rowless:
        return []
    added = set(tokenizer.added_tokens_encoder)
    written = [token for token in rowless if token not in added]
    written += [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token in rowless]
    if written:
        raise without_row(written, model, tokenizer, name)
    plain = [token for token in rowless if token not in tokenizer.all_special_tokens]
    if plain:
        tokenizer.add_special_tokens({"extra_special_tokens": plain}, replace_extra_special_tokens=False)
    if tokenizer.pad_token in rowless:
        tokenizer.pad_token = None
    access.say(f"{name}: tokens without a row in the table of {num_rows(model):,} are not used: {listed(rowless)}")
    return rowless


def without_row(
    tokens: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, where: str = ""
) -> UserError:
    """The error for tokens that are written and have no row."""
    ids = ", ".join(f"{token!r} is {tokenizer.convert_tokens_to_ids(token)}" for token in tokens[:3])
    return UserError(
        "the tokenizer has tokens that the model has no row for",
        where=where or name,
        found=f"{len(tokenizer):,} tokens and {num_rows(model):,} rows; {ids}",
        expected="a row in the model's table for every token that is used",
        fix=f"put the tokenizer.json and tokenizer_config.json that the model was made with into {name}",
    )

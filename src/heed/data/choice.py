"""Which chat template a model is tuned with, and which tokens that adds to its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import tokenizers

from heed.data.render import ChatTemplate
from heed.data.stops import known_special_tokens
from heed.data.tokens import Tokenizer, fit_template

TOKEN_OF_ITS_OWN = re.compile(r"<[^\s<>]+>")
"""how a special token looks that gets an id of its own; [INST] is plain text to many models"""


def choose_template(
    spec: str | None, tokenizer: Tokenizer, say: Callable[[str], None]
) -> tuple[ChatTemplate, list[str]]:
    """The template asked for, else the model's own, else chatml; and the tokens it needs that the vocabulary lacks."""
    if spec is None and tokenizer.template is not None:
        say("template: the model's own")
        return tokenizer.template, []
    if spec is None:
        say("template: chatml, for this model has none of its own (--template alpaca needs no new tokens)")
    template = ChatTemplate.load(spec or "chatml")
    return template, missing_tokens(fit_template(template, tokenizer), tokenizer)


def missing_tokens(template: ChatTemplate, tokenizer: Tokenizer) -> list[str]:
    """Special tokens that the template writes and the vocabulary lacks, in a fixed order."""
    written = sorted(token for token in known_special_tokens(template) if TOKEN_OF_ITS_OWN.fullmatch(token))
    return [token for token in written if tokenizer.backend.token_to_id(token) is None]


def with_new_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """The tokenizer as it will be once tuning has added these special tokens."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(list(tokens))
    return Tokenizer.wrap(
        backend,
        tokenizer.variables,
        special_tokens=tokenizer.special_tokens | frozenset(tokens),
        adds_bos=tokenizer.adds_bos,
        template=tokenizer.template,
    )

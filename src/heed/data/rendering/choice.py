"""Which chat template a model is tuned with, and which tokens that adds to its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import tokenizers

from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import known_special_tokens, stop_tokens
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError

EndOfTurn = Literal["template", "eos"]

EOS_BEHIND_ANSWERS = (
    "{% set heed = namespace(messages=[]) %}{% for message in messages %}"
    "{% if message['role'] == 'assistant' and message['content'] is string and not message['tool_calls'] %}"
    "{% set heed.messages = heed.messages + [dict(message, content=message['content'] + eos_token)] %}"
    "{% else %}{% set heed.messages = heed.messages + [message] %}{% endif %}{% endfor %}"
    "{% set messages = heed.messages %}{{ '' }}"
)
"""jinja that goes before a template; what it prints last keeps its blocks from swallowing a line end behind them"""

TOKEN_OF_ITS_OWN = re.compile(r"<[^\s<>]+>")
"""how a special token looks that gets an id of its own; [INST] is plain text to many models"""


def choose_template(
    spec: str | None,
    tokenizer: Tokenizer,
    say: Callable[[str], None],
    end_of_turn: EndOfTurn = "template",
    *,
    reads_plain_text: bool = False,
) -> tuple[ChatTemplate, list[str]]:
    """The template asked for, else the model's own, else chatml; and the tokens it needs that the vocabulary lacks.

    Args:
        reads_plain_text: the data has no turns, so that without a template of its own a model needs no new tokens.
    """
    if spec is None and tokenizer.template is not None:
        say("template: the model's own")
        own = tokenizer.template
        return (own if end_of_turn == "template" else ending_in_eos(own, tokenizer, say)), []
    if spec is None and reads_plain_text:
        say("template: plain, for the data is plain text and this model has none of its own")
        spec = "plain"
    if spec is None:
        say("template: chatml, for this model has none of its own (--template alpaca needs no new tokens)")
    template = ChatTemplate.load(spec or "chatml")
    if end_of_turn == "eos":
        template = ending_in_eos(template, tokenizer, say)
    return template, missing_tokens(fit_template(template, tokenizer), tokenizer)


def ending_in_eos(template: ChatTemplate, tokenizer: Tokenizer, say: Callable[[str], None]) -> ChatTemplate:
    """The template with the tokenizer's end of text behind every answer, where it writes no stop token of its own."""
    stops = stop_tokens(fit_template(template, tokenizer))
    if stops:
        say(f"the template ends a turn with {stops[0]} by itself: --end-of-turn eos changes nothing")
        return template
    if tokenizer.variables.get("eos_token") is None:
        raise UserError(
            "there is no end-of-text token to end a turn with",
            where="--end-of-turn",
            found="a tokenizer without an eos_token",
            expected="one, or a template with a stop token of its own",
            fix="--end-of-turn template --template chatml, which adds one",
        )
    return template.with_preamble(EOS_BEHIND_ANSWERS)


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

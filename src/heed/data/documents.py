"""Plain text to go on pre-training with: every token is trained.

A document is BOS, where the tokenizer begins texts with one, then its text, then EOS, where the tokenizer has one: the
model learns where a document ends. One longer than `max_length` is cut into pieces; a piece after the first begins with
the last token of the one before, which it does not train again, so that every token is trained exactly once.
"""

from __future__ import annotations

import numpy as np

from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import forbidden_pattern
from heed.data.tokens import Tokenizer
from heed.types import Document, Finding, Rendered, Span, Tokens


def rendered_document(document: Document, template: ChatTemplate, tokenizer: Tokenizer) -> Rendered | Finding:
    """The document as the model reads it, or why it cannot be used."""
    text, origin = document.text, document.origin
    if not text.strip():
        return Finding("the text is empty", origin, repr(text[:40]), "text", "write it, or remove the record")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair, \\u{ord(text[error.start]):04x}"
        fix = f"correct or remove record {origin.record:,}"
        return Finding("the text cannot be used", origin, found, "Unicode text", fix)
    pattern = forbidden_pattern(template)
    if template.special_text == "strip":
        while pattern.search(text):
            text = pattern.sub("", text)
    if template.special_text == "error" and (match := pattern.search(text)) is not None:
        return Finding(
            "special-token text in the data",
            origin,
            f"{match[0]!r} at character {match.start() + 1:,}",
            "text without the special tokens of the tokenizer and the chat template",
            f"remove or rewrite {match[0]!r} there; or --special-tokens-in-text as-text (or strip)",
        )
    bos = tokenizer.variables["bos_token"] if tokenizer.adds_bos else ""
    eos = tokenizer.variables.get("eos_token", "")
    whole = f"{bos}{text}{eos}"
    literal = tuple((m.start() + len(bos), m.end() + len(bos)) for m in pattern.finditer(text))
    return Rendered(whole, (Span(len(bos), len(whole)),), origin, literal)


def cut(tokens: Tokens, max_length: int | None) -> list[Tokens]:
    """Pieces of at most `max_length` tokens in which every token but the first of all is trained exactly once."""
    if max_length is None or len(tokens) <= max_length:
        return [tokens]
    pieces = []
    for begin in range(0, len(tokens) - 1, max_length - 1):
        weight = tokens.weight[begin : begin + max_length].copy()
        weight[0] = 0
        pieces.append(Tokens(np.ascontiguousarray(tokens.ids[begin : begin + max_length]), weight))
    return pieces

"""What is put right in every record before its shape is told, each kind counted in a note."""

from __future__ import annotations

import ast
import io
import itertools
import json
import tokenize
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from heed.data.shapes.names import ANSWER_LISTS, LIST_FIELDS, TEXT_FIELDS, with_known_names
from heed.types import Message

LINE_ENDS = "records with line ends of two characters (CR LF): each read as one line feed"
LONE_RETURNS = "records with a carriage return that ends no line: kept as it is"
NOT_A_NUMBER = "records with NaN in a field: read as missing"
NUMBERS = "records with a number in place of text: read as its text"
CELLS = "records with a list written as text in a cell: read as the list"
SYSTEM_TWICE = "records with the same system prompt twice: it counts once"
GREETINGS = "records in which the assistant speaks first: its greeting is context, not trained"


def tidied(raw: Mapping[str, Any], notes: Counter[str]) -> Mapping[str, Any]:
    """The record with line feeds as line ends and nothing where NaN was, at any depth.

    CR LF becomes LF, as every reader of text files does; a carriage return alone is kept, for it may be meant.
    """
    seen: set[str] = set()
    found = {key: _tidied(value, seen) for key, value in raw.items()}
    notes.update(seen)
    return found


def _tidied(value: Any, seen: set[str]) -> Any:
    if isinstance(value, str):
        if "\r" not in value:
            return value
        text = value.replace("\r\n", "\n")
        if len(text) < len(value):
            seen.add(LINE_ENDS)
        if "\r" in text:
            seen.add(LONE_RETURNS)
        return text
    if isinstance(value, float) and value != value:
        seen.add(NOT_A_NUMBER)
        return None
    if isinstance(value, Mapping):
        return {key: _tidied(item, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_tidied(item, seen) for item in value]
    return value


def with_known_kinds(raw: Mapping[str, Any], notes: Counter[str]) -> Mapping[str, Any]:
    """The record with fields of the known names, text where a field holds text, lists where it holds lists."""
    seen: set[str] = set()
    named = with_known_names(raw)
    is_ranked = named.get("scores") is not None or named.get("ranks") is not None
    found = {key: _of_its_kind(key, value, is_ranked, seen) for key, value in named.items()}
    notes.update(seen)
    return found


def _of_its_kind(key: str, value: Any, is_ranked: bool, seen: set[str]) -> Any:
    if isinstance(value, str):
        holds_list = key in LIST_FIELDS or (key == "output" and is_ranked)
        if (holds_list or key in TEXT_FIELDS) and value.lstrip().startswith("["):
            # A broken list of messages stays text, which its shape refuses; an answer may begin with a bracket.
            listed = literal(value)
            if isinstance(listed, list) and (holds_list or _are_messages(listed)):
                seen.add(CELLS)
                value = listed
    if _is_number(value) and key in TEXT_FIELDS:
        seen.add(NUMBERS)
        return str(value)
    if not isinstance(value, list):
        return value
    if key in ANSWER_LISTS or (key == "output" and is_ranked):
        return [_text_of(item, seen) for item in value]
    return [_message_with_text(item, seen) for item in value] if key in LIST_FIELDS | TEXT_FIELDS else value


def _text_of(value: Any, seen: set[str]) -> Any:
    if _is_number(value):
        seen.add(NUMBERS)
        return str(value)
    return value


def _message_with_text(message: Any, seen: set[str]) -> Any:
    if not isinstance(message, Mapping) or not any(_is_number(message.get(key)) for key in ("content", "value")):
        return message
    return {key: _text_of(value, seen) if key in ("content", "value") else value for key, value in message.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_messages(listed: Sequence[Any]) -> bool:
    return bool(listed) and all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in listed)


def literal(text: str) -> Any:
    """What a text says that is JSON or a Python literal, as cells of tables hold lists; None where it is neither.

    Strings that stand side by side without a comma, as numpy prints them, are refused: Python would join them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline)]
        kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)]
        if any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(kinds)):
            return None
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None


# ---- messages


def settled(messages: tuple[Message, ...], notes: Counter[str]) -> tuple[Message, ...]:
    """The messages with a system prompt once where it stood twice, and greetings noted that are context.

    A record may name its system prompt in a field of its own and write it as the first message, too.
    """
    num_systems = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    if num_systems > 1 and len({m.content.strip() for m in messages[:num_systems]}) == 1:
        notes[SYSTEM_TWICE] += 1
        messages = messages[num_systems - 1 :]
    first_user = next((i for i, m in enumerate(messages) if m.role == "user"), 0)
    if any(m.role == "assistant" and m.weight == 0 for m in messages[:first_user]):
        notes[GREETINGS] += 1
    return messages


def with_greeting_as_context(messages: tuple[Message, ...], turns: Sequence[Any]) -> tuple[Message, ...]:
    """The messages of a dialogue, of which what the assistant says before anybody asked has weight 0.

    A weight that a message brings along stays, and so does that of a dialogue in which nobody asks anything.

    Args:
        turns: the same messages as the record writes them.
    """
    first_user = next((i for i, m in enumerate(messages) if m.role == "user"), 0)
    return tuple(
        Message(m.role, m.content, 0.0, m.extra)
        if i < first_user and m.role == "assistant" and not _says_its_weight(turns[i])
        else m
        for i, m in enumerate(messages)
    )


def _says_its_weight(turn: Any) -> bool:
    return isinstance(turn, Mapping) and any(turn.get(key) is not None for key in ("train", "weight", "loss_weight"))

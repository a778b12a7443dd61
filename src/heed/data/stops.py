"""How a chat template ends an assistant's turn, found out by rendering small conversations with it."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heed.data.render import ChatTemplate
from heed.errors import UserError

# What special tokens look like when written out: <|im_end|>, <｜User｜>, <end_of_turn>, </s>, [/INST].
WRITTEN_SPECIAL_TOKEN = re.compile(
    r"<\|[^\s|<>{}'\"]+\|>|<｜[^\s｜<>{}'\"]+｜>|<(?:start|end)_of_[a-z]+>|</?s>|<[be]os>|\[/?[A-Z][A-Z_]+[A-Z]\]"
)

# Private-use characters around the probe's answer, which no template writes of its own accord.
_OPEN, _CLOSE = "\ue000", "\ue001"
_TOOL_NAME, _CALL_ID = "probe_tool", "a1b2c3d4e"  # Mistral wants nine letters and digits

_SYSTEM = {"role": "system", "content": "System."}
_USER = {"role": "user", "content": "Question"}
_TOOL_RESULT = {"role": "tool", "content": "Result", "name": _TOOL_NAME, "tool_call_id": _CALL_ID}
_TOOL = {
    "type": "function",
    "function": {
        "name": _TOOL_NAME,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "Key."}},
            "required": ["key"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Endings:
    """What stands at the end of an assistant's turn."""

    stop: str | None
    """the stop token after an answer; None if the template writes none"""
    closing: str
    """what the template puts between an answer and its stop token, most often nothing"""
    tool_stop: str | None
    """the stop token after tool calls; None if the template writes none, or no tool calls at all"""


def stop_tokens(template: ChatTemplate) -> tuple[str, ...]:
    """Every token at which generation with this template has to stop, the one after a plain answer first."""
    found = [endings(template, has_tools, "{}") for has_tools in (False, True)]
    stops = [found[0].stop, found[0].tool_stop, found[1].stop, found[1].tool_stop]
    return tuple(dict.fromkeys(stop for stop in stops if stop is not None))


@lru_cache(maxsize=256)
def endings(template: ChatTemplate, has_tools: bool, arguments: str) -> Endings:
    """How turns end, in conversations with or without tools and with these template arguments (as JSON)."""
    tools = (_TOOL,) if has_tools else ()
    values = json.loads(arguments)
    answer = {"role": "assistant", "content": f"{_OPEN}Answer{_CLOSE}"}
    stop, closing = None, ""
    text = _first_that_renders(template, ([_USER, answer], [_SYSTEM, _USER, answer]), tools, values)
    after = text.rpartition(_CLOSE)[2] if _CLOSE in text else ""
    match = special_token_pattern(template).search(after)
    if match is not None:
        stop, closing = match[0], after[: match.start()]
    return Endings(stop, closing, _tool_stop(template, stop, tools, values))


def _tool_stop(
    template: ChatTemplate, stop: str | None, tools: tuple[Mapping[str, Any], ...], values: Mapping[str, Any]
) -> str | None:
    """The stop token after tool calls.

    What belongs to the turn is what the render that ends with it and the render that goes on have in common.
    """
    for call_arguments in ({"key": _OPEN}, json.dumps({"key": _OPEN}, ensure_ascii=False)):
        function = {"name": _TOOL_NAME, "arguments": call_arguments}
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": _CALL_ID, "function": function}],
        }
        ended = _first_that_renders(template, ([_USER, call],), tools, values)
        going_on = _first_that_renders(template, ([_USER, call, _TOOL_RESULT], [_USER, call, _USER]), tools, values)
        if _TOOL_NAME in ended and _OPEN in ended and _OPEN in going_on:
            suffixes = [text.rpartition(_OPEN)[2] for text in (ended, going_on)]
            shared = os.path.commonprefix(suffixes)  # noqa: RUF071 (characters are what is compared)
            if stop is not None and stop in shared:
                return stop
            last = list(special_token_pattern(template).finditer(suffixes[0]))[-1:]
            # A turn of tool calls may end in a token of its own, which then is the last thing of all.
            if last and last[0].end() <= len(shared) and not suffixes[0][last[0].end() :].strip():
                return last[0][0]
    return None


@lru_cache(maxsize=256)
def special_token_pattern(template: ChatTemplate) -> re.Pattern[str]:
    """Any special token: the tokenizer's, the template's, and what is written like one."""
    longest_first = sorted(known_special_tokens(template), key=len, reverse=True)
    return re.compile("|".join((*map(re.escape, longest_first), WRITTEN_SPECIAL_TOKEN.pattern)))


@lru_cache(maxsize=256)
def forbidden_pattern(template: ChatTemplate) -> re.Pattern[str]:
    """The special tokens that may not occur in a record: the tokenizer's, and those the template writes."""
    longest_first = sorted(known_special_tokens(template), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


@lru_cache(maxsize=256)
def known_special_tokens(template: ChatTemplate) -> frozenset[str]:
    """The tokenizer's special tokens and those written out in the template's own text."""
    sources = [template.source, *(source for _, source in template.alternatives)]
    written = (token for source in sources for token in WRITTEN_SPECIAL_TOKEN.findall(source))
    named = (text for _, text in template.variables)
    return frozenset(token for token in (*template.special_tokens, *written, *named) if token.strip())


def _first_that_renders(
    template: ChatTemplate,
    conversations: tuple[list[dict[str, Any]], ...],
    tools: tuple[Mapping[str, Any], ...],
    values: Mapping[str, Any],
) -> str:
    """The render of the first conversation the template accepts; empty if it refuses them all."""
    for messages in conversations:
        try:
            return template.render_fields(messages, tools, False, values)
        except UserError:
            continue
    return ""

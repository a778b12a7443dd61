"""How a chat template ends an assistant's turn, found out by rendering small conversations with it."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heed.data.rendering.conventions import (
    CALL,
    CLOSE,
    OPEN,
    SYSTEM,
    TOOL,
    TOOL_RESULT,
    USER,
    call_style,
    first_that_renders,
)
from heed.data.rendering.render import ChatTemplate

# What special tokens look like when written out: <|im_end|>, <｜User｜>, <end_of_turn>, </s>, [/INST].
WRITTEN_SPECIAL_TOKEN = re.compile(
    r"<\|[^\s|<>{}'\"]+\|>|<｜[^\s｜<>{}'\"]+｜>|<(?:start|end)_of_[a-z]+>|</?s>|<[be]os>|\[/?[A-Z][A-Z_]+[A-Z]\]"
)


BRACKET = re.compile(r"[<>\[\]{}|｜]")
"""what a special token that is no word has in it"""


@dataclass(frozen=True, slots=True)
class Endings:
    """What stands at the end of an assistant's turn."""

    stop: str | None
    """the stop token after an answer; None if the template writes none"""
    closing: str
    """what the template puts between an answer and its stop token, most often nothing"""
    tool_stop: str | None
    """the stop token after tool calls; None if the template writes none, or no tool calls at all"""
    shows_calls: bool = False
    """whether the template shows tool calls"""


def stop_tokens(template: ChatTemplate) -> tuple[str, ...]:
    """Every token at which generation with this template has to stop, the one after a plain answer first."""
    found = [endings(template, has_tools, "{}") for has_tools in (False, True)]
    stops = [found[0].stop, found[0].tool_stop, found[1].stop, found[1].tool_stop]
    return tuple(dict.fromkeys(stop for stop in stops if stop is not None))


@lru_cache(maxsize=256)
def endings(template: ChatTemplate, has_tools: bool, arguments: str) -> Endings:
    """How turns end, in conversations with or without tools and with these template arguments (as JSON)."""
    tools = (TOOL,) if has_tools else ()
    values = json.loads(arguments)
    answer = {"role": "assistant", "content": f"{OPEN}Answer{CLOSE}"}
    stop, closing = None, ""
    text = first_that_renders(template, ([USER, answer], [SYSTEM, USER, answer]), tools, values)
    after = text.rpartition(CLOSE)[2] if CLOSE in text else ""
    match = special_token_pattern(template).search(after)
    if match is not None:
        stop, closing = match[0], after[: match.start()]
    return Endings(stop, closing, *_tool_stop(template, stop, tools, arguments))


def _tool_stop(
    template: ChatTemplate, stop: str | None, tools: tuple[Mapping[str, Any], ...], arguments: str
) -> tuple[str | None, bool]:
    """The stop token after tool calls, and whether tool calls are shown at all.

    What belongs to the turn is what the render that ends with it and the render that goes on have in common.
    """
    style = call_style(template, bool(tools), arguments)
    if style is None:
        return None, False
    call, values = style.applied(CALL), json.loads(arguments)
    ended = first_that_renders(template, ([USER, call],), tools, values)
    going_on = first_that_renders(template, ([USER, call, TOOL_RESULT], [USER, call, USER]), tools, values)
    if OPEN not in going_on:
        return None, True
    suffixes = [text.rpartition(OPEN)[2] for text in (ended, going_on)]
    shared = os.path.commonprefix(suffixes)  # noqa: RUF071 (characters are what is compared)
    if stop is not None and stop in shared:
        return stop, True
    last = list(special_token_pattern(template).finditer(suffixes[0]))[-1:]
    # A turn of tool calls may end in a token of its own, which then is the last thing of all.
    if last and last[0].end() <= len(shared) and not suffixes[0][last[0].end() :].strip():
        twice = {**call, "tool_calls": call["tool_calls"] * 2}
        between = first_that_renders(template, ([USER, twice],), tools, values).split(OPEN)[1:-1]
        # What stands after each call of several ends the call and not the turn.
        return (None if any(last[0][0] in text for text in between) else last[0][0]), True
    return None, True


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
    named = [text for _, text in template.variables]
    # A vocabulary without a token to pad with is given a word of its own, such as "!", which anybody may write.
    ends = {text for name, text in template.variables if name in ("bos_token", "eos_token")}
    words = {text for text in named if not BRACKET.search(text)} - ends
    return frozenset(t for t in (*template.special_tokens, *written, *named) if t.strip() and t not in words)

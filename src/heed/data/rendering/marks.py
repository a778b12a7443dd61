"""Texts of a conversation put between characters that nobody writes, and found again in what a template renders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.data.rendering.render import REASONING_FIELDS, reasoning_of

THINK_TAG = re.compile("(</?think>)")
PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_WRITTEN = re.compile(PRIVATE_USE.pattern + r"|\\u(e[0-9a-f]{3}|f[0-8][0-9a-f]{2})")
"""a private-use character as it is, and escaped, as templates write it that show the repr or ASCII JSON of a value"""
_PRIVATE_RANGES = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

TOOLS, DOCUMENTS = -1, -2
"""in place of the number of a message: the list of tools, and the documents among the template's arguments"""

Fields = dict[str, Any]
Arguments = Mapping[str, Any]
Place = tuple[int, int]
"""where a text stands in a render: first character, and one past the last"""
Positions = Mapping[str, Sequence[int]]
"""for each mark, where in the render it stood"""


@dataclass(frozen=True, slots=True)
class Given:
    """All that a template is given to render."""

    fields: Sequence[Fields]
    tools: Sequence[Mapping[str, Any]] = ()
    arguments: Arguments | None = None


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in one message, in the list of tools or in the documents."""

    texts: tuple[tuple[str, str], ...] = ()
    """a pair around each text: reasoning first, what is said last"""
    words: tuple[str, ...] = ()
    """one behind each name, key and text of its tool calls, behind each tool's name, in each document"""

    def are_shown(self, text: str) -> bool:
        """Whether what is said is there, and every word; earlier thoughts are what many templates leave out."""
        written = {_character(match) for match in _WRITTEN.finditer(text)}
        return written.issuperset((*(self.texts[-1] if self.texts else ()), *self.words))


@dataclass(frozen=True, slots=True)
class Seen:
    """Where the texts of one message stand in a render."""

    places: tuple[Place | None, ...]
    """of each text, reasoning first; None where it is lost, repeated or broken up"""
    words: tuple[int | None, ...] = ()
    """where each name, key and text of its tool calls ends; None where it is lost"""
    shown_by: int | None = None
    """the character by which what it says, and all its tool calls, were shown once; None if a part is lost"""

    @property
    def is_complete(self) -> bool:
        return None not in self.places and None not in self.words

    @property
    def start(self) -> int | None:
        return min((place[0] for place in self.places if place), default=None)

    @property
    def stop(self) -> int | None:
        """Where the texts end. Tool calls come after them."""
        return max((place[1] for place in self.places if place), default=None)


def marked(
    given: Given, which: Iterable[int], unused: Iterator[str], *, inside: bool, with_words: bool = True
) -> tuple[Given, dict[int, Marks]]:
    """What is given with marks in it, and the marks by message.

    Args:
        which: numbers of messages, `TOOLS`, `DOCUMENTS`.
        unused: characters to mark with.
        inside: whether a mark goes inside the white space of a text, thought by thought, instead of outside it:
            templates trim white space and take `<think>` blocks apart.
        with_words: whether tool calls are marked too.
    """
    fields, tools, arguments = list(given.fields), given.tools, given.arguments
    marks: dict[int, Marks] = {}
    for index in which:
        if index == TOOLS:
            tools, words = _tools_marked(tools, unused)
            marks[index] = Marks(words=words)
        elif index == DOCUMENTS:
            arguments, words = _documents_marked(arguments or {}, unused)
            marks[index] = Marks(words=words)
        else:
            fields[index], marks[index] = _message_marked(fields[index], unused, inside, with_words)
    return Given(fields, tools, arguments), marks


def without_marks(text: str, marks: Iterable[Marks]) -> tuple[str, Positions]:
    """The text without marks, and for each mark where in that text it stood."""
    positions: dict[str, list[int]] = {}
    for each in marks:
        for pair in each.texts:
            positions[pair[0]], positions[pair[1]] = [], []
        for word in each.words:
            positions[word] = []
    pieces, length, last = [], 0, 0
    for match in _WRITTEN.finditer(text):
        character = _character(match)
        if character in positions:
            pieces.append(text[last : match.start()])
            length += match.start() - last
            last = match.end()
            positions[character].append(length)
    return "".join((*pieces, text[last:])), positions


def seen(marks: Marks, positions: Positions) -> Seen:
    """Where the texts between these marks stood."""
    places = tuple(_place(pair, positions) for pair in marks.texts)
    words = tuple(min(positions[word], default=None) for word in marks.words)
    needed = [*(marks.texts[-1] if marks.texts else ()), *marks.words]
    shown = [min(positions[mark], default=None) for mark in needed]
    ends = [at for at in shown if at is not None]
    return Seen(places, words, max(ends, default=0) if len(ends) == len(shown) else None)


def unused_characters(*used_in: str) -> Iterator[str]:
    """Private-use characters that do not stand in these texts."""
    used = {_character(match) for text in used_in for match in _WRITTEN.finditer(text)}
    return (chr(code) for codes in _PRIVATE_RANGES for code in codes if chr(code) not in used)


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else match[0]


def texts(value: Any) -> Iterator[str]:
    """Every text in a value made of dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def tool_names(calls: Any) -> list[str]:
    """The functions that a message's tool calls name, with and without OpenAI's inner object."""
    return [str(call.get("function", call).get("name", "")) for call in calls]


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value made of dictionaries and lists with every text in it changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_texts(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_texts(item, change) for item in value]
    return value


def _place(pair: tuple[str, str], positions: Positions) -> Place | None:
    start, stop = (positions[mark] for mark in pair)
    return (start[0], stop[0]) if len(start) == len(stop) == 1 and start[0] < stop[0] else None


def _message_marked(fields: Fields, unused: Iterator[str], inside: bool, with_words: bool) -> tuple[Fields, Marks]:
    pairs: list[tuple[str, str]] = []

    def around(text: str) -> str:
        if not text.strip():
            return text
        if not inside:
            pairs.append((next(unused), next(unused)))
            return pairs[-1][0] + text + pairs[-1][1]
        pieces = THINK_TAG.split(text)
        for index in range(0, len(pieces), 2):
            core = pieces[index].strip()
            if core:
                pairs.append((next(unused), next(unused)))
                before, _, after = pieces[index].partition(core)
                pieces[index] = before + pairs[-1][0] + core + pairs[-1][1] + after
        return "".join(pieces)

    if len(fields) == 2:  # most messages have a role and a content and nothing more
        return {"role": fields["role"], "content": around(fields["content"])}, Marks(tuple(pairs))
    changed = dict(fields)
    reasoning = reasoning_of(fields)
    if isinstance(reasoning, str) and reasoning.strip():
        text = around(reasoning)
        changed.update({name: text for name in REASONING_FIELDS if fields.get(name) == reasoning})
    changed["content"] = around(fields["content"])
    if pairs and isinstance(fields.get("instruction"), str):
        # A template shows either the content or the parts it is made of.
        opening, closing = pairs[-1]
        last = "input" if isinstance(fields.get("input"), str) and fields["input"].strip() else "instruction"
        changed["instruction"] = opening + fields["instruction"]
        changed[last] = changed[last] + closing
    if not (with_words and fields.get("tool_calls")):
        return changed, Marks(tuple(pairs))
    words: list[str] = []

    def word(text: str) -> str:
        words.append(next(unused))
        return text + words[-1]

    changed["tool_calls"] = [_call_marked(call, word) for call in fields["tool_calls"]]
    return changed, Marks(tuple(pairs), tuple(words))


def _call_marked(call: Mapping[str, Any], word: Callable[[str], str]) -> Mapping[str, Any]:
    function = call.get("function", call)
    name = word(str(function.get("name", "")))
    said = {**function, "name": name, "arguments": _words_marked(function.get("arguments"), word)}
    return {**call, "function": said} if "function" in call else said


def _words_marked(value: Any, word: Callable[[str], str]) -> Any:
    """The value with a mark behind each key and text; numbers are shown with their keys."""
    if isinstance(value, str):
        return word(value)
    if isinstance(value, Mapping):
        return {word(str(key)): _words_marked(item, word) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_words_marked(item, word) for item in value]
    return value


def _tools_marked(
    tools: Sequence[Mapping[str, Any]], unused: Iterator[str]
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    """A mark behind each tool's name and description."""
    changed: list[Mapping[str, Any]] = []
    words: list[str] = []
    for tool in tools:
        function = dict(tool.get("function", tool))
        for key in ("name", "description"):
            if isinstance(function.get(key), str) and function[key].strip():
                words.append(next(unused))
                said = function[key].rstrip()
                function[key] = said + words[-1] + function[key][len(said) :]
        changed.append({**tool, "function": function} if "function" in tool else function)
    return changed, tuple(words)


def _documents_marked(arguments: Arguments, unused: Iterator[str]) -> tuple[Arguments, tuple[str, ...]]:
    """A mark behind every text of a document, the same for all of one: the template chooses which to show."""
    documents, words = [], []
    for document in arguments.get("documents") or ():
        words.append(next(unused))
        documents.append(with_texts(document, lambda text, mark=words[-1]: text + mark))  # type: ignore[misc]
    return {**arguments, "documents": documents}, tuple(words)

"""JSON of any layout as a stream of records: a list, one record to a line, or objects over several lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from heed.errors import UserError

Numbered = Iterator[tuple[int, Mapping[str, Any]]]
"""records with their number: the line for JSON lines, else the count of records, both from 1"""

WRAPPER_KEYS = ("data", "train", "records", "examples", "rows")
"""names under which a file that is one JSON object may keep its list of records"""


def read_json(chunks: Iterator[str], suffix: str, shown_as: str) -> Numbered:
    """Recognised by content: a list, one record to a line, or objects written over several lines."""
    head = next(chunks, "")
    while not head.strip() and (more := next(chunks, "")):
        head += more
    if not head.strip():
        return iter(())
    chunks = itertools.chain([head], chunks)
    if head.lstrip().startswith("["):
        return _json_list(chunks, shown_as)
    first_line, _, after = head.lstrip().partition("\n")
    if suffix != ".json" or (after.strip() and _is_json(first_line)):
        return _json_lines(chunks, shown_as)
    return _json_objects(chunks, shown_as)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(chunks: Iterable[str], shown_as: str) -> Numbered:
    for number, line in enumerate(lines_of(chunks), 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            position = error.pos if isinstance(error, json.JSONDecodeError) else 0
            raise _broken_json(shown_as, number, position + 1, line, position, error) from error
        yield number, _as_record(value, f"{shown_as}, line {number:,}")


def _json_list(chunks: Iterator[str], shown_as: str) -> Numbered:
    text = JsonText(chunks, shown_as)
    text.skip("[")
    if text.peek() == "]":
        text.skip("]")
    else:
        for number in itertools.count(1):
            yield number, _as_record(text.value(), f"{shown_as}, record {number:,}")
            if text.peek() != ",":
                break
            text.skip(",")
        text.skip("]")
    if text.peek():
        raise text.broken("there is more after the end of the list")


def _json_objects(chunks: Iterator[str], shown_as: str) -> Numbered:
    """One object (a record, or a wrapper around a list of them), or several one after the other."""
    text = JsonText(chunks, shown_as)
    text.peek()
    first = _as_record(text.value(), f"{shown_as}, record 1")
    wrapped = [key for key in WRAPPER_KEYS if isinstance(first.get(key), list)]
    if not text.peek() and len(wrapped) == 1:
        for number, value in enumerate(first[wrapped[0]], 1):
            yield number, _as_record(value, f"{shown_as}, record {number:,} of '{wrapped[0]}'")
        return
    yield 1, first
    for number in itertools.count(2):
        if not text.peek():
            return
        yield number, _as_record(text.value(), f"{shown_as}, record {number:,}")


class JsonText:
    """JSON values one after the other out of text that arrives in chunks, in memory for one value at a time."""

    def __init__(self, chunks: Iterator[str], shown_as: str) -> None:
        self.chunks, self.shown_as = chunks, shown_as
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0
        self.line, self.column = 1, 1
        """place of `text[0]` in the file"""

    def more(self) -> bool:
        """Let go of what was read and at least double the rest, so that a long value costs linear time."""
        rest = len(self.text) - self.at
        parts: list[str] = []
        size = 0
        for chunk in self.chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= rest:
                break
        if size == 0:
            return False
        self.line, self.column = self._place(self.at)
        self.text, self.at = "".join([self.text[self.at :], *parts]), 0
        return True

    def peek(self) -> str:
        """The next character that is not white space, or '' at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def skip(self, character: str) -> None:
        if self.peek() != character:
            raise self.broken(f"expected '{character}'")
        self.at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # An error in the last characters, or a string without an end, may only mean that the value goes on
                # in the next chunk. 16 is longer than the longest literal, -Infinity, and than \uXXXX\uXXXX.
                goes_on = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 16
                if goes_on and self.more():
                    continue
                raise self.broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(str(error)) from error
            return value

    def broken(self, message: str, position: int | None = None) -> UserError:
        position = self.at if position is None else position
        line, column = self._place(position)
        return _broken_json(self.shown_as, line, column, self.text, position, message)

    def _place(self, position: int) -> tuple[int, int]:
        line_feeds = self.text.count("\n", 0, position)
        if line_feeds == 0:
            return self.line, self.column + position
        return self.line + line_feeds, position - self.text.rfind("\n", 0, position)


def _broken_json(
    shown_as: str, line: int, column: int, text: str, position: int, problem: Exception | str
) -> UserError:
    message = problem.msg if isinstance(problem, json.JSONDecodeError) else str(problem)
    around = text[max(0, position - 30) : position + 30]
    at_end = "" if text[position : position + 1].strip() else ", at the end of the line or file"
    return UserError(
        "broken JSON",
        where=f"{shown_as}, line {line:,}, column {column:,}",
        found=f"{message}{at_end}, near {around!r}",
        expected="a JSON list of objects, or one JSON object to a line",
        fix=f"correct that line; to see it: {show_command(shown_as)} | sed -n {line}p",
    )


def _as_record(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    raise UserError(
        "a record is not an object",
        where=where,
        found=f"{kinds.get(type(value), 'a number')}: {json.dumps(value, ensure_ascii=False)[:60]}",
        expected='named fields, such as {"prompt": ..., "response": ...}',
        fix=f'give the value a name: {{"prompt": {json.dumps(value, ensure_ascii=False)[:30]}, "response": ...}}',
    )


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their end, split at line feeds only: JSON strings may hold U+2028 and the like as they are."""
    rest: list[str] = []
    for chunk in chunks:
        *whole, tail = chunk.split("\n")
        for line in whole:
            yield "".join([*rest, line, "\n"])
            rest = []
        rest.append(tail)
    if last := "".join(rest):
        yield last


def show_command(shown_as: str) -> str:
    """What a user types to print the file, for the fix of an error."""
    return f"{'zcat' if shown_as.lower().endswith('.gz') else 'cat'} {shown_as}"

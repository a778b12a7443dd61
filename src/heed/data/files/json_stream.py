"""JSON of any layout as a stream of records: a list, one record to a line, or objects over several lines."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.data.files.bytes import show_command
from heed.errors import UserError


@dataclass(frozen=True, slots=True)
class Unusable:
    """A record that can be told from its neighbours and not be used: a finding that does not know its place yet."""

    problem: str
    found: str
    expected: str
    fix: str


Numbered = Iterator[tuple[int, Mapping[str, Any] | Unusable]]
"""records with their number: the line for JSON lines, else the count of records, both from 1"""

WRAPPER_KEYS = ("data", "train", "records", "examples", "rows")
"""names under which a file that is one JSON object may keep its list of records"""

COMMA = "records with a comma after them, which JSON does not allow there: read without it"
COLUMNS = "tables written as one JSON object of columns, as pandas does: read row by row"


def read_json(chunks: Iterator[str], suffix: str, shown_as: str, notes: Counter[str]) -> Numbered:
    """Recognised by content: a list, one record to a line, objects over several lines, or a table of columns."""
    head = next(chunks, "")
    while not head.strip() and (more := next(chunks, "")):
        head += more
    if not head.strip():
        return iter(())
    chunks = itertools.chain([head], chunks)
    if head.lstrip().startswith("["):
        return _json_list(chunks, shown_as, notes)
    first_line, _, after = head.lstrip().partition("\n")
    if suffix != ".json" or (after.strip() and _is_json(first_line)):
        return _json_lines(chunks, shown_as, notes)
    return _json_objects(chunks, shown_as, notes)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(chunks: Iterable[str], shown_as: str, notes: Counter[str]) -> Numbered:
    repeated: list[str] = []
    decoder = _decoder(repeated)
    lines: Iterator[tuple[int, str]] = (
        (number, line) for number, line in enumerate(lines_of(chunks), 1) if not line.isspace()
    )
    is_first = True
    for number, line in lines:
        repeated.clear()
        try:
            value = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            value = _without_comma(decoder, line, notes)
            if value is None:
                position = error.pos if isinstance(error, json.JSONDecodeError) else 0
                raise _broken_json(shown_as, number, position + 1, line, position, error) from error
        record = _as_record(value, f"{shown_as}, line {number:,}", repeated)
        if is_first and (rows := _rows_of_columns(record)):
            following = next(lines, None)
            if following is None:
                notes[COLUMNS] += 1
                yield from enumerate(rows, 1)
                return
            lines = itertools.chain([following], lines)
        is_first = False
        yield number, record


def _without_comma(decoder: json.JSONDecoder, line: str, notes: Counter[str]) -> Any:
    """What a line says but for a comma at its end; None where that is not all that is wrong with it."""
    bare = line.rstrip()
    if not bare.endswith(","):
        return None
    try:
        value = decoder.decode(bare[:-1])
    except (ValueError, RecursionError):
        return None
    notes[COMMA] += 1
    return value


def _json_list(chunks: Iterator[str], shown_as: str, notes: Counter[str]) -> Numbered:
    text = JsonText(chunks, shown_as)
    text.skip("[")
    if text.peek() == "]":
        text.skip("]")
    else:
        for number in itertools.count(1):
            yield number, _as_record(text.value(), f"{shown_as}, record {number:,}", text.repeated)
            if text.peek() != ",":
                break
            text.skip(",")
            if text.peek() == "]":
                notes[COMMA] += 1
                break
        text.skip("]")
    if text.peek():
        raise text.broken("there is more after the end of the list")


def _json_objects(chunks: Iterator[str], shown_as: str, notes: Counter[str]) -> Numbered:
    """One object (a record, a wrapper around a list of them, a table of columns), or several one after the other."""
    text = JsonText(chunks, shown_as)
    text.peek()
    first = _as_record(text.value(), f"{shown_as}, record 1", text.repeated)
    if isinstance(first, Mapping) and not text.peek():
        if rows := _rows_of_columns(first):
            notes[COLUMNS] += 1
            yield from enumerate(rows, 1)
            return
        wrapped = [key for key in WRAPPER_KEYS if isinstance(first.get(key), list)]
        if len(wrapped) == 1:
            others = [key for key, value in first.items() if isinstance(value, list) and key != wrapped[0]]
            if others:
                notes[f"list read: '{wrapped[0]}'; not {', '.join(others)}"] += 1
            for number, value in enumerate(first[wrapped[0]], 1):
                yield number, _as_record(value, f"{shown_as}, record {number:,} of '{wrapped[0]}'", ())
            return
    yield 1, first
    for number in itertools.count(2):
        if text.peek() == ",":
            text.skip(",")
            notes[COMMA] += 1
        if not text.peek():
            return
        yield number, _as_record(text.value(), f"{shown_as}, record {number:,}", text.repeated)


def _rows_of_columns(value: Any) -> list[dict[str, Any]]:
    """The rows of a table that is one object, in the ways in which pandas writes it; [] where it is none.

    By default {column: {index: cell}}; `orient="split"` {columns, index, data}; `orient="list"` {column: [cells]},
    which is taken for a table only where every cell is text or a number, for a record may hold lists of its own.
    """
    if not isinstance(value, Mapping) or not value:
        return []
    columns = list(value.values())
    if all(isinstance(column, Mapping) and column for column in columns):
        index = list(columns[0])
        if all(key.isdecimal() for key in index) and all(list(column) == index for column in columns):
            return [{name: column[key] for name, column in value.items()} for key in index]
    if set(value) == {"columns", "index", "data"} and all(isinstance(column, list) for column in columns):
        rows = value["data"]
        if all(isinstance(row, list) and len(row) == len(value["columns"]) for row in rows):
            return [dict(zip(value["columns"], row, strict=True)) for row in rows]
    if len(value) > 1 and all(isinstance(column, list) and column for column in columns):
        is_even = len({len(column) for column in columns}) == 1
        if is_even and all(isinstance(cell, str | int | float | None) for column in columns for cell in column):
            return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return []


def _decoder(repeated: list[str]) -> json.JSONDecoder:
    """A decoder that notes the keys which stand twice in one object; the last value would silently be taken."""

    def of_pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.extend(key for key in found if keys.count(key) > 1)
        return found

    return json.JSONDecoder(object_pairs_hook=of_pairs)


class JsonText:
    """JSON values one after the other out of text that arrives in chunks, in memory for one value at a time."""

    def __init__(self, chunks: Iterator[str], shown_as: str) -> None:
        self.chunks, self.shown_as = chunks, shown_as
        self.repeated: list[str] = []
        """keys that stand twice in one object of the last value"""
        self.decoder = _decoder(self.repeated)
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
            self.repeated.clear()
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
    if text[position : position + 2] in ("//", "/*") or text[position : position + 1] == "#":
        message = f"a comment, which JSON does not have: {message}"
    around = text[max(0, position - 30) : position + 30]
    at_end = "" if text[position : position + 1].strip() else ", at the end of the line or file"
    return UserError(
        "broken JSON",
        where=f"{shown_as}, line {line:,}, column {column:,}",
        found=f"{message}{at_end}, near {around!r}",
        expected="a JSON list of objects, or one JSON object to a line",
        fix=f"correct that line; to see it: {show_command(shown_as)} | sed -n {line}p",
    )


def _as_record(value: Any, where: str, repeated: Sequence[str]) -> Mapping[str, Any] | Unusable:
    if isinstance(value, dict):
        if not repeated:
            return value
        key = repeated[0]
        return Unusable(
            "a key stands twice in one object",
            f"{key!r}" + (f" and {len(repeated) - 1:,} more" if len(repeated) > 1 else ""),
            "each key once, for only one of the values could be used",
            f"remove or rename one {key!r} in that record",
        )
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

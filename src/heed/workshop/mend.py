"""Put right in a text what is certain, and guess the rest where that is asked for; every change can be taken back."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.workshop.lost_bytes import guessed, shows_lost_bytes
from heed.workshop.mojibake import mended
from heed.workshop.syllables import Syllables

TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
"""that no text has; what lies from U+0080 to U+009F may be what is left of a letter, and is no one's to throw away"""

Step = str | int


@dataclass(frozen=True, slots=True)
class Change:
    """One text of a record that became another."""

    steps: tuple[Step, ...]
    """the names and places that lead to it in the record"""
    kinds: tuple[str, ...]
    """what was put right"""
    is_certain: bool
    """whether nothing was guessed"""
    before: str
    after: str


def mended_text(text: str, syllables: Syllables | None = None) -> tuple[str, tuple[str, ...]]:
    """The text put right, and the kinds of what was.

    Encodings come first, for their control characters are parts of letters; accents are composed last.

    Args:
        syllables: by which lost bytes are guessed; None leaves them as they are.
    """
    kinds = []
    if not text.isascii():
        if (right := mended(text)) is not None:
            text = right.text
            kinds.append("broken-encoding" if len(right.pages) == 1 else "doubled-encoding")
        if syllables is not None and shows_lost_bytes(text) and (guess := guessed(text, syllables)) is not None:
            text = guess.text
            kinds.append("lost-bytes")
    without = CONTROL.sub("", TERMINAL_CODE.sub("", text))
    if without != text:
        text = without
        kinds.append("control-characters")
    composed = unicodedata.normalize("NFC", text)
    if composed != text:
        text = composed
        kinds.append("not-composed")
    return text, tuple(kinds)


def mended_record(record: Mapping[str, Any], syllables: Syllables | None = None) -> tuple[Any, list[Change]]:
    """A copy of a record with every text in it put right, and the changes, in the order of the texts.

    The names of its fields stay as they are.
    """
    changes: list[Change] = []

    def mend(text: str, steps: tuple[Step, ...]) -> str:
        after, kinds = mended_text(text, syllables)
        if after != text:
            changes.append(Change(steps, kinds, "lost-bytes" not in kinds, text, after))
        return after

    return _with_texts(record, mend, ()), changes


def _with_texts(value: Any, change: Callable[[str, tuple[Step, ...]], str], steps: tuple[Step, ...]) -> Any:
    if isinstance(value, str):
        return change(value, steps)
    if isinstance(value, Mapping):
        return {key: _with_texts(item, change, (*steps, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(item, change, (*steps, place)) for place, item in enumerate(value)]
    return value


def texts_in(value: Any) -> Iterator[str]:
    """Every text of a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def undone(record: Mapping[str, Any], changes: Sequence[Change]) -> Any:
    """A copy of a record with changes taken back.

    Raises:
        ValueError: a text is not what the change left; its message says where.
    """
    by_steps = {each.steps: each for each in changes}
    left = dict(by_steps)

    def take_back(text: str, steps: tuple[Step, ...]) -> str:
        change = left.pop(steps, None)
        if change is None:
            return text
        if text != change.after:
            raise ValueError(f"{'.'.join(map(str, steps))} is {text[:60]!r}, where it was made {change.after[:60]!r}")
        return change.before

    found = _with_texts(record, take_back, ())
    if left:
        raise ValueError(f"{'.'.join(map(str, next(iter(left))))} is no text")
    return found

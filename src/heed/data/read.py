"""Read records: a file, a folder of files, or a hub data set into the nouns that recipes learn from.

    bytes -> records -> names, kinds and texts put right -> shape -> conversation, ranking, judged answer, prompt, text

What makes a file unreadable is an error. A record of a readable file that cannot be used is a `Finding` in its place,
so that a run can leave a few of them out and count them. What was put right on the way is counted in `notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from heed.data.files.json_stream import Unusable
from heed.data.files.places import raws_at
from heed.data.shapes.names import renamed
from heed.data.shapes.rankings import with_scores_of_pair
from heed.data.shapes.recognise import UNKNOWN_SHAPE, Noun, convert, recognise, to_prompts
from heed.data.shapes.tidy import settled, tidied, with_known_kinds
from heed.data.shapes.unread import note_unread
from heed.errors import UserError
from heed.types import Conversation, Document, Finding, Judged, Labelled, Message, Origin, Prompt, Ranking

Item = TypeVar("Item")
Raw = Mapping[str, Any]
Read = Callable[[Raw, Origin, Counter[str]], tuple[str, Sequence[Item]]]
"""(record, where it is, notes) -> its shape and what it says"""

UNREADABLE = "unreadable"
"""in place of the shape of a record that is a finding"""


def read(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Noun]]:
    """Every conversation, ranking, judged answer or document at `path`, with the shape it was written in.

    Each record is recognised by its own keys, so one file may mix shapes. Streams: memory
    does not grow with the file.

    Args:
        path: a file, a folder, a data set saved or on the hub, as `heed.data.files.places.raws_at` takes it.
        columns: our name of a field -> its name in the file, where that is not one of the usual ones.
        notes: what was put right on the way is counted here, in words.

    Raises:
        UserError: everything broken, when it is reached.
    """
    for shape, noun in read_nouns(path, columns, notes):
        if isinstance(noun, Finding):
            raise noun.error()
        yield shape, noun


def read_nouns(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Noun | Finding]]:
    """As `read`, with a finding in place of a record that cannot be used."""
    return _items(path, columns, notes, _nouns)


def begins_as_text(path: str, columns: Mapping[str, str] | None = None) -> bool:
    """Whether the first record at `path` is plain text; where it cannot be read, reading it all says why."""
    try:
        return isinstance(next(read_nouns(path, columns), ("", None))[1], Document)
    except UserError:
        return False


def read_comparable(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Noun | Finding]]:
    """As `read_nouns`, pairs with their margin or scores."""
    return _items(path, columns, notes, _scored)


def read_rankings(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Ranking | Finding]]:
    """Every ranking at `path`, pairs with their margin or scores; a record that compares nothing is a `UserError`."""
    for shape, noun in read_comparable(path, columns, notes):
        if not isinstance(noun, Ranking | Finding):
            raise _no_preference(
                shape,
                noun.origin,
                "a record compares no answers",
                "a prompt with a chosen and a rejected answer, or with a list of ranked answers",
                '"prompt": "...", "chosen": "...", "rejected": "..."',
            )
        yield shape, noun


def read_comparable_with_fields(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[Noun, Raw] | Finding]:
    """As `read_comparable`, each with all fields of its record: what groups it, and who annotated it."""
    for _, item in _items(path, columns, notes, _scored_with_fields):
        yield item


def read_judged(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Judged | Ranking | Finding]]:
    """Every judged answer at `path`, or ranking to take judged answers from; anything else is a `UserError`."""
    for shape, noun in read_comparable(path, columns, notes):
        if isinstance(noun, Conversation | Document):
            raise _no_preference(
                shape,
                noun.origin,
                "a record does not say how good its answer is",
                "a prompt, a completion and a label that is true or false; or a preference",
                '"prompt": "...", "completion": "...", "label": true',
            )
        yield shape, noun


def read_prompts(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Prompt | Finding]]:
    """What every record at `path` asks; answers that stand beside it are not read, which the shape's name says."""
    return _items(path, columns, notes, _prompts)


def read_labelled(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[str, Labelled | Finding]]:
    """Every record at `path` as its named fields, for wordings to say."""
    return _items(path, columns, notes, _labelled)


def read_raw(
    path: str, columns: Mapping[str, str] | None = None, notes: Counter[str] | None = None
) -> Iterator[tuple[Origin, Raw | Finding]]:
    """Every record at `path` with its fields as they are named there, and where it is.

    Raises:
        UserError: the file is broken, or no record has a column that `columns` names.
    """
    notes = Counter() if notes is None else notes
    columns = columns or {}
    unseen = dict(columns)
    origin, raw = None, None
    for origin, raw in raws_at(path, notes):
        if isinstance(raw, Unusable):
            yield origin, Finding(raw.problem, origin, raw.found, raw.expected, raw.fix)
            continue
        unseen = {name: column for name, column in unseen.items() if column not in raw} if unseen else unseen
        yield origin, renamed(tidied(raw, notes), columns)
    if unseen and origin is not None:
        [(name, column), *_] = unseen.items()
        fields = list(raw) if isinstance(raw, Mapping) else []
        raise UserError(
            f"no record has the column '{column}'",
            where=f"{path}, columns {name}={column}",
            found=f"the columns {', '.join(fields[:12])}" + (f" and {len(fields) - 12:,} more" * (len(fields) > 12)),
            expected="names of columns that are in the file",
            fix=f"--columns {name}={fields[0] if fields else 'COLUMN'} (with the column that is meant)",
        )


# ---- one record


def _items(
    path: str, columns: Mapping[str, str] | None, notes: Counter[str] | None, read_one: Read[Item]
) -> Iterator[tuple[str, Item | Finding]]:
    notes = Counter() if notes is None else notes
    for origin, raw in read_raw(path, columns, notes):
        if isinstance(raw, Finding):
            yield UNREADABLE, raw
            continue
        try:
            shape, items = read_one(raw, origin, notes)
        except UserError as error:
            if error.problem == UNKNOWN_SHAPE:
                raise  # of one record as of all: a name that nobody knows
            yield UNREADABLE, Finding(error.problem, origin, error.found, error.expected, error.fix)
            continue
        for item in items:
            yield shape, item


def _nouns(raw: Raw, origin: Origin, notes: Counter[str]) -> tuple[str, Sequence[Noun]]:
    known = with_known_kinds(raw, notes)
    shape = recognise(known, origin)
    nouns = [_settled(noun, notes) for noun in convert(shape, known, origin)]
    note_unread(known, shape.needs, nouns, notes)
    return shape.name, nouns


def _scored(raw: Raw, origin: Origin, notes: Counter[str]) -> tuple[str, Sequence[Noun]]:
    shape, nouns = _nouns(raw, origin, notes)
    return shape, [with_scores_of_pair(noun, raw) if isinstance(noun, Ranking) else noun for noun in nouns]


def _scored_with_fields(raw: Raw, origin: Origin, notes: Counter[str]) -> tuple[str, Sequence[tuple[Noun, Raw]]]:
    shape, nouns = _scored(raw, origin, notes)
    return shape, [(noun, raw) for noun in nouns]


def _prompts(raw: Raw, origin: Origin, notes: Counter[str]) -> tuple[str, Sequence[Prompt]]:
    shape, prompts = to_prompts(with_known_kinds(raw, notes), origin, raw)
    return shape, [replace(prompt, messages=_once(prompt.messages, origin, notes)) for prompt in prompts]


def _labelled(raw: Raw, origin: Origin, notes: Counter[str]) -> tuple[str, Sequence[Labelled]]:
    return "labelled", [Labelled(raw, origin)]


def _settled(noun: Noun, notes: Counter[str]) -> Noun:
    if isinstance(noun, Document):
        return noun
    if isinstance(noun, Conversation):
        return replace(noun, messages=_once(noun.messages, noun.origin, notes))
    return replace(noun, prompt=_once(noun.prompt, noun.origin, notes))


def _once(messages: tuple[Message, ...], origin: Origin, notes: Counter[str]) -> tuple[Message, ...]:
    """The messages with one system prompt at their beginning; two different ones contradict each other."""
    messages = settled(messages, notes)
    if len(messages) > 1 and messages[0].role == messages[1].role == "system":
        first, second = messages[0].content, messages[1].content
        raise UserError(
            "there are two different system prompts",
            where=str(origin),
            found=f"{first[:60]!r} and {second[:60]!r}",
            expected="one, in a field of its own or as the first message",
            fix="join them into one in that record, or remove one",
        )
    return messages


def _no_preference(shape: str, origin: Origin, problem: str, expected: str, example: str) -> UserError:
    return UserError(
        problem,
        where=str(origin),
        found=f"a record of the shape {shape}",
        expected=expected,
        fix=f"in that record write {example}; answers to imitate are for heed sft",
    )


# ---- what was read, in words


def summary(counts: Mapping[tuple[str, type], int]) -> str:
    """What supervised tuning read, in one line: `read 4,990 conversations as messages and 10 as alpaca`.

    `counts` is how many nouns of each type came from each shape: `Counter((shape, type(noun)) ...)`.
    """
    text = counted(counts)
    kinds = {kind for (_, kind), n in counts.items() if n}
    if Document in kinds:
        text += "; every token of a document is trained"
    if Ranking not in kinds:
        return text
    return f"{text}; supervised tuning uses the best answer of each{'' if kinds == {Ranking} else ' ranking'}"


WORDS = (
    (Conversation, "conversation"),
    (Ranking, "ranking"),
    (Judged, "judged answer"),
    (Document, "document"),
    (Prompt, "prompt"),
    (Labelled, "record"),
)


def counted(counts: Mapping[tuple[str, type], int]) -> str:
    """How many of what was read: `read 1,100 rankings as preference`."""
    parts = []
    for kind, word in WORDS:
        shapes = sorted(((n, shape) for (shape, k), n in counts.items() if k is kind and n), reverse=True)
        for i, (n, shape) in enumerate(shapes):
            plural = word if n == 1 else f"{word}s"
            parts.append(f"{n:,} {plural} as {shape}" if i == 0 else f"{n:,} as {shape}")
    if not parts:
        return "read no records"
    return "read " + (", ".join(parts[:-1]) + " and " if len(parts) > 1 else "") + parts[-1]

"""Mend text in a new file, with every change listed beside it, so that all of them can be taken back.

records -> records with texts put right, in several processes -> the new file and its changes, both whole or neither
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from heed import files
from heed.data.files.json_stream import Unusable
from heed.data.files.places import raws_at
from heed.data.parallel import map_in_processes
from heed.data_config import DataMendSettings
from heed.errors import UserError
from heed.recipes.workshop.outputs import refuse_taken
from heed.train.progress import Progress
from heed.types import Finding, Origin
from heed.workshop.lost_bytes import shows_lost_bytes
from heed.workshop.mend import Change, mended_record, texts_in, undone
from heed.workshop.mojibake import mended
from heed.workshop.syllables import Syllables

ENOUGH_SYLLABLES = 20_000
"""of whole text, below which guesses are said to stand on little"""
MOST_SYLLABLES = 2_000_000
"""that are learnt from"""


@dataclass(slots=True)
class Mending:
    """What was done."""

    out: Path
    changes: Path
    num_records: int = 0
    num_changed: int = 0
    """records"""
    kinds: Counter[str] = field(default_factory=Counter)
    """kind -> texts that were put right"""
    num_guessed: int = 0
    """texts"""


def changes_beside(out: Path) -> Path:
    """Where the changes of a mended file are listed."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.changes.jsonl")


def run(settings: DataMendSettings, say: Callable[[str], None] = lambda line: None) -> Mending:
    """Mend a data set, or take its changes back.

    Raises:
        UserError: a record cannot be read or written, a file is there already, or the changes are of another file.
    """
    out = Path(settings.out)
    done = Mending(out, changes_beside(out))
    refuse_taken("--out", out, *([] if settings.undo else [done.changes]))
    if settings.undo:
        with files.new_files(out.absolute().parent, [out.name]) as folder:
            _take_back(settings.data, Path(settings.undo), folder / out.name, done)
        return done
    syllables = learnt(settings.data, say) if settings.guess else None
    names = [done.changes.name, out.name]
    with (
        files.new_files(out.absolute().parent, names) as folder,
        Progress("mending", unit="records") as progress,
        (folder / names[0]).open("w", encoding="utf-8") as log,
        (folder / names[1]).open("w", encoding="utf-8") as file,
    ):
        work = partial(mended_line, syllables)
        for line, changes in map_in_processes(work, records_of(settings.data), settings.workers):
            file.write(line + "\n")
            done.num_records += 1
            done.num_changed += bool(changes)
            for change in changes:
                log.write(_line_of(change, done.num_records) + "\n")
                done.kinds.update(change.kinds)
                done.num_guessed += not change.is_certain
            progress.update(done.num_records)
    return done


def records_of(path: str) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    """Every record as it stands in its file; one that cannot be read ends the work, for none may get lost."""
    for origin, raw in raws_at(path, Counter()):
        if isinstance(raw, Unusable):
            raise Finding(raw.problem, origin, raw.found, raw.expected, raw.fix).error()
        yield origin, raw


def mended_line(syllables: Syllables | None, item: tuple[Origin, Mapping[str, Any]]) -> tuple[str, list[Change]]:
    """One record as a line of JSON, its texts put right, and the changes."""
    origin, record = item
    found, changes = mended_record(record, syllables)
    return written(found, origin), changes


def written(record: Any, origin: Origin) -> str:
    """A record as a line of JSON, which has no NaN: null stands for it, as everywhere in heed.

    Raises:
        UserError: it holds what JSON has no word for, such as a date, bytes or infinity, or what is no text.
    """
    try:
        line = json.dumps(_without_nan(record), ensure_ascii=False, default=_plain_number, allow_nan=False)
        line.encode()
    except UnicodeEncodeError as error:
        raise _no_json(origin, f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}") from error
    except (TypeError, ValueError) as error:
        raise _no_json(origin, str(error)) from error
    return line


def _no_json(origin: Origin, found: str) -> UserError:
    return UserError(
        "a record cannot be written as JSON",
        where=str(origin),
        found=found,
        expected="Unicode text, finite numbers, true, false, null, and lists and mappings of these",
        fix="write that field as text first, or leave it out",
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _plain_number(value: Any) -> Any:
    """A number of numpy's, as tables have them."""
    if hasattr(value, "item") and not isinstance(found := value.item(), type(value)):
        return _without_nan(found)
    raise TypeError(f"a value of type {type(value).__name__}")


def learnt(path: str, say: Callable[[str], None]) -> Syllables:
    """The syllables of what is whole in a data set, by which lost bytes are guessed."""
    syllables = Syllables()
    with Progress("learning", unit="records") as progress:
        for count, (_, record) in enumerate(records_of(path), 1):
            texts = [text for text in texts_in(record) if not text.isascii()]
            right = [found.text if (found := mended(text)) is not None else text for text in texts]
            syllables.learn(text for text in right if shows_lost_bytes(text) is None)
            progress.update(count)
            if syllables.total >= MOST_SYLLABLES:
                break
    if syllables.total < ENOUGH_SYLLABLES:
        say(
            f"guesses stand on {syllables.total:,} syllables of whole text beside the damaged one, which is little: "
            "look at each (is_certain is false in the changes)"
        )
    return syllables


def _line_of(change: Change, record: int) -> str:
    told = {"record": record, "steps": list(change.steps), "kinds": list(change.kinds), "is_certain": change.is_certain}
    return json.dumps({**told, "before": change.before, "after": change.after}, ensure_ascii=False)


def _take_back(data: str, log: Path, out: Path, done: Mending) -> None:
    changes = _changes_in(log)
    waiting = next(changes, None)
    with out.open("w", encoding="utf-8") as file:
        for number, (origin, record) in enumerate(records_of(data), 1):
            of_record = []
            while waiting is not None and waiting[0] == number:
                of_record.append(waiting[1])
                waiting = next(changes, None)
            try:
                file.write(written(undone(record, of_record), origin) + "\n")
            except ValueError as error:
                raise _other_file(str(origin), str(error), log) from error
            done.num_records = number
            done.num_changed += bool(of_record)
            done.kinds.update(chain.from_iterable(change.kinds for change in of_record))
    if waiting is not None:
        raise _other_file(data, f"{done.num_records:,} records, and a change in record {waiting[0]:,}", log)


def _changes_in(log: Path) -> Iterator[tuple[int, Change]]:
    try:
        with log.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                yield _change_in(line, number, log)
    except (OSError, UnicodeDecodeError) as error:
        raise _no_changes(log, str(error)) from error


def _change_in(line: str, number: int, log: Path) -> tuple[int, Change]:
    try:
        told = json.loads(line)
        steps, kinds = tuple(told["steps"]), tuple(told["kinds"])
        return told["record"], Change(steps, kinds, told["is_certain"], told["before"], told["after"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_changes(log, f"line {number:,}: {line[:80]!r}") from error


def _no_changes(log: Path, found: str) -> UserError:
    return UserError(
        "the changes cannot be read",
        where=f"--undo {log}",
        found=found,
        expected="the .changes.jsonl that heed data mend wrote beside the mended file",
        fix="give that file: --undo MENDED.changes.jsonl",
    )


def _other_file(where: str, found: str, log: Path) -> UserError:
    return UserError(
        "the changes are not of this file",
        where=where,
        found=found,
        expected=f"the file as {log} left it",
        fix="give the file that was written beside those changes, as it was written",
    )

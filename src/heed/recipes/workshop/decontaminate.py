"""Leave out records that hold texts of evaluation sets, and list each with the match.

evaluation sets -> runs of words -> records looked up, in several processes -> those that are left, and those that go
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from heed import files
from heed.data.files.places import record_files_at
from heed.data.parallel import map_in_processes
from heed.data_config import DataDecontaminateSettings
from heed.errors import UserError, typed
from heed.recipes.workshop.mend import records_of, written
from heed.recipes.workshop.outputs import batched, nothing_there, refuse_taken
from heed.train.progress import Progress
from heed.types import Origin
from heed.workshop.contamination import ENOUGH, Index, IndexBuilder, Match, Place

__all__ = ["ENOUGH", "Decontaminated", "run"]

BATCH = 32
"""records whose words are looked up in one go"""


@dataclass(slots=True)
class Decontaminated:
    """What was done."""

    out: Path
    removed: Path
    """the list of what went"""
    num_records: int = 0
    num_removed: int = 0
    by_set: Counter[str] = field(default_factory=Counter)
    """evaluation set -> records that hold a text of it"""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """the first removals"""
    num_texts: int = 0
    """texts and lines of evaluation sets that were looked for"""
    num_boilerplate: int = 0
    """that stand in many records of their set"""


def removed_beside(out: Path) -> Path:
    """Where the records that go are listed."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.removed.jsonl")


def run(settings: DataDecontaminateSettings, say: Callable[[str], None] = lambda line: None) -> Decontaminated:
    """Write what is left, in its order, and what goes, each with the evaluation text that it holds.

    Raises:
        UserError: a record cannot be read or written, nothing is there, or a file is there already.
    """
    out = Path(settings.out)
    done = Decontaminated(out, removed_beside(out))
    refuse_taken("--out", out, done.removed)
    index, places = index_of(settings, done, say)
    names = [done.removed.name, out.name]
    with (
        files.new_files(out.absolute().parent, names) as folder,
        Progress("looking", unit="records") as progress,
        (folder / names[0]).open("w", encoding="utf-8") as removed,
        (folder / names[1]).open("w", encoding="utf-8") as left,
    ):
        records = (record for source in settings.data for record in records_of(source.path))
        look = partial(looked_up, index, settings.coverage)
        for batch in map_in_processes(look, batched(records, BATCH), settings.workers):
            for origin, line, match in batch:
                done.num_records += 1
                if match is None:
                    left.write(line + "\n")
                    continue
                told = _told(origin, match, places[match.item])
                removed.write(json.dumps(told, ensure_ascii=False)[:-1] + f', "content": {line}}}\n')
                done.num_removed += 1
                done.by_set[places[match.item].origin.path] += 1
                done.examples += [told] if len(done.examples) < 3 else []
            progress.update(done.num_records)
        if not done.num_records:
            raise nothing_there([source.path for source in settings.data])
    return done


def index_of(
    settings: DataDecontaminateSettings, done: Decontaminated, say: Callable[[str], None]
) -> tuple[Index, Sequence[Place]]:
    """The runs of words of all evaluation sets."""
    builder = IndexBuilder(settings.n)
    for path in settings.against:
        read, others = record_files_at(path)
        for other in others:
            say(f"{other}: not read, for its kind is not known")
        if not read:
            raise nothing_there([path])
        for each in read:
            builder.add(list(records_of(each)))
    done.num_texts = len(builder.places)
    done.num_boilerplate = builder.num_boilerplate
    if not builder.places:
        raise UserError(
            "the evaluation sets hold nothing that could be looked for",
            where=f"--against {' '.join(map(typed, settings.against))}",
            found=f"texts of fewer than {settings.n} words, and {done.num_boilerplate:,} that many records have",
            expected=f"texts of {settings.n} words or more",
            fix=f"--n {max(4, settings.n // 2)}, if the texts are as short as that",
        )
    return builder.index(), builder.places


def looked_up(
    index: Index, coverage: float, batch: Sequence[tuple[Origin, Mapping[str, Any]]]
) -> list[tuple[Origin, str, Match | None]]:
    """Every record as a line of JSON, and what it holds of the evaluation sets."""
    found = index.matches([record for _, record in batch], coverage)
    return [(origin, written(record, origin), match) for (origin, record), match in zip(batch, found, strict=True)]


def _told(origin: Origin, match: Match, place: Place) -> dict[str, Any]:
    here = {"path": origin.path, "record": origin.record}
    return {**here, "coverage": round(match.coverage, 4), "evaluation": place.as_json(), "match": match.shown}

"""Mix data sets into one: what is drawn of each, in one order, the same for the same seed.

records -> lines, of one shape where that is asked for, in several processes -> set aside on the disk, places in memory
-> drawn as training draws a mixture -> one file of lines, or Parquet files -> beside it what was drawn of which file
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from heed import files
from heed.data.files.places import files_at
from heed.data.mixture import ordered
from heed.data.parallel import map_in_processes
from heed.data.read import read_comparable_with_fields
from heed.data_mix_config import DataMixSettings, MixSource, size_of_shards
from heed.errors import UserError
from heed.recipes.workshop.mend import records_of, written
from heed.recipes.workshop.outputs import batched, nothing_there, refuse_taken
from heed.recipes.workshop.shards import Absent, write_shards
from heed.train.progress import Progress
from heed.types import Finding, Origin
from heed.workshop.one_shape import Noun, Shape, as_shape
from heed.workshop.shares import Part, planned

LINES = 1_000
"""records that are held at a time"""
SPOOL = ".spool"


@dataclass(slots=True)
class Drawn:
    """What became of one data set."""

    source: MixSource
    num_records: int = 0
    """that can be drawn"""
    draws: int = 0
    wanted: int = 0
    num_distinct: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """why a record has no place in the shape that was asked for -> how many"""
    first_left_out: dict[str, Origin] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    """file -> SHA-256"""


@dataclass(slots=True)
class Mixed:
    """What was mixed."""

    out: Path
    ledger: Path
    drawn: list[Drawn] = field(default_factory=list)
    num_records: int = 0
    num_files: int = 1
    absent: Absent = field(default_factory=Absent)
    """fields that Parquet fills"""


@dataclass(slots=True)
class Spool:
    """Lines on the disk, any of which is read by its number; eight bytes of memory each."""

    path: Path
    begins: array[int] = field(default_factory=lambda: array("q", [0]))

    def __len__(self) -> int:
        return len(self.begins) - 1

    def read(self, numbers: np.ndarray) -> Iterator[str]:
        """These lines, in this order, without their ends."""
        with self.path.open("rb") as file:
            for number in numbers.tolist():
                begin = self.begins[number]
                yield os.pread(file.fileno(), self.begins[number + 1] - begin - 1, begin).decode()


def ledger_beside(out: Path) -> Path:
    """Where it stands what a mixture was made of; readers of folders pass over files of this kind."""
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.mixture.yaml")


def run(settings: DataMixSettings, say: Callable[[str], None] = lambda line: None) -> Mixed:
    """Mix the data sets, and write what was drawn of which.

    Raises:
        UserError: a record cannot be read or written, nothing can be drawn of a data set, or a file is there already.
    """
    out = Path(settings.out)
    done = Mixed(out, ledger_beside(out))
    refuse_taken("--out", out, done.ledger)
    with files.new_files(out.absolute().parent, [done.ledger.name, out.name]) as folder:
        spool = Spool(folder / SPOOL)
        with spool.path.open("wb") as file, Progress("reading", unit="records") as progress:
            for source in settings.data:
                done.drawn.append(_read(source, settings, spool, file.write, progress))
        order = _planned(settings, done)
        done.num_records = len(order)
        if out.suffix == ".jsonl":
            with (folder / out.name).open("w", encoding="utf-8") as target:
                target.writelines(f"{line}\n" for line in _shown(spool, order))
        else:
            (folder / out.name).mkdir()
            lines = partial(batched, size=LINES)
            done.num_files, done.absent = write_shards(
                lambda: lines(spool.read(order)), folder / out.name, size_of_shards(settings)
            )
        spool.path.unlink()
        (folder / done.ledger.name).write_text(_ledger(settings, done), encoding="utf-8")
    return done


def _read(
    source: MixSource, settings: DataMixSettings, spool: Spool, write: Callable[[bytes], object], progress: Progress
) -> Drawn:
    """Set the records of a data set aside."""
    drawn = Drawn(source)
    before = len(spool)
    found = as_they_stand(source, settings) if settings.as_shape is None else in_shape(source, settings)
    for lines in found:
        if isinstance(lines, Finding):
            drawn.left_out[lines.problem] += 1
            drawn.first_left_out.setdefault(lines.problem, lines.origin)
            continue
        for line in lines:
            content = f"{line}\n".encode()
            write(content)
            spool.begins.append(spool.begins[-1] + len(content))
        progress.update(len(spool))
    drawn.num_records = len(spool) - before
    if not drawn.num_records:
        raise _nothing(drawn, settings)
    for file in files_at(source.path):
        drawn.checksums[str(file)] = checksum(file)
    return drawn


def as_they_stand(source: MixSource, settings: DataMixSettings) -> Iterator[list[str]]:
    """Every record as a line of JSON."""
    return map_in_processes(_line, records_of(source.path), settings.workers)


def _line(item: tuple[Origin, Mapping[str, Any]]) -> list[str]:
    return [written(item[1], item[0])]


def in_shape(source: MixSource, settings: DataMixSettings) -> Iterator[list[str] | Finding]:
    """Every record as lines of the shape that is asked for, or why it has none."""
    assert settings.as_shape is not None
    records = read_comparable_with_fields(source.path, source.columns, Counter())
    return map_in_processes(partial(_shaped, settings.as_shape), records, settings.workers)


def _shaped(shape: Shape, item: tuple[Noun, Mapping[str, Any]] | Finding) -> list[str] | Finding:
    if isinstance(item, Finding):
        return item
    noun, raw = item
    found = as_shape(noun, raw, shape)
    if isinstance(found, str):
        return Finding(found, noun.origin, type(noun).__name__.lower(), f"what can be written as {shape}", "")
    return [written(record, noun.origin) for record in found]


def _nothing(drawn: Drawn, settings: DataMixSettings) -> UserError:
    path = drawn.source.path
    if not drawn.left_out:
        return nothing_there([path])
    [(why, count), *_] = drawn.left_out.most_common()
    return UserError(
        f"no record of a data set can be written as {settings.as_shape}",
        where=str(drawn.first_left_out[why]),
        found=f"{why} ({count:,} records)",
        expected="records that say what this shape can say",
        fix=f"leave {path} out; or without --as {settings.as_shape} records are written as they stand",
    )


def _planned(settings: DataMixSettings, done: Mixed) -> np.ndarray:
    """The lines of the mixture, by their numbers, in its order."""
    parts = [
        Part(each.path, drawn.num_records, each.weight, each.share, each.cap or settings.cap)
        for drawn in done.drawn
        for each in (drawn.source,)
    ]
    plan = planned(parts, settings.size, settings.repeat)
    counts = [each.num_records for each in done.drawn]
    which, record, visit = ordered(counts, [each.draws for each in plan], settings.seed, epoch=0)
    first_draws = np.bincount(which[visit == 0], minlength=len(plan))
    for m, (drawn, each) in enumerate(zip(done.drawn, plan, strict=True)):
        drawn.draws, drawn.wanted, drawn.num_distinct = each.draws, each.wanted, int(first_draws[m])
    begins = np.cumsum([0, *counts[:-1]])
    return begins[which] + record


def _shown(spool: Spool, order: np.ndarray) -> Iterator[str]:
    with Progress("mixing", total=len(order), unit="records") as progress:
        for count, line in enumerate(spool.read(order), 1):
            yield line
            progress.update(count)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ledger(settings: DataMixSettings, done: Mixed) -> str:
    sources = [
        {
            "path": each.source.path,
            "sha256": each.checksums,
            "weight": each.source.weight,
            "share": each.source.share,
            "cap": each.source.cap or settings.cap,
            "num_records": each.num_records,
            "num_drawn": each.draws,
            "num_wanted": each.wanted,
            "num_distinct": each.num_distinct,
            "share_of_the_mixture": round(each.draws / done.num_records, 6),
            "left_out": dict(each.left_out),
        }
        for each in done.drawn
    ]
    told = {
        "made_by": f"heed data mix, heed-lm {version('heed-lm')}",
        "num_records": done.num_records,
        "seed": settings.seed,
        "size": settings.size,
        "as": settings.as_shape,
        "sources": sources,
    }
    return yaml.safe_dump(json.loads(json.dumps(told)), sort_keys=False, allow_unicode=True, width=1_000)

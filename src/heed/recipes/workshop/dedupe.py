"""Leave out what was said before, word for word or nearly, and what stands in held-out data.

records -> digests and shingles, in several processes -> clusters -> the one that stays -> the file, as records stood
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TextIO

import numpy as np

from heed import files
from heed.config import DataSource
from heed.data.parallel import map_in_processes
from heed.data.read import read_comparable_with_fields
from heed.data_config import DataDedupeSettings
from heed.data_faults import KINDS
from heed.errors import UserError
from heed.recipes.workshop.check import new_lines
from heed.recipes.workshop.mend import records_of, written
from heed.recipes.workshop.outputs import batched, nothing_there, refuse_one_name, refuse_taken
from heed.train.progress import Progress
from heed.types import Finding, Origin
from heed.workshop.clusters import NONE, Found, clusters_of
from heed.workshop.mend import texts_in
from heed.workshop.near import Sets
from heed.workshop.record_faults import Noun, faults_of
from heed.workshop.shingles import IS_COMPARED, LENGTH, NUM_IN_ANSWERS, SIZE, WIDTH, compared

BATCH = 32
"""records whose words are counted in one go"""
EXCERPT = 100
"""characters of a record in the list of clusters"""


@dataclass(slots=True)
class Deduped:
    """What was done. Records that are left out are counted once."""

    out: Path
    num_records: int = 0
    num_unread: int = 0
    """that say nothing heed can read; they stay, and are compared with none"""
    num_held_out: int = 0
    """left out: what they ask is asked in the held-out data, or they are near a record there"""
    num_same: int = 0
    """left out: word for word the same as one that stays"""
    num_near: int = 0
    """left out: nearly the same"""
    num_clusters: int = 0
    """of two records or more"""
    notes: Counter[str] = field(default_factory=Counter)
    """what the readers put right, in words, and how often"""

    @property
    def num_left(self) -> int:
        return self.num_records - self.num_held_out - self.num_same - self.num_near


@dataclass(slots=True)
class Seen:
    """All records as they are compared. N records, the held-out ones last."""

    rows: np.ndarray
    """(N, WIDTH) uint64"""
    file: np.ndarray
    """(N,) which of `paths` each is of"""
    record: np.ndarray
    """(N,) its number there"""
    paths: list[str]
    num_train: int
    sets: Sets

    def stands_at(self, row: int, origin: Origin) -> bool:
        return bool(self.record[row] == origin.record) and self.paths[self.file[row]] == origin.path

    def where(self, row: int) -> dict[str, object]:
        return {"path": self.paths[self.file[row]], "record": int(self.record[row])}


def run(settings: DataDedupeSettings) -> Deduped:
    """Write the records that are left, in their order, and list the clusters where that is asked for.

    Raises:
        UserError: a record cannot be read or written, nothing is in the data, or a file is there already.
    """
    out = Path(settings.out)
    done = Deduped(out)
    refuse_taken("--out", out)
    if settings.clusters is not None:
        refuse_taken("--clusters", Path(settings.clusters))
        refuse_one_name(("--out", out), ("--clusters", Path(settings.clusters)))
    with new_lines(settings.clusters) as listed, files.new_files(out.absolute().parent, [out.name]) as folder:
        seen = seen_in(settings, folder, done)
        if not seen.num_train:
            raise nothing_there([source.path for source in settings.data])
        found = clusters_of(seen.rows, seen.num_train, settings.near, seen.sets, folder)
        kept = kept_of(settings, seen, found)
        count(seen, found, kept, done)
        is_told = (found.held_out != NONE) | (np.bincount(kept, minlength=len(kept)) > 1)[kept]
        with (folder / out.name).open("w", encoding="utf-8") as file:
            excerpts = write(settings, seen, kept, found, is_told if listed is not None else None, file, done)
        if listed is not None:
            for line in clusters_in(seen, found, kept, is_told, excerpts, settings.near is not None):
                listed.write(json.dumps(line, ensure_ascii=False) + "\n")
    return done


def seen_in(settings: DataDedupeSettings, folder: Path, done: Deduped) -> Seen:
    """Look at every record once; its shingles go to the disk, into a file without a name."""
    rows, place = [np.zeros((0, WIDTH), np.uint64)], array("q")
    paths: dict[str, int] = {}
    num_train = 0
    with tempfile.TemporaryFile(dir=folder) as file, Progress("comparing", unit="records") as progress:
        for number, source in enumerate((*settings.data, *settings.against)):
            if number >= len(settings.data) and not source.columns:
                source = source.model_copy(update={"columns": settings.columns})
            look = partial(compared, settings.by, settings.near is not None)
            batches = batched(said_in(source, done.notes, paths, place), BATCH)
            for found in map_in_processes(look, batches, settings.workers):
                rows.append(found.rows)
                file.write(found.shingles.tobytes())
                num_train += len(found.rows) if number < len(settings.data) else 0
                progress.update(len(place) // 2)
        kept = np.concatenate(rows)
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept[:, SIZE].astype(np.int64))])
        file.flush()
        shingles = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if start[-1] else b""
    where = np.frombuffer(place, np.int64).reshape(-1, 2) if place else np.zeros((0, 2), np.int64)
    sets = Sets(shingles, start, kept[:, NUM_IN_ANSWERS].astype(np.int64))
    return Seen(kept, where[:, 0], where[:, 1], list(paths), num_train, sets)


def said_in(source: DataSource, notes: Counter[str], paths: dict[str, int], place: array[int]) -> Iterator[list[Noun]]:
    """What every record says, which is nothing where it cannot be read; where it stands goes to `place`."""
    items = read_comparable_with_fields(source.path, source.columns, notes)
    for origin, group in groupby(items, lambda item: item.origin if isinstance(item, Finding) else item[0].origin):
        place.extend((paths.setdefault(origin.path, len(paths)), origin.record))
        yield [item[0] for item in group if not isinstance(item, Finding)]


# ---- the one that stays


def kept_of(settings: DataDedupeSettings, seen: Seen, found: Found) -> np.ndarray:
    """(T,) the record that stays of the cluster of each: by the rule, then by what it says, and never by its place.

    Only `first` goes by the place.
    """
    root = found.root
    if settings.keep == "first":
        return root
    faults, content = of_members(settings, np.bincount(root, minlength=len(root))[root] > 1)
    length = seen.rows[: seen.num_train, LENGTH].astype(np.int64)
    order = np.lexsort((np.arange(len(root)), content, -length, faults[:, 1], faults[:, 0], root))
    best = np.arange(len(root))
    begins = np.flatnonzero(np.diff(root[order], prepend=-1))
    best[root[order[begins]]] = order[begins]
    return best[root]


def of_members(settings: DataDedupeSettings, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((T, 2) errors and warnings, (T,) a digest of all fields) of those records that are in a cluster; 0 of others."""
    faults, content = np.zeros((len(is_member), 2), np.int64), np.zeros(len(is_member), np.uint64)
    row = -1
    with Progress("choosing", unit="records") as progress:
        for source in settings.data:
            last = None
            for item in read_comparable_with_fields(source.path, source.columns):
                origin = item.origin if isinstance(item, Finding) else item[0].origin
                row, last = row + (origin != last), origin
                progress.update(row)
                if not is_member[row] or isinstance(item, Finding):
                    continue
                noun, raw = item
                text = json.dumps(raw, ensure_ascii=False, sort_keys=True, default=str)
                digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                content[row] = int.from_bytes(digest, "big")
                if settings.keep == "best":
                    levels = Counter(KINDS[fault.kind].level for fault in faults_of(noun))
                    faults[row] += (levels["error"], levels["warning"])
    return faults, content


# ---- what is written


def count(seen: Seen, found: Found, kept: np.ndarray, done: Deduped) -> None:
    """How many go, and why."""
    rows = np.arange(seen.num_train)
    unit = seen.rows[:, :2]
    is_gone = (kept != rows) & (found.held_out == NONE)
    is_same = (unit[rows] == unit[kept]).all(1)
    done.num_held_out = int((found.held_out != NONE).sum())
    done.num_same, done.num_near = int((is_gone & is_same).sum()), int((is_gone & ~is_same).sum())
    done.num_clusters = len(np.unique(kept[is_gone]))


def write(
    settings: DataDedupeSettings,
    seen: Seen,
    kept: np.ndarray,
    found: Found,
    is_told: np.ndarray | None,
    file: TextIO,
    done: Deduped,
) -> Mapping[int, str]:
    """Write the records that are left; the beginnings of those that are told of.

    Raises:
        UserError: the data are not those that were compared.
    """
    excerpts: dict[int, str] = {}
    row = 0
    with Progress("writing", unit="records") as progress:
        for source in settings.data:
            for origin, raw in records_of(source.path):
                done.num_records += 1
                progress.update(done.num_records)
                is_seen = row < seen.num_train and seen.stands_at(row, origin)
                if not is_seen or (kept[row] == row and found.held_out[row] == NONE):
                    file.write(written(raw, origin) + "\n")
                if is_seen and is_told is not None and is_told[row]:
                    excerpts[row] = " ".join(" ".join(texts_in(raw)).split())[:EXCERPT]
                row += is_seen
    done.num_unread = done.num_records - int((seen.rows[: seen.num_train, IS_COMPARED] == 1).sum())
    if row != seen.num_train:
        raise UserError(
            "the data changed while they were read",
            where=", ".join(source.path for source in settings.data),
            found=f"{row:,} of {seen.num_train:,} records a second time",
            expected="files that nobody writes to meanwhile",
            fix="the same command again",
        )
    return excerpts


def clusters_in(
    seen: Seen, found: Found, kept: np.ndarray, is_told: np.ndarray, excerpts: Mapping[int, str], is_near: bool
) -> Iterator[dict[str, object]]:
    """Every cluster in the order of its first record: the record that stays, or is held out, and those that go."""
    rows = np.flatnonzero(is_told)
    stays = np.where(found.held_out[rows] != NONE, found.held_out[rows], kept[rows])
    similarity = np.where(found.held_out[rows] != NONE, found.similarity[rows], 1.0)
    is_other = (found.held_out[rows] == NONE) & (seen.rows[rows, :2] != seen.rows[stays, :2]).any(1)
    if is_near and is_other.any():
        similarity[is_other] = seen.sets.similarity(rows[is_other], stays[is_other])
    members: dict[int, list[dict[str, object]]] = {}
    for row, of, near in zip(rows.tolist(), stays.tolist(), similarity.tolist(), strict=True):
        gone = members.setdefault(of, [])
        if row != of:
            gone.append({**seen.where(row), "similarity": round(near, 4), "text": excerpts[row]})
    for of, gone in members.items():
        name = "kept" if of < seen.num_train else "held_out"
        text = {"text": excerpts[of]} if of in excerpts else {}
        yield {name: {**seen.where(of), **text}, "left_out": gone}

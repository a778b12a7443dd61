"""From what `--task` names to items: a task, the records it is measured on, and those its examples come from."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heed.data.files.bytes import byte_chunks, decoded, without_packing
from heed.data.files.json_stream import lines_of
from heed.data.files.places import files_at, hub_raws
from heed.data.read import read_raw
from heed.errors import UserError, typed
from heed.evaluate.guarantees import base_id
from heed.evaluate.items import Item
from heed.evaluate.kinds import Reading, item_of
from heed.evaluate.task import Task, built_in, built_in_names, records_in, task_at
from heed.types import Finding, Origin


@dataclass(frozen=True, eq=False)
class OpenTask:
    """A task with its items."""

    name: str
    task: Task
    data: str
    """where its records are, as the user wrote it or as the hub calls it"""
    data_sha256: str | None
    """of the files' content; None of data on the hub, and of none"""
    items: tuple[Item, ...]
    """in the order of the file, those that are measured"""
    pool: tuple[Item, ...]
    """those that examples are drawn from, in the order of their ids"""
    findings: tuple[Finding, ...]
    num_records: int
    is_tax: bool = False

    def is_as(self, other: OpenTask) -> bool:
        """Whether both are one task on one file."""
        return (self.name, self.data, self.is_tax) == (other.name, other.data, other.is_tax)


def open_task(
    written: str,
    *,
    limit: int | None,
    num_shots: int | None,
    max_bad_records: float,
    is_tax: bool,
    say: Callable[[str], None],
) -> OpenTask:
    """Read a task and its records.

    Args:
        written: NAME=PATH, NAME, or the path of a task file.
        limit: items at most, those whose records have the smallest hash; the same for every model and order of files.
        num_shots: examples before a question; None: as many as the task says.

    Raises:
        UserError: there is no such task or file, it has no records, or more than `max_bad_records` cannot be asked.
    """
    name, task, path = named_task(written, is_tax)
    notes: Counter[str] = Counter()
    shots = task.num_shots if num_shots is None else num_shots
    task = task.model_copy(update={"num_shots": shots})
    where = path or (f"{task.hub.path}:{task.hub.split}" if task.hub else "")
    items, findings, num_records = items_of(task, path, task.hub.split if task.hub else "", notes)
    for note, count in sorted(notes.items()):
        say(f"{name}: {note}: {count:,}")
    if len(findings) > max_bad_records * num_records:
        raise _too_many_findings(name, findings, num_records)
    if findings:
        say(
            f"{name}: {len(findings):,} of {num_records:,} records cannot be asked and are left out; the first: "
            f"{findings[0].origin}: {findings[0].problem}: {findings[0].found}"
        )
    if not items and not findings:
        raise UserError(
            "a task has no items",
            where=where,
            found=f"{num_records:,} records, none that can be asked",
            expected="one at least",
            fix="another file: --task " + typed(f"{name}=FILE"),
        )
    pool = examples_of(task, path, items, notes) if shots and task.kind != "text" else ()
    in_groups = Counter(each.groups.get(task.examples_share or "") for each in pool)
    few = min((in_groups[each.groups.get(task.examples_share or "")] for each in items), default=0) if shots else 0
    if shots and task.kind != "text" and few < shots + most_alike(pool, items):
        raise UserError(
            "there are too few records to take examples from",
            where=task.shots_from or where,
            found=f"{few:,} that can be examples" + (f" of one {task.examples_share}" if task.examples_share else ""),
            expected=f"more than {shots:,}",
            fix="--num-shots 0",
        )
    if limit is not None and len(items) > limit:
        chosen = {item.id for item in sorted(items, key=in_whole_clusters)[:limit]}
        say(f"{name}: measured are {limit:,} of {len(items):,} items, chosen by hash (--limit)")
        items = tuple(item for item in items if item.id in chosen)
    return OpenTask(name, task, where, content_of(path), items, pool, findings, num_records, is_tax)


def most_alike(pool: Sequence[Item], items: Sequence[Item]) -> int:
    """How many of the pool may say what one item says, and so be no examples for it."""
    counts = Counter(base_id(each.id) for each in pool)
    return max((counts[base_id(each.id)] for each in items), default=0)


def in_whole_clusters(item: Item) -> tuple[str, str]:
    """Sorts items by hash, those of one cluster side by side: what is compared within clusters stays comparable."""
    cluster = (
        item.id
        if item.cluster is None
        else hashlib.sha256(item.cluster.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    )
    return cluster, item.id


def named_task(written: str, is_tax: bool = False) -> tuple[str, Task, str | None]:
    """The name of a task, the task, and where its records are; None: on the hub."""
    if written.endswith((".yaml", ".yml")):
        task = task_at(written)
        if task.data is None and task.hub is None:
            raise UserError(
                "a task file does not say where its records are",
                where=written,
                found="neither data nor hub",
                expected="'data: FILE_OR_FOLDER' (seen from the task file), or 'hub: {path: OWNER/NAME}'",
                fix="write 'data: FILE' into it",
            )
        return Path(written).stem, task, task.data
    name, equals, path = written.partition("=")
    if equals:
        name = name.strip()
        task = task_at(name) if name.endswith((".yaml", ".yml")) else built_in(name)
        return Path(name).stem, task, os.path.expanduser(path)
    if is_tax and os.path.exists(os.path.expanduser(written)):
        return Path(written).stem, built_in("text"), os.path.expanduser(written)
    if written not in built_in_names() and os.path.exists(os.path.expanduser(written)):
        raise UserError(
            "a data file alone is no task",
            where=f"--task {written}",
            found="a file without the name of a task",
            expected="NAME=FILE: the task says how its records become questions",
            fix="--task " + typed(f"arc={written}") + "; heed eval --list shows the tasks",
        )
    task = built_in(written)
    if task.hub is None:
        raise UserError(
            f"the task '{written}' has no data set on the hub",
            where=f"--task {written}",
            found="the name alone",
            expected="its file or folder, too",
            fix=f"--task {written}=FILE",
        )
    return written, task, None


# ---- records


def items_of(
    task: Task, path: str | None, split: str, notes: Counter[str]
) -> tuple[tuple[Item, ...], tuple[Finding, ...], int]:
    """The items of all records, what cannot be asked, and how many records there are."""
    items: list[Item] = []
    findings: list[Finding] = []
    seen: Counter[str] = Counter()
    num_records = 0
    for origin, record in records_at(task, path, split, notes):
        num_records += 1
        if isinstance(record, Finding):
            findings.append(record)
            continue
        content = content_id(record)
        name = content if not seen[content] else f"{content}-{seen[content]}"
        seen[content] += 1
        found = item_of(Reading(task, name, origin, record))
        if isinstance(found, Finding):
            findings.append(found)
        else:
            items.append(found)
            notes.update(found.notes)
    return tuple(items), tuple(findings), num_records


def records_at(
    task: Task, path: str | None, split: str, notes: Counter[str]
) -> Iterator[tuple[Origin, Mapping[str, Any] | Finding]]:
    """Every record, those inside documents one by one, counted from 1 over all of the file."""
    if path is None:
        assert task.hub is not None
        raws: Iterator[Any] = hub_raws(task.hub.path, task.hub.config, split, notes)
    elif task.header is not None and (rows := rows_without_header(path, task.header)) is not None:
        raws = rows
    else:
        raws = read_raw(path, None, notes)
    numbers: Counter[str] = Counter()
    for origin, raw in raws:
        if not isinstance(raw, Mapping):
            yield origin, raw
            continue
        for record in records_in(raw, task.records):
            numbers[origin.path] += 1
            yield (Origin(origin.path, numbers[origin.path]) if task.records else origin), record


def rows_without_header(path: str, header: tuple[str, ...]) -> Iterator[tuple[Origin, Mapping[str, Any]]] | None:
    """The rows of tables whose first line is a record already; None where the first line names the columns."""
    tables = [file for file in files_at(path) if without_packing(str(file)).lower().endswith((".csv", ".tsv"))]
    if not tables:
        return None

    def rows(file: Path) -> Iterator[list[str]]:
        delimiter = "\t" if without_packing(str(file)).lower().endswith(".tsv") else ","
        csv.field_size_limit(2**31 - 1)  # as for other tables: a cell may be a long document
        lines = lines_of(decoded(byte_chunks(str(file), str(file)), str(file)))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            yield from reader
        except csv.Error as error:
            raise UserError(
                "the table is broken",
                where=f"{file}, line {reader.line_num:,}",
                found=str(error),
                expected="rows of cells, quotation marks closed",
                fix=f"sed -n {reader.line_num}p {typed(file)} shows the line",
            ) from None

    first = next(rows(tables[0]), [])
    if len(first) != len(header) or {name.strip().lower() for name in first} == {name.lower() for name in header}:
        return None

    def records() -> Iterator[tuple[Origin, Mapping[str, Any]]]:
        for file in tables:
            for number, row in enumerate((row for row in rows(file) if row), 1):
                if len(row) != len(header):
                    raise UserError(
                        "a row has another number of cells than its task says",
                        where=f"{file}, record {number:,}",
                        found=f"{len(row)} cells",
                        expected=f"{len(header)}: {', '.join(header)}",
                        fix="mend that row",
                    )
                yield Origin(str(file), number), {**dict(zip(header, row, strict=True)), "file": file.stem}

    return records()


def examples_of(task: Task, path: str | None, items: tuple[Item, ...], notes: Counter[str]) -> tuple[Item, ...]:
    """The items that few-shot examples are drawn from, in the order of their ids."""
    found = items
    if task.shots_from is not None:
        found, _, _ = items_of(task, task.shots_from, "", notes)
    elif path is None and task.hub is not None and task.hub.shots is not None:
        found, _, _ = items_of(task, None, task.hub.shots, notes)
    return tuple(sorted((item for item in found if item.shot is not None), key=lambda item: item.id))


def content_id(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what a record says, in whatever order its fields stand."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def content_of(path: str | None) -> str | None:
    """SHA-256 of the content of all files at a path; None where there are none on this machine."""
    if path is None or not (found := files_at(path)):
        return None
    content = hashlib.sha256()
    for file in found:
        with file.open("rb") as open_file:
            content.update(hashlib.file_digest(open_file, "sha256").digest())
    return content.hexdigest()


def _too_many_findings(name: str, findings: tuple[Finding, ...], num_records: int) -> UserError:
    first, share = findings[0], math.ceil(1000 * len(findings) / num_records) / 1000
    if len(findings) == num_records:
        fix = f"another file for this task; {first.fix}" if "another file" not in first.fix else first.fix
    else:
        fix = f"mend them; or --max-bad-records {share:g} measures the other {num_records - len(findings):,} "
        fix += "and counts these"
    return UserError(
        first.problem
        if len(findings) == 1
        else f"{len(findings):,} records of {name} cannot be asked; the first: {first.problem}",
        where=str(first.origin),
        found=first.found,
        expected=first.expected,
        fix=fix,
    )

"""Lines of JSON as Parquet files of one schema, which holds every field that any record has.

Read twice: readers of tables take the fields of the first rows for all of them, and drop what comes later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from heed.errors import UserError

Lines = Callable[[], Iterator[list[str]]]


@dataclass(slots=True)
class Absent:
    """What a table cannot tell apart: a field that a record lacks, and one that it has without a value."""

    lacking: Counter[str] = field(default_factory=Counter)
    """field -> records that lack it"""
    nulls: Counter[str] = field(default_factory=Counter)
    """field -> records where it is null"""

    def lines(self) -> list[str]:
        """In words, with how many of each there were."""
        return [
            f"{name}: {count:,} records lack it"
            + (f", and in {self.nulls[name]:,} it is null" if self.nulls[name] else "")
            for name, count in self.lacking.items()
        ]


def write_shards(lines: Lines, folder: Path, limit: int) -> tuple[int, Absent]:
    """Write the lines into files of about `limit` bytes, and return how many files, and what is filled with nulls.

    Raises:
        UserError: a field holds values that no column holds together, such as text and numbers.
    """
    schema, absent = schema_of(lines)
    paths: list[Path] = []
    writer = None
    for batch in lines():
        if writer is None:
            paths.append(folder / f"{len(paths)}.parquet")
            sink = paths[-1].open("wb")
            writer = pyarrow.parquet.ParquetWriter(sink, schema)
        try:
            rows = pyarrow.array(list(map(json.loads, batch)), type=pyarrow.struct(list(schema)))
            writer.write_batch(pyarrow.RecordBatch.from_struct_array(rows))
        except pyarrow.ArrowException as error:
            raise _no_column(error, "") from error
        if sink.tell() >= limit:
            writer.close()
            sink.close()
            writer = None
    if writer is not None:
        writer.close()
        sink.close()
    for number, path in enumerate(paths):
        path.rename(folder / f"train-{number:05d}-of-{len(paths):05d}.parquet")
    return len(paths), absent


def schema_of(lines: Lines) -> tuple[pyarrow.Schema, Absent]:
    """One schema for all lines: every field, wide enough for each of its values."""
    schema = pyarrow.schema([])
    has: Counter[str] = Counter()
    absent = Absent()
    total = 0
    for batch in lines():
        records = list(map(json.loads, batch))
        total += len(records)
        for record in records:
            has.update(record.keys())
            absent.nulls.update(key for key, value in record.items() if value is None)
        try:
            found = pyarrow.schema(list(pyarrow.array(records).type))
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        except pyarrow.ArrowException as error:
            raise _no_column(error, _mixed(records)) from error
    absent.lacking.update({key: total - count for key, count in has.items() if count < total})
    return schema, absent


def _mixed(records: list[dict[str, Any]]) -> str:
    """The first field that holds values of two kinds."""
    kinds: dict[str, str] = {}
    for record in records:
        for key, value in record.items():
            kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
            if value is not None and kinds.setdefault(key, kind) != kind:
                return f"the field {key}: {kinds[key]} and {kind}; "
    return ""


def _no_column(error: Exception, which: str) -> UserError:
    return UserError(
        "the records do not fit into one table",
        where="--out, as Parquet",
        found=which + str(error).splitlines()[0],
        expected="values of one kind in each field of all records, and no empty objects",
        fix="--out MIX.jsonl, where every record stands as it is; or --as messages, which has the same fields in all",
    )

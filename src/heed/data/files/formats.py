"""One file of records, in JSON, JSON lines, CSV, Parquet or plain text, compressed or not, streamed as mappings."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from heed.data.files.bytes import PACKED_SUFFIXES, byte_chunks, decoded, show_command, without_packing
from heed.data.files.json_stream import Numbered, read_json
from heed.data.files.tables import read_parquet, read_table
from heed.errors import UserError, typed

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
TEXT_SUFFIXES = (".txt",)
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES + PARQUET_SUFFIXES + TEXT_SUFFIXES


def suffix_of(path: str) -> str:
    """The suffix that names the format: `.jsonl` for `a.jsonl` and for `a.jsonl.gz`."""
    return os.path.splitext(without_packing(path.lower()))[1]


def read_file(path: str, shown_as: str, notes: Counter[str]) -> Numbered:
    """The records of one file, and into `notes` what was noticed.

    A `.txt` file is one record, `{"text": ...}`: a document, whatever lines and blank lines it has.

    Args:
        shown_as: how errors name the file: the path as the user wrote it.
    """
    suffix = suffix_of(path)
    with closing(byte_chunks(path, shown_as)) as chunks:
        head = next(chunks, b"")  # a file that is no data at all says so better than its suffix does
        if suffix not in SUFFIXES:
            raise _unread(shown_as, suffix)
        records = _records(head, chunks, suffix, path, shown_as, notes)
        first = next(records, None)
        if first is None:
            raise UserError(
                "the file holds no records",
                where=shown_as,
                found="an empty list or table",
                expected="at least one record",
                fix=f"look at its beginning: {show_command(shown_as)} | head -c 300",
            )
        yield first
        yield from records


def _unread(shown_as: str, suffix: str) -> UserError:
    stem = os.path.splitext(without_packing(shown_as))[0]
    # What stands before an unknown suffix may name the format already, as in `a.jsonl.br`.
    if os.path.splitext(stem)[1] in SUFFIXES:
        fix = f"unpack it, if {suffix} is a compression that you know: the result is {typed(stem)}"
    else:
        fix = f"if it holds JSON lines: mv {typed(shown_as)} {typed(stem)}.jsonl"
    return UserError(
        "this kind of file is not read",
        where=shown_as,
        found=f"the suffix '{suffix}'" if suffix else "no suffix",
        expected=f"one of {', '.join(SUFFIXES)}, each also with {', '.join(PACKED_SUFFIXES)}",
        fix=fix,
    )


def _records(
    head: bytes, rest: Iterator[bytes], suffix: str, path: str, shown_as: str, notes: Counter[str]
) -> Numbered:
    chunks = itertools.chain([head], rest)
    if head.startswith(b"PAR1") or suffix in PARQUET_SUFFIXES:
        return read_parquet(chunks, path, shown_as)
    text = decoded(chunks, shown_as, notes)
    if suffix in TABLE_SUFFIXES:
        return read_table(text, shown_as, notes)
    if suffix in TEXT_SUFFIXES:
        return _document(text)
    return read_json(text, suffix, shown_as, notes)


def _document(text: Iterator[str]) -> Numbered:
    whole = "".join(text)
    if whole.strip():
        yield 1, {"text": whole}

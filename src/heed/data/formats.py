"""One file of records, in JSON, JSON lines, CSV or Parquet, gzipped or not, streamed as mappings."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import IO, Any

from heed.data.json_stream import Numbered, lines_of, read_json, show_command
from heed.errors import UserError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES + PARQUET_SUFFIXES

CHUNK_BYTES = 1 << 20


def suffix_of(path: str) -> str:
    """The suffix that names the format: `.jsonl` for `a.jsonl` and for `a.jsonl.gz`."""
    name = path.lower()
    return os.path.splitext(name.removesuffix(".gz"))[1]


def read_file(path: str, shown_as: str) -> Numbered:
    """The records of one file. `shown_as` is how errors name it: the path as the user wrote it."""
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise UserError(
            "this kind of file is not read",
            where=shown_as,
            found=f"the suffix '{suffix}'" if suffix else "no suffix",
            expected=f"one of {', '.join(SUFFIXES)}, each also with .gz",
            fix=f"if it holds JSON lines: mv {shown_as} {os.path.splitext(shown_as)[0]}.jsonl",
        )
    with closing(_byte_chunks(path, shown_as)) as chunks:
        records = _records(chunks, suffix, path, shown_as)
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


def _records(chunks: Iterator[bytes], suffix: str, path: str, shown_as: str) -> Numbered:
    head = next(chunks, b"")
    chunks = itertools.chain([head], chunks)
    if head.startswith(b"PAR1") or suffix in PARQUET_SUFFIXES:
        return _parquet(chunks, path, shown_as)
    if suffix in TABLE_SUFFIXES:
        return _table(decoded(chunks, shown_as), shown_as)
    return read_json(decoded(chunks, shown_as), suffix, shown_as)


# ---- bytes and characters


def _byte_chunks(path: str, shown_as: str) -> Generator[bytes, None, None]:
    """The file's bytes, unzipped if its first bytes say that it is gzipped."""
    try:
        with open(path, "rb") as plain:
            is_gzip = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if path.lower().endswith(".gz") and not is_gzip and os.path.getsize(path) > 0:
                raise gzip.BadGzipFile("it does not begin as a gzip file does")
            stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            size = 0
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            "the gzip file is damaged",
            where=shown_as,
            found=str(error),
            expected="a complete gzip file",
            fix=f"fetch it again and test it with: gzip -t {shown_as}",
        ) from error
    except OSError as error:
        raise UserError(
            "the file cannot be read",
            where=shown_as,
            found=error.strerror or str(error),
            expected="a file that you may read",
            fix=f"ls -l {shown_as}",
        ) from error
    if size == 0:
        raise UserError(
            "the file is empty",
            where=shown_as,
            found="0 bytes",
            expected="at least one record",
            fix=f"write the file again, then: ls -l {shown_as}",
        )


def decoded(chunks: Iterable[bytes], shown_as: str) -> Iterator[str]:
    """UTF-8 text of the bytes, without a byte order mark; a wrong byte is named by offset and line."""
    rest, offset, line, at_start = b"", 0, 1, True
    for chunk in itertools.chain(chunks, [b""]):
        block = rest + chunk
        try:
            text, rest = block.decode(), b""
        except UnicodeDecodeError as error:
            cut_by_chunk = chunk and error.reason == "unexpected end of data" and error.end == len(block)
            if not cut_by_chunk:
                raise _not_utf8(block, error, offset, line, shown_as) from error
            text, rest = block[: error.start].decode(), block[error.start :]
        offset += len(block) - len(rest)
        line += text.count("\n")
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        if text:
            yield text


def _not_utf8(block: bytes, error: UnicodeDecodeError, offset: int, line: int, shown_as: str) -> UserError:
    is_utf16 = offset == 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff")
    line += block.count(b"\n", 0, error.start)
    return UserError(
        "the text is not UTF-8",
        where=f"{shown_as}, line {line:,}, byte offset {offset + error.start:,}",
        found="UTF-16" if is_utf16 else f"the byte 0x{block[error.start]:02x} ({error.reason})",
        expected="UTF-8 text",
        fix=f"iconv -f {'UTF-16' if is_utf16 else 'WINDOWS-1252'} -t UTF-8 {shown_as} > utf8.txt"
        + ("" if is_utf16 else " (with the encoding the file really has)"),
    )


# ---- tables


def _table(chunks: Iterator[str], shown_as: str) -> Numbered:
    # The default limit of 131,072 characters to a cell is shorter than a long document.
    csv.field_size_limit(2**31 - 1)
    lines = lines_of(chunks)
    heading = next(lines, "")
    delimiter = max(",;\t", key=heading.count)
    rows = csv.reader(itertools.chain([heading], lines), delimiter=delimiter, strict=True)
    names: list[str] = []
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _broken_table(shown_as, rows.line_num, str(error)) from error
        if row is None:
            return
        if not row:
            continue
        if not names:
            names = row
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated or "" in names:
                problem = f"the column '{repeated[0]}' twice" if repeated else "a column without a name"
                raise _broken_table(shown_as, rows.line_num, problem)
            continue
        number += 1
        if len(row) != len(names):
            raise _broken_table(shown_as, rows.line_num, f"{len(row)} cells under {len(names)} column names")
        yield number, dict(zip(names, row, strict=True))


def _broken_table(shown_as: str, line: int, found: str) -> UserError:
    return UserError(
        "broken CSV",
        where=f"{shown_as}, line {line:,}",
        found=found,
        expected="a first line of column names, then as many cells in every row, quoted where they hold a delimiter",
        fix=f"correct that line; to see it: {show_command(shown_as)} | sed -n {line}p",
    )


# ---- Parquet


def _parquet(chunks: Iterator[bytes], path: str, shown_as: str) -> Numbered:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with open(path, "rb") as plain, tempfile.TemporaryFile() as unzipped:
        stream: IO[bytes] = plain
        if plain.read(2) == b"\x1f\x8b":
            # Parquet is read from its end, so a gzipped one has to be unzipped somewhere first.
            unzipped.writelines(chunks)
            stream = unzipped
        stream.seek(0)
        number = 0
        try:
            for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, without_nulls(row)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                "the Parquet file is damaged",
                where=f"{shown_as}, after record {number:,}",
                found=str(error).splitlines()[0],
                expected="a complete Parquet file with UTF-8 text",
                fix=f"write or fetch it again: ls -l {shown_as}",
            ) from error


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the nulls inside nested values of a columnar record.

    A column of structs has one set of fields for all rows, so a message without `name`, or a tool
    without some argument, comes back with an invented null that a chat template would print.
    """
    return {key: value if isinstance(value, str) else _pruned(value) for key, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    return value

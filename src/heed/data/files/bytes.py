"""The bytes of a file, unpacked where it is compressed, and the text that they spell."""

from __future__ import annotations

import bz2
import codecs
import gzip
import itertools
import lzma
import os
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any

from heed.errors import UserError, typed

CHUNK_BYTES = 1 << 20

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""how a file begins that git left in place of a large one"""


@dataclass(frozen=True, slots=True)
class Packing:
    """A way of compressing a file, told by its first bytes."""

    name: str
    suffix: str
    begins: bytes
    test_command: str
    """what tests such a file on the command line"""
    print_command: str
    """what prints its content"""


PACKINGS = (
    Packing("gzip", ".gz", b"\x1f\x8b", "gzip -t", "zcat"),
    Packing("zstd", ".zst", b"\x28\xb5\x2f\xfd", "zstd -t", "zstdcat"),
    Packing("bzip2", ".bz2", b"BZh", "bzip2 -t", "bzcat"),
    Packing("xz", ".xz", b"\xfd7zXZ\x00", "xz -t", "xzcat"),
    Packing("lz4", ".lz4", b"\x04\x22\x4d\x18", "lz4 -t", "lz4cat"),
)
PACKED_SUFFIXES = tuple(packing.suffix for packing in PACKINGS)

FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unzip {0}, or save the workbook as CSV UTF-8"),
    (b"\x89HDF", "an HDF5 file", "save it as Parquet: pandas.read_hdf({0!r}).to_parquet('data.parquet')"),
    (b"SQLite format 3", "an SQLite database", "save a table of it as CSV: sqlite3 -header -csv {0} 'SELECT ...'"),
    (b"ARROW1", "an Arrow file", "save it as Parquet: datasets.Dataset.from_file({0!r}).to_parquet('data.parquet')"),
)
"""(first bytes, what such a file is, what to type): files that are told by their content, whatever their suffix"""


def without_packing(path: str) -> str:
    """The path without a suffix that only says how it is compressed: `a.jsonl` for `a.jsonl.zst`."""
    return next((path[: -len(s)] for s in PACKED_SUFFIXES if path.lower().endswith(s)), path)


def show_command(shown_as: str) -> str:
    """What a user types to print the file, for the fix of an error."""
    command = next((p.print_command for p in PACKINGS if shown_as.lower().endswith(p.suffix)), "cat")
    return f"{command} {typed(shown_as)}"


def byte_chunks(path: str, shown_as: str) -> Generator[bytes, None, None]:
    """The file's bytes, unpacked if its first bytes say that it is compressed."""
    name, packing = typed(shown_as), None
    try:
        with open(path, "rb") as plain:
            head = plain.read(64)
            plain.seek(0)
            _refuse_foreign(head, shown_as)
            packing = next((p for p in PACKINGS if head.startswith(p.begins)), None)
            named = next((p for p in PACKINGS if path.lower().endswith(p.suffix)), None)
            if named is not None and packing is None and head:
                packing = named
                raise EOFError(f"it does not begin as a {named.name} file does")
            size = 0
            with closing(_unpacked(plain, packing)) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    if size == 0:
                        _refuse_foreign(chunk, shown_as)
                    size += len(chunk)
                    yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if packing is not None and not (isinstance(error, OSError) and error.errno):
            raise UserError(
                f"the {packing.name} file is damaged",
                where=shown_as,
                found=str(error),
                expected=f"a complete {packing.name} file",
                fix=f"fetch it again and test it with: {packing.test_command} {name}",
            ) from error
        raise UserError(
            "the file cannot be read",
            where=shown_as,
            found=(isinstance(error, OSError) and error.strerror) or str(error),
            expected="a file that you may read",
            fix=f"ls -l {name}",
        ) from error
    if size == 0:
        raise UserError(
            "the file is empty",
            where=shown_as,
            found="0 bytes",
            expected="at least one record",
            fix=f"write the file again, then: ls -l {name}",
        )


def _unpacked(plain: IO[bytes], packing: Packing | None) -> Any:
    if packing is None:
        return plain
    if packing.name == "gzip":
        return gzip.GzipFile(fileobj=plain)
    if packing.name == "bzip2":
        return bz2.BZ2File(plain)
    if packing.name == "xz":
        return lzma.LZMAFile(plain)
    # Imported late: only these two ways of compressing need it.
    import pyarrow  # type: ignore[import-untyped]

    return pyarrow.CompressedInputStream(plain, packing.name)


def _refuse_foreign(head: bytes, shown_as: str) -> None:
    if head.startswith(LFS_POINTER):
        folder = typed(os.path.dirname(shown_as) or ".")
        raise UserError(
            "this is a Git LFS pointer, not the file itself",
            where=shown_as,
            found="a few lines that say where git keeps the file",
            expected="the data",
            fix=f"cd {folder} && git lfs install && git lfs pull",
        )
    for begins, kind, fix in FOREIGN:
        if head.startswith(begins):
            raise UserError(
                "this kind of file is not read",
                where=shown_as,
                found=kind,
                expected="JSON, JSON lines, CSV, TSV, Parquet or plain text, compressed or not",
                fix=fix.format(shown_as),
            )


UTF_16 = "texts in UTF-16, as Excel writes them: read as what they say"


def decoded(chunks: Iterable[bytes], shown_as: str, notes: Counter[str] | None = None) -> Iterator[str]:
    """The text of the bytes, without a byte order mark; a wrong byte is named by offset and line.

    UTF-8, or UTF-16 where a byte order mark says so, which is noted.
    """
    stream = iter(chunks)
    head = next(stream, b"")
    stream = itertools.chain([head], stream)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if notes is not None:
            notes[UTF_16] += 1
        yield from _of_utf_16(stream, shown_as)
        return
    yield from _of_utf_8(stream, shown_as)


def _of_utf_16(chunks: Iterator[bytes], shown_as: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-16")()
    offset, line = 0, 1
    for chunk in itertools.chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise UserError(
                "the text is not UTF-16, although it begins so",
                where=f"{shown_as}, line {line:,}, byte offset {offset + error.start:,}",
                found=error.reason,
                expected="UTF-8 text, or UTF-16 throughout",
                fix="write the file again as UTF-8 (in Excel: CSV UTF-8)",
            ) from error
        offset += len(chunk)
        line += text.count("\n")
        if text:
            yield text


def _of_utf_8(chunks: Iterator[bytes], shown_as: str) -> Iterator[str]:
    rest, offset, line, at_start = b"", 0, 1, True
    for chunk in itertools.chain(chunks, [b""]):
        block = rest + chunk
        try:
            text, rest = block.decode(), b""
        except UnicodeDecodeError as error:
            cut_by_chunk = chunk and error.reason == "unexpected end of data" and error.end == len(block)
            if not cut_by_chunk:
                raise _not_utf_8(block, error, offset, line, shown_as) from error
            text, rest = block[: error.start].decode(), block[error.start :]
        offset += len(block) - len(rest)
        line += text.count("\n")
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        if text:
            yield text


def _not_utf_8(block: bytes, error: UnicodeDecodeError, offset: int, line: int, shown_as: str) -> UserError:
    line += block.count(b"\n", 0, error.start)
    return UserError(
        "the text is not UTF-8",
        where=f"{shown_as}, line {line:,}, byte offset {offset + error.start:,}",
        found=f"the byte 0x{block[error.start]:02x} ({error.reason})",
        expected="UTF-8 text",
        fix=f"iconv -f WINDOWS-1252 -t UTF-8 {typed(shown_as)} > utf8{os.path.splitext(shown_as)[1]} "
        "(with the encoding the file really has)",
    )

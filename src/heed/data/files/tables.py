"""Tables as spreadsheets and scripts write them: CSV, TSV and Parquet, row by row as records."""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Literal

from heed.data.files.bytes import show_command
from heed.data.files.json_stream import Numbered, lines_of
from heed.errors import UserError, typed

Quoting = Literal[0, 1, 2, 3]
SAMPLE_LINES = 1_000
"""lines of a TSV that tell whether its quotation marks are text or wrap cells"""

NAMELESS = "columns without a name left out, as pandas writes its index and some tools a last delimiter"
SPREADSHEET_LINE = "first lines of the kind sep=; obeyed"
QUOTES = "tables whose quotation marks are taken as text, for some wrap no cell"


def read_table(chunks: Iterator[str], shown_as: str, notes: Counter[str]) -> Numbered:
    """The rows of a CSV or TSV; the first line names the columns.

    Delimited by whichever of `,` `;` `|` and tab stands most often in the first line, or by what a line `sep=;` says.
    A column without a name is left out. In a TSV quotation marks wrap cells if the first lines, read like that, have as
    many cells as there are columns; else they are text.
    """
    # The default limit of 131,072 characters to a cell is shorter than a long document.
    csv.field_size_limit(2**31 - 1)
    lines = lines_of(chunks)
    heading, num_before = next(lines, ""), 0
    said = heading.strip().lower()
    delimiter = max(",;\t|", key=heading.count)
    if said.startswith("sep=") and len(said) <= 5:
        delimiter = said[4:] or "\t"  # a tab at the end of the line was stripped with it
        notes[SPREADSHEET_LINE] += 1
        heading, num_before = next(lines, ""), 1
    quoting: Quoting = csv.QUOTE_MINIMAL
    if delimiter == "\t":
        sample = [heading, *itertools.islice(lines, SAMPLE_LINES)]
        lines = itertools.chain(sample[1:], lines)
        if not _are_cells_wrapped(sample):
            quoting = csv.QUOTE_NONE
            notes[QUOTES] += 1
    rows = csv.reader(itertools.chain([heading], lines), delimiter=delimiter, strict=True, quoting=quoting)
    yield from _records(rows, num_before, shown_as, notes)


def _are_cells_wrapped(lines: Sequence[str]) -> bool:
    """Whether the rows of a TSV have as many cells as its heading, where quotation marks wrap cells as in a CSV."""
    counts = []
    try:
        for row in csv.reader(lines, delimiter="\t", strict=True):
            counts.append(len(row))
    except csv.Error:
        # The last row of a sample may be cut inside a cell; then every row before it has to fit.
        if len(lines) <= SAMPLE_LINES or len(counts) < 2:
            return False
    return all(count in (0, counts[0]) for count in counts)


def _records(rows: Any, num_before: int, shown_as: str, notes: Counter[str]) -> Numbered:
    names: list[str] = []
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _broken_table(shown_as, num_before + rows.line_num, str(error)) from error
        if row is None:
            return
        if not row:
            continue
        line = num_before + rows.line_num
        if not names:
            names = row
            _refuse_names(names, line, shown_as)
            if "" in names:
                notes[NAMELESS] += names.count("")
            continue
        number += 1
        if len(row) > len(names) and not any(row[len(names) :]):
            row = row[: len(names)]
        if len(row) != len(names):
            raise _broken_table(shown_as, line, f"{len(row)} cells under {len(names)} column names")
        yield number, {name: cell for name, cell in zip(names, row, strict=True) if name}


def _refuse_names(names: Sequence[str], line: int, shown_as: str) -> None:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise _broken_table(shown_as, line, f"the column '{repeated[0]}' twice")
    if not any(names):
        raise _broken_table(shown_as, line, "no column with a name")


def _broken_table(shown_as: str, line: int, found: str) -> UserError:
    return UserError(
        "broken CSV",
        where=f"{shown_as}, line {line:,}",
        found=found,
        expected="a first line of column names, then as many cells in every row, quoted where they hold a delimiter",
        fix=f"correct that line; to see it: {show_command(shown_as)} | sed -n {line}p",
    )


# ---- Parquet


def read_parquet(chunks: Iterator[bytes], path: str, shown_as: str) -> Numbered:
    """The rows of a Parquet file, a batch of them in memory at a time."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with open(path, "rb") as plain, tempfile.TemporaryFile() as unpacked:
        stream: IO[bytes] = plain
        if plain.read(4) != b"PAR1":
            # Parquet is read from its end, so a compressed one has to be unpacked somewhere first.
            unpacked.writelines(chunks)
            stream = unpacked
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
                fix=f"write or fetch it again: ls -l {typed(shown_as)}",
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

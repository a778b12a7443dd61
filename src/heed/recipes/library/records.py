"""Data that a program holds in memory, as a file that a run can name, repeat and resume from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heed import files
from heed.errors import UserError

NAME_LENGTH = 16
"""hexadecimal digits of the content's SHA-256 in a file's name"""


def write_records(records: Iterable[Any], folder: Path) -> Path:
    """Records as JSON lines in `folder`, under a name made of their content; what is there already stays.

    The same records have the same name, so that a run that is started again with them is the same run, and with
    others another one.

    Raises:
        UserError: a record is no mapping, or holds what JSON cannot say.
    """
    content = hashlib.sha256()
    files.make_folder(folder)
    lines = []
    for number, record in enumerate(records, 1):
        line = _line(record, number)
        content.update(line.encode())
        lines.append(line)
    target = folder / f"{content.hexdigest()[:NAME_LENGTH]}.jsonl"
    if not target.exists():
        files.write_text(target, "".join(lines))
    return target


def _line(record: Any, number: int) -> str:
    if not isinstance(record, Mapping):
        raise UserError(
            "a record is no mapping",
            where=f"data, record {number:,}",
            found=f"{type(record).__name__}: {str(record)[:60]!r}",
            expected='a mapping such as {"instruction": "...", "output": "..."}',
            fix="data=[{...}, {...}], a datasets.Dataset, or the path of a file",
        )
    try:
        line = json.dumps(dict(record), ensure_ascii=False, default=_plain) + "\n"
        line.encode()  # a lone surrogate is no text
        return line
    except (TypeError, ValueError) as error:
        raise UserError(
            "a record holds what a data file cannot",
            where=f"data, record {number:,}",
            found=str(error),
            expected="texts, numbers, truth values, lists and mappings",
            fix="leave that field out, or write it as text",
        ) from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")

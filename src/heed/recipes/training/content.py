"""The content of what a run's settings name, as fingerprints: a run is what it names, wherever that lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from heed import files
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer
from heed.errors import UserError

CONTENT = "content.json"
"""beside prepared data: every file it was read from, as [name, SHA-256, path, size, time of change in ns]"""


def words_content(template: ChatTemplate, tokenizer: Tokenizer) -> dict[str, str]:
    """What decides which tokens a text becomes."""
    templates = json.dumps([template.source, *sorted(map(list, template.alternatives))], ensure_ascii=False)
    return {"chat template": _sha256(templates.encode()), "tokenizer": _sha256(tokenizer.backend.to_str().encode())}


def data_content(paths: Sequence[Path], prepared: Path) -> list[list[str | int]]:
    """The content of files, in the form of `CONTENT`.

    A file that the prepared data knows, and that has its size and time of change still, is not read again.
    """
    known = {(path, size, changed): mark for _, mark, path, size, changed in known_content(prepared) or []}
    found: list[list[str | int]] = []
    for path in paths:
        stat, place = path.stat(), str(path.absolute())
        mark = known.get((place, stat.st_size, stat.st_mtime_ns)) or _sha256_of_file(path)
        found.append([path.name, mark, place, stat.st_size, stat.st_mtime_ns])
    return found


def known_content(prepared: Path) -> list[list[str | int]] | None:
    """What was written beside prepared data; None where nothing was."""
    try:
        found: list[list[str | int]] = json.loads((prepared / CONTENT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def refuse_other_content(source: str, now: list[list[str | int]], before: list[list[str | int]] | None) -> None:
    """Raise if data has another content than that from which a run began: it would be two runs in one folder."""
    if before is None or [each[:2] for each in now] == [each[:2] for each in before]:
        return
    marks = {str(name): mark for name, mark, *_ in before}
    other = [str(name) for name, mark, *_ in now if marks.get(str(name)) != mark] or sorted(
        marks.keys() - {str(each[0]) for each in now}
    )
    raise UserError(
        "the data has changed since this run began",
        where=source,
        found=f"another content in {', '.join(other[:3])}"
        + (f" and {len(other) - 3:,} more" if len(other) > 3 else ""),
        expected="the files as they were",
        fix="put them back as they were, or start a new run with another --out",
    )


def write_content(prepared: Path, content: list[list[str | int]]) -> None:
    """Keep the content beside the data that was prepared from it."""
    files.write_json(prepared / CONTENT, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

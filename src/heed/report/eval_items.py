"""The items that `heed eval` kept: as much of each as pictures need, and whole those that a page shows."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heed.report.eval_results import EvalModel, EvalTask
from heed.report.read import unreadable

ITEMS = "items.jsonl"
TRUTH = "is_right"
"""in a verdict: whether the answer is right whose confidence is told"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What pictures need of one item."""

    id: str
    value: float
    """by the task's primary measure; NaN where it has none of its own"""
    is_right: bool | None
    """whether its answer is right; None where nobody says so"""
    confidence: float
    """that the model gave its answer; NaN where it gave none"""
    strangeness: float
    """the p-value of its prompt among those that the model was tuned on; NaN where no detector was there"""
    chosen: int | None
    """index of the option it took; None where there was none to take"""
    cluster: str | None
    start: int
    """where its line begins in the file, in bytes"""


@dataclass(frozen=True, slots=True)
class KeptItems:
    """The items of one model on one task."""

    path: Path
    items: tuple[Kept, ...]
    is_torn: bool
    """whether the last line was cut short by a kill, and is left out"""

    def lines(self, chosen: Sequence[Kept]) -> list[Mapping[str, Any]]:
        """The whole lines of some of them."""
        if not chosen:
            return []
        with self.path.open("rb") as file:
            found = []
            for each in chosen:
                file.seek(each.start)
                found.append(json.loads(file.readline()))
        return found


def kept_items(run: Path, model: EvalModel, number: int, task: EvalTask) -> KeptItems | None:
    """What the run's folder keeps of a model on a task; None where it keeps nothing.

    Raises:
        UserError: a line cannot be read.
    """
    path = items_path(run, model, number, task.name)
    if path is None:
        return None
    items: list[Kept] = []
    is_torn = False
    for count, (start, line) in enumerate(_numbered(path), 1):
        if not line.endswith(b"\n"):
            is_torn = True
            break
        try:
            items.append(_kept(json.loads(line), task.primary, start))
        except KeyError as error:
            raise unreadable(path, f"line {count:,}: nothing called {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise unreadable(path, f"line {count:,}: {error}") from error
    return KeptItems(path, tuple(items), is_torn)


def items_path(run: Path, model: EvalModel, number: int, task: str) -> Path | None:
    """The file of a model's items on a task; nothing outside the run's folder is looked at."""
    words = re.sub(r"[^\w.-]+", "-", model.name.rstrip("/").replace("/", "-")).strip("-.")
    for folder in filter(None, (model.folder, f"{number + 1}-{words[-60:]}", words, str(number + 1))):
        path = run / folder / task / ITEMS
        if path.is_file() and path.resolve().is_relative_to(run.resolve()):
            return path
    return None


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    start = 0
    with path.open("rb") as file:
        for line in file:
            yield start, line
            start += len(line)


def _kept(line: Mapping[str, Any], primary: str, start: int) -> Kept:
    verdict = line.get("verdict") or {}
    truth = _number(verdict.get(TRUTH))
    value = _number(verdict.get(primary))
    if math.isnan(value):
        value = truth
    cluster, chosen = line.get("cluster"), line.get("chosen")
    return Kept(
        id=str(line["id"]),
        value=value,
        is_right=None if math.isnan(truth) else bool(truth),
        confidence=_number(line.get("confidence")),
        strangeness=_number(line.get("p_strange")),
        chosen=None if chosen is None else int(chosen),
        cluster=None if cluster is None else str(cluster),
        start=start,
    )


def _number(value: Any) -> float:
    """A number, or a truth value as 0 or 1; NaN for anything else, which is no number for a picture."""
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("inf", "-inf") else math.nan


def by_hash(items: Sequence[Kept], count: int) -> list[Kept]:
    """So many of the items, chosen by what they say and not by where they stand."""
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode("utf-8", "replace")).digest())[:count]

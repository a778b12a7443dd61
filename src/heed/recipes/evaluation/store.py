"""`items.jsonl`: every item with what was asked, what came back and its verdict, kept as soon as it is known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heed import files
from heed.errors import UserError, typed
from heed.evaluate.items import Generated, Outcome, Scored, TokenLikelihoods
from heed.recipes.evaluation.ask import Question

ITEMS, ASKED, MEASURED = "items.jsonl", "asked.json", "measured.json"
"""the items, and what decides their outcomes: another model or other examples do not go into one file"""


@dataclass(frozen=True)
class Store:
    """The items of one model on one task."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any]) -> Store:
        """The folder, made where it is not there.

        Raises:
            UserError: what is kept there was asked otherwise.
        """
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        place = folder / ASKED
        if place.exists():
            before = json.loads(place.read_text(encoding="utf-8"))
            other = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
            if other:
                raise UserError(
                    "these results were measured otherwise",
                    where=str(folder),
                    found="another " + ", another ".join(other),
                    expected=f"{other[0]}: {before.get(other[0])}; now it is {asked.get(other[0])}",
                    fix="a folder of its own: --out FOLDER",
                )
        else:
            files.write_json(place, dict(asked))
        store = cls(folder)
        store.drop_half_written()
        return store

    def say_measured(self, ids: Sequence[str]) -> None:
        """Note which of the kept items the results are made from; an earlier run may have asked more."""
        files.write_json(self.folder / MEASURED, list(ids))

    def drop_half_written(self) -> None:
        """Cut off a last line that a killed process did not finish."""
        path = self.folder / ITEMS
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            files.write_bytes(path, content[:whole])

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep items; one that is kept is not asked again."""
        if lines:
            text = "\n".join(json.dumps(plain(line), ensure_ascii=False, allow_nan=False) for line in lines)
            files.append_line(self.folder / ITEMS, text.encode("utf-8", "replace").decode())

    def rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Keep these items in place of all others."""
        text = "".join(f"{json.dumps(plain(line), ensure_ascii=False, allow_nan=False)}\n" for line in lines)
        files.write_bytes(self.folder / ITEMS, text.encode("utf-8", "replace"))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every item that is kept."""
        path = self.folder / ITEMS
        if path.exists():
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise UserError(
                            "a kept item cannot be read",
                            where=f"{path}, line {number:,}",
                            found=str(error),
                            expected="the items as heed eval keeps them, one JSON object per line",
                            fix=f"remove that line, and its item is asked again: sed -i {number}d {typed(path)}",
                        ) from None


def plain(value: Any) -> Any:
    """The value as JSON holds it: a number that is not finite is its name, for JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def line_of(question: Question, outcomes: Sequence[Outcome], scored: Scored) -> dict[str, Any]:
    """An item as `items.jsonl` keeps it."""
    item = question.item
    first = question.requests[0][0]
    line: dict[str, Any] = {
        "id": item.id,
        "record": item.origin.record,
        "path": item.origin.path,
        "cluster": item.cluster,
        "groups": dict(item.groups),
        "labels": list(item.labels),
        "right": list(item.right),
        "shots": [each.id for each in question.examples],
        "prompt": first.prompt,
        "num_bos": first.num_bos,
    }
    options = [
        {
            "context": parts[0].prompt,
            "text": parts[0].continuation,
            "ids": list(outcome.ids),
            "logp": outcome.logp.tolist(),
            "is_greedy": outcome.is_greedy,
        }
        for parts, outcome in zip(question.requests, outcomes, strict=True)
        if isinstance(outcome, TokenLikelihoods)
    ]
    if options:
        line["options"] = options
    for outcome in outcomes:
        if isinstance(outcome, Generated):
            line |= {
                "answer": outcome.text,
                "answer_ids": list(outcome.ids),
                "answer_logp": outcome.logp.tolist(),
                "is_cut": outcome.is_cut,
                "extracted": scored.extracted,
            }
    return {
        **line,
        "chosen": scored.chosen,
        "confidence": scored.confidence,
        "verdict": dict(scored.verdict),
        "fields": dict(item.record),
    }


def scored_of(line: Mapping[str, Any]) -> Scored:
    """What measures read of a kept item."""
    return Scored(
        line["id"],
        {key: value for key, value in line["verdict"].items() if value not in ("nan", "inf", "-inf")},
        line["fields"],
        tuple(line["right"]),
        tuple(line["labels"]),
        chosen=line["chosen"],
        answer=line.get("answer"),
        extracted=line.get("extracted"),
        confidence=line["confidence"],
        cluster=line["cluster"],
        groups=line["groups"],
    )


def folder_name(name: str, number: int) -> str:
    """What the folder of a model's results is called: its number, and as much of its name as a file name may hold."""
    words = re.sub(r"[^\w.-]+", "-", name.rstrip("/").replace("/", "-")).strip("-.")
    return f"{number + 1}-{words[-60:]}" if words else str(number + 1)

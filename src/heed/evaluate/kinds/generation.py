"""Generation: what does the model answer, and what does a checker say of it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from heed.evaluate.checkers import Checker, is_users, open_checker
from heed.evaluate.items import Generated, Generation, Item, Outcome, Scored
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import Task
from heed.types import Finding

PROBLEM = "problem"
"""key of a verdict that says why the checker could not judge the answer"""


def item_of(reading: Reading) -> Item | Finding:
    """One request: an answer to the prompt."""
    shape = reading.shape
    assert shape is not None
    context = reading.text(shape.context)
    if not context.strip():
        return reading.finding("a prompt is empty", repr(context))
    value = reading.say(shape.right)
    right = (str(value),) if isinstance(value, str | int | float) else tuple(map(str, reading.texts(shape.right)))
    shot = (context, right[0]) if right else None
    return reading.item((Generation(context),), right, shot=shot)


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """What the checker says of an answer. `confidence` is exp of the mean log p of its tokens, the stop token too."""
    [found] = outcomes
    assert isinstance(found, Generated)
    checked = opened(task.generation.checker)(found.text, item.record, tuple(map(str, item.right)))
    verdict: dict[str, float | bool | str | None] = {**checked.verdict, "is_cut": found.is_cut}
    if checked.problem:
        verdict[PROBLEM] = checked.problem
    if "is_right" not in verdict and isinstance(truth := verdict.get(task.primary), bool | int):
        verdict["is_right"] = bool(truth)
    confidence = float(np.exp(found.logp.mean())) if len(found.logp) and np.isfinite(found.logp).all() else None
    return Scored(
        item.id,
        verdict,
        item.record,
        item.right,
        answer=found.text,
        extracted=checked.extracted,
        confidence=confidence,
        cluster=item.cluster,
        groups=item.groups,
    )


def opened(name: str) -> Checker:
    """The checker of that name; a user's file is run once, and again when it has changed."""
    file = Path(name.rpartition(":")[0])
    return _opened(name, file.stat().st_mtime_ns if is_users(name) and file.is_file() else 0)


@lru_cache(maxsize=32)
def _opened(name: str, changed: int) -> Checker:
    return open_checker(name)


Verdict = Mapping[str, float | bool | str | None]

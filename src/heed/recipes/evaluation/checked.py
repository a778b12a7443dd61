"""Answers that a user's checker judges: judged again as its file may have changed, and counted where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heed.evaluate.checkers import is_users
from heed.evaluate.items import Generated, Item, Scored
from heed.evaluate.kinds import scored
from heed.evaluate.kinds.generation import PROBLEM, opened
from heed.evaluate.task import Task
from heed.recipes.evaluation.ask import LeftOut, Question
from heed.recipes.evaluation.store import Store, plain


def open_first(task: Task) -> None:
    """Open the task's checker, so that a mistake in it is told before a model is loaded."""
    if task.kind == "generation":
        opened(task.generation.checker)


def check_again(task: Task, questions: Sequence[Question], store: Store) -> None:
    """Judge the answers that are kept once more, and keep the verdicts that are others now.

    Only where the checker is a function of the user's: a repaired one needs no answer to be generated again.
    """
    if task.kind != "generation" or not is_users(task.generation.checker):
        return
    items = {question.item.id: question.item for question in questions}
    before = list(store.lines())
    after = [_again(task, items[line["id"]], line) if line["id"] in items else line for line in before]
    if after != before:
        store.rewrite(after)


def checked_ones(questions: Sequence[Question], found: Sequence[Scored]) -> tuple[list[Scored], list[LeftOut]]:
    """The items that the checker could judge, and those at which it failed, with its reason."""
    failed = [
        LeftOut(question.item, str(one.verdict[PROBLEM]), repr(one.answer))
        for question, one in zip(questions, found, strict=True)
        if PROBLEM in one.verdict
    ]
    return [one for one in found if PROBLEM not in one.verdict], failed


def _again(task: Task, item: Item, line: Mapping[str, Any]) -> dict[str, Any]:
    logp = np.array([float(value) for value in line["answer_logp"]])
    answer = Generated(line["answer"], tuple(line["answer_ids"]), logp, line["is_cut"])
    found = scored(task, item, [answer])
    again: dict[str, Any] = plain({**line, "extracted": found.extracted, "verdict": dict(found.verdict)})
    return again

"""Cloze: how well does the model know how a text goes on?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from heed.evaluate.items import Item, Likelihood, Outcome, Scored, TokenLikelihoods
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import Task
from heed.types import Finding


def item_of(reading: Reading) -> Item | Finding:
    """One request: the continuation after its context."""
    shape = reading.shape
    assert shape is not None
    context, continuation = reading.text(shape.context), reading.text(shape.continuation)
    if not continuation.strip():
        return reading.finding("the continuation is empty", repr(continuation))
    return reading.item((Likelihood(context, continuation),), (continuation,), shot=(context, continuation))


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """`acc`: whether greedy decoding would have written it; `log_likelihood`, in nats, with what it is divided by."""
    [found] = outcomes
    assert isinstance(found, TokenLikelihoods)
    continuation = str(item.right[0])
    finite = math.isfinite(found.total)
    verdict: dict[str, float | bool | str | None] = {
        "acc": found.is_greedy if finite else None,
        "is_right": found.is_greedy if finite else None,
        "log_likelihood": found.total if finite else None,
        "num_tokens": len(found.ids),
        "num_words": len(continuation.split()),
        "num_bytes": len(continuation.encode()),
    }
    confidence = math.exp(found.total) if finite and found.is_greedy else None
    return Scored(
        item.id, verdict, item.record, item.right, confidence=confidence, cluster=item.cluster, groups=item.groups
    )

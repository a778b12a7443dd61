"""Plain text: how well does the model predict all of it?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from heed.evaluate.items import Item, Outcome, Rolling, Scored, TokenLikelihoods
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import Task
from heed.types import Finding


def item_of(reading: Reading) -> Item | Finding:
    """One request: every token of the document."""
    shape = reading.shape
    assert shape is not None
    text = reading.text(shape.text)
    if not text.strip():
        return reading.finding("a document is empty", repr(text[:40]))
    return reading.item((Rolling(text),), ())


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """`log_likelihood` of the document, in nats, and the words and bytes it is divided by.

    Words are counted as lm-evaluation-harness does, len(re.split(r"\\s+", text)): white space at an end adds one.
    """
    [found], [request] = outcomes, item.requests
    assert isinstance(found, TokenLikelihoods)
    assert isinstance(request, Rolling)
    verdict: dict[str, float | bool | str | None] = {
        "log_likelihood": found.total if math.isfinite(found.total) else None,
        "num_tokens": len(found.ids),
        "num_words": len(re.split(r"\s+", request.text)),
        "num_bytes": len(request.text.encode()),
    }
    return Scored(item.id, verdict, item.record, cluster=item.cluster, groups=item.groups)

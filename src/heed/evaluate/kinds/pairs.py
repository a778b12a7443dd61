"""Pairs: of texts that differ in one respect, which does the model find likelier? No one of them is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heed.evaluate.items import Item, Likelihood, Outcome, Scored, TokenLikelihoods
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import Task
from heed.types import Finding


def item_of(reading: Reading) -> Item | Finding:
    """One request for each text: whole sentences after nothing but BOS, or continuations of one context."""
    shape = reading.shape
    assert shape is not None
    if shape.sentences is not None:
        texts = reading.texts(shape.sentences)
        context = ""
    else:
        texts, context = reading.texts(shape.options), reading.text(shape.context)
    labels = tuple(reading.texts(shape.labels))
    if len(texts) < 2 or len(labels) != len(texts):
        return reading.finding("texts to compare are not told apart", f"{len(texts)} texts, {len(labels)} labels")
    if len(set(texts)) < len(texts):
        return reading.finding("two texts to compare are the same", repr(texts[0])[:200])
    if any(not text.strip() for text in texts):
        return reading.finding("a text to compare is empty", repr(texts))
    return reading.item(tuple(Likelihood(context, text) for text in texts), (), labels=labels)


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """log P of each text under its label (`logp_LABEL`), its mean by token too, and which is likeliest (`chosen`)."""
    found = [outcome for outcome in outcomes if isinstance(outcome, TokenLikelihoods)]
    total = np.array([each.total for each in found])
    finite = bool(np.isfinite(total).all())
    verdict: dict[str, float | bool | str | None] = {}
    for label, each in zip(item.labels, found, strict=True):
        verdict[f"logp_{label}"] = each.total if finite else None
        verdict[f"logp_per_token_{label}"] = each.total / len(each.ids) if finite else None
    chosen = int(np.argmax(total)) if finite else None
    return Scored(
        item.id,
        verdict,
        item.record,
        (),
        item.labels,
        chosen=chosen,
        cluster=item.cluster,
        groups=item.groups,
    )

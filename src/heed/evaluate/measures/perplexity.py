"""How well a model predicts texts, per word, byte, token or item, with intervals between documents.

With LL_d the log-likelihood of document d in nats, N_d its number of units, and r = sum -LL_d / sum N_d,

    word_perplexity   exp(r), words: parts between white space     byte_perplexity   exp(r), bytes of UTF-8
    token_perplexity  exp(r), the model's tokens                   bits_per_byte     r / ln 2, bytes
    perplexity        exp(r), N_d = 1: LAMBADA's, whose units are whole last words

Tokens of models with different vocabularies are different units: compare `bits_per_byte` or `word_perplexity`.
r is a ratio of two sums over documents, and its interval Student's, linearised, on r itself: exp carries the bounds
over, so that they are above 0 and not symmetric.

Source: the names and formulas of lm-evaluation-harness 0.4.13, `lm_eval/api/metrics.py` and `tasks/lambada`.
Differs from the source: `token_perplexity` is not there. The interval is between documents in clusters; there it is a
    bootstrap, or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from heed.evaluate.clustered import clustered_ratio
from heed.evaluate.grouped import by_group, clusters_of
from heed.evaluate.items import Figure, Scored, undefined


@dataclass(frozen=True, slots=True)
class Scale:
    """What a perplexity counts by."""

    unit_key: str | None
    """the verdict's number of units; None: each item is one"""
    unit: str
    of_nats: Callable[[float], float]
    """what it makes of nats per unit"""


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 709 else math.inf


SCALES = {
    "word_perplexity": Scale("num_words", "perplexity", _exp),
    "byte_perplexity": Scale("num_bytes", "perplexity", _exp),
    "token_perplexity": Scale("num_tokens", "perplexity", _exp),
    "perplexity": Scale(None, "perplexity", _exp),
    "bits_per_byte": Scale("num_bytes", "bits", lambda nats: nats / math.log(2)),
}


def perplexity(measure: str, items: Sequence[Scored]) -> list[Figure]:
    """One of the measures above, of all items and of each group.

    Args:
        measure: a key of `SCALES`.
        items: verdicts with `log_likelihood` in nats and the number of units. Items for which either is None take no
            part and are counted in `why`; a log-likelihood that is not finite makes the figure undefined.
    """
    return by_group(items, partial(_figure, measure, SCALES[measure]))


PERPLEXITIES = {name: partial(perplexity, name) for name in SCALES}


def _figure(measure: str, scale: Scale, items: Sequence[Scored]) -> Figure:
    known = [pair for item in items if (pair := _of_item(item, scale)) is not None]
    num_left_out = len(items) - len(known)
    why = f"{num_left_out:,} of {len(items):,} items have no log-likelihood or no length" if num_left_out else ""
    if not known:
        return undefined(measure, why or "there are no items", unit=scale.unit)
    num_strange = sum(not math.isfinite(nats) for nats, _ in known)
    if num_strange:
        why = f"{num_strange:,} of {len(known):,} items have a log-likelihood that is not finite"
        return undefined(measure, why, count=len(known), unit=scale.unit)
    if not any(size for _, size in known):
        return undefined(measure, "the texts are empty", count=len(known), unit=scale.unit)
    clusters = clusters_of([item for item in items if _of_item(item, scale) is not None])
    sums = [math.fsum(known[index][0] for index in members) for members in clusters]
    sizes = [math.fsum(known[index][1] for index in members) for members in clusters]
    value = scale.of_nats(math.fsum(sums) / math.fsum(sizes))
    if not math.isfinite(value):
        return undefined(measure, "it is larger than a number can be", count=len(known), unit=scale.unit)
    if len(clusters) < 2:
        why = "; ".join(filter(None, [why, "one document has no spread between documents, so there is no interval"]))
        return Figure(measure, value, None, None, len(known), scale.unit, None, why)
    found = clustered_ratio(sums, sizes)
    low, high = scale.of_nats(found.low), scale.of_nats(found.high)
    if not math.isfinite(high):
        why = "; ".join(filter(None, [why, "the interval is open above: its end is larger than a number can be"]))
    return Figure(measure, value, low, high if math.isfinite(high) else None, len(known), scale.unit, None, why)


def _of_item(item: Scored, scale: Scale) -> tuple[float, float] | None:
    """-LL and the number of units; None where the item has one of them not."""
    nats = item.verdict.get("log_likelihood")
    size = 1.0 if scale.unit_key is None else item.verdict.get(scale.unit_key)
    if nats is None or size is None:
        return None
    return -float(nats), float(size)

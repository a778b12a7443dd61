"""Questions that nobody can answer among questions that have one: does the model tell them apart?

With TP the unanswerable questions on which the model abstains, FN those that it answers all the same, and FP the
answerable ones on which it abstains,

    abstention_recall      TP / (TP + FN)
    abstention_precision   TP / (TP + FP)
    abstention_f1          2 TP / (2 TP + FP + FN)

What the measures need of an item (a task of kind generation whose checker says `abstains`):
    right     the right answers; none where the question is unanswerable
    verdict   `abstains`, true or false; None, for an answer without a text, is no abstention

Recall and precision are shares of clustered questions. F1 is a ratio of two sums, its interval linearised, Student's,
between clusters and cut at 0 and 1; where F1 is 0 or 1 that has no width, and it is F1 of the bounds of the two shares.

Source: Yin et al. 2023, "Do large language models know what they don't know?", arXiv:2305.18153 (SelfAware).
Differs from the source: there an answer is an abstention if it is similar to one of 16 sentences; here by rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from heed.evaluate.clustered import clustered_accuracy, clustered_ratio
from heed.evaluate.grouped import in_clusters
from heed.evaluate.items import Figure, Scored, undefined

RECALL, PRECISION, F1 = "abstention_recall", "abstention_precision", "abstention_f1"


def recall(items: Sequence[Scored]) -> list[Figure]:
    """The share of unanswerable questions on which the model abstains."""
    asked = [item for item in items if not item.right]
    if not asked:
        return [undefined(RECALL, "no question is unanswerable")]
    return [_share(RECALL, asked, [_abstains(item) for item in asked])]


def precision(items: Sequence[Scored]) -> list[Figure]:
    """The share of the model's abstentions that are on unanswerable questions."""
    abstained = [item for item in items if _abstains(item)]
    if not abstained:
        return [undefined(PRECISION, "the model abstains on no question")]
    return [_share(PRECISION, abstained, [not item.right for item in abstained])]


def f1(items: Sequence[Scored]) -> list[Figure]:
    """The harmonic mean of the two."""
    hits = [float(_abstains(item) and not item.right) for item in items]
    sizes = [float(_abstains(item)) + float(not item.right) for item in items]
    [found], [sure] = recall(items), precision(items)
    if found.value is None:
        return [undefined(F1, found.why, count=len(items))]
    value = 2 * sum(hits) / sum(sizes)
    if 0 < value < 1:
        ratio = clustered_ratio(
            [2 * sum(each) for each in in_clusters(items, hits)], [sum(each) for each in in_clusters(items, sizes)]
        )
        return [Figure(F1, value, max(ratio.low, 0.0), min(ratio.high, 1.0), len(items))]
    low, high = ((found.low, sure.low) if value else (0.0, 0.0)), (found.high, 1.0 if sure.high is None else sure.high)
    return [Figure(F1, value, _harmonic(*low), _harmonic(*high), len(items))]


def _share(measure: str, items: Sequence[Scored], hits: Sequence[bool]) -> Figure:
    share = clustered_accuracy(in_clusters(items, list(map(float, hits))))
    return Figure(measure, share.accuracy, share.low, share.high, share.count)


def _abstains(item: Scored) -> bool:
    return bool(item.verdict.get("abstains"))


def _harmonic(first: float | None, second: float | None) -> float:
    return 2 * first * second / (first + second) if first and second else 0.0


ABSTENTION = {RECALL: recall, PRECISION: precision, F1: f1}

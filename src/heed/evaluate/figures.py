"""From the scored items of a task to its figures, and from those of two models to their differences.

What interval a mean over items has:
    every value 0 or 1   Clopper and Pearson's on the effective number of independent items: at least 95% however few
    real values          Student's, linearised over clusters
Items that stand alone are clusters of one. Below two clusters there is a value and no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from heed.evaluate.clustered import clustered_mean, clustered_share
from heed.evaluate.comparison import (
    DifferenceRow,
    compare_means,
    compare_shares,
    compare_statistic,
    undefined_difference,
)
from heed.evaluate.grouped import by_group, clusters_of, in_clusters
from heed.evaluate.items import Figure, Scored, undefined
from heed.evaluate.measures import MEASURES

UNPARSED = "unparsed"


def figures(items: Sequence[Scored], measures: Sequence[str]) -> list[Figure]:
    """Every measure of a model on a task, of all items and of each group, and the share of answers not understood.

    Args:
        items: all of the task, in any order.
        measures: names in `MEASURES`, or keys of the verdicts, which are averaged.

    Returns:
        The measures in their order, each first over all items. Where answers were generated and something was to be
        read from them, a row `unparsed` is last: the share from which nothing could be. Whatever has no value is
        there too, and says why.
    """
    ordered = sorted(items, key=_id)  # sums of the same numbers in the same order, whatever the order of the items
    found = []
    for name in measures:
        if not ordered:
            found.append(undefined(name, "there are no items"))
        elif name in MEASURES:
            found += MEASURES[name](ordered)
        else:
            found += by_group(ordered, partial(_mean, name, _unit(name, ordered)))
    return found + _unparsed(ordered)


def differences(first: Sequence[Scored], second: Sequence[Scored], measure: str) -> DifferenceRow:
    """One measure of two models on the items that both have: the first's value minus the second's.

    Args:
        first, second: the items of each, paired by id. Those that only one has are counted in the row.
        measure: as for `figures`.

    Returns:
        The row without `p_holm`, which needs all rows: see `comparison.with_holm`.
    """
    of_second = {item.id: item for item in second}
    pairs = [(item, of_second[item.id]) for item in sorted(first, key=_id) if item.id in of_second]
    only_in_first, only_in_second = len(first) - len(pairs), len(second) - len(pairs)
    if not pairs:
        row = undefined_difference(measure, "the two models have no items in common")
    elif measure in MEASURES:
        row = _difference_of_measure(pairs, measure)
    else:
        row = _difference_of_means(pairs, measure)
    return replace(row, only_in_first=only_in_first, only_in_second=only_in_second)


def _difference_of_means(pairs: Sequence[tuple[Scored, Scored]], measure: str) -> DifferenceRow:
    known = [
        (one, x, y)
        for one, other in pairs
        if (x := _value(one, measure)) is not None and (y := _value(other, measure)) is not None
    ]
    without_value = len(pairs) - len(known)
    num_strange = sum(not (math.isfinite(x) and math.isfinite(y)) for _, x, y in known)
    if not known or num_strange:
        why = "no item has a value for both models"
        if num_strange:
            why = f"{num_strange:,} of {len(known):,} items have a value that is not finite"
        return replace(undefined_difference(measure, why, count=len(known)), without_value=without_value)
    items = [item for item, _, _ in known]
    first, second = in_clusters(items, [x for _, x, _ in known]), in_clusters(items, [y for _, _, y in known])
    is_share = all(value in (0, 1) for each in (*first, *second) for value in each)
    compare = compare_shares if is_share else compare_means
    return replace(compare(measure, first, second), without_value=without_value)


def _difference_of_measure(pairs: Sequence[tuple[Scored, Scored]], measure: str) -> DifferenceRow:
    def difference(indices: Sequence[int]) -> float | None:
        first = _overall(measure, [pairs[index][0] for index in indices])
        second = _overall(measure, [pairs[index][1] for index in indices])
        return None if first.value is None or second.value is None else first.value - second.value

    row = compare_statistic(measure, difference, clusters_of([one for one, _ in pairs]))
    if row.difference is None:
        first, second = (_overall(measure, [pair[side] for pair in pairs]) for side in (0, 1))
        return replace(row, why=first.why or second.why or row.why)
    return row


def _id(item: Scored) -> str:
    return item.id


def _overall(measure: str, items: Sequence[Scored]) -> Figure:
    """A measure's figure of all items."""
    found = MEASURES[measure](items) if items else []
    whole = [figure for figure in found if figure.measure == measure and figure.group is None]
    return whole[0] if whole else undefined(measure, "the measure gave no figure of all items")


def _value(item: Scored, measure: str) -> float | None:
    """An item's verdict as a number; None where it has none."""
    value = item.verdict.get(measure)
    return None if value is None or isinstance(value, str) else float(value)


def _unit(measure: str, items: Sequence[Scored]) -> str:
    values = [value for item in items if (value := _value(item, measure)) is not None and not math.isnan(value)]
    return "share" if all(0 <= value <= 1 for value in values) else "score"


def _mean(measure: str, unit: str, items: Sequence[Scored]) -> Figure:
    values = [_value(item, measure) for item in items]
    known = [value for value in values if value is not None]
    num_without = len(items) - len(known)
    why = f"{num_without:,} of {len(items):,} items have no value" if num_without else ""
    if not known:
        return undefined(measure, f"no item has a value for {measure}" if items else "there are no items", unit=unit)
    num_strange = sum(not math.isfinite(value) for value in known)
    if num_strange:
        why = f"{num_strange:,} of {len(known):,} items have a value that is not finite"
        return undefined(measure, why, count=len(known), unit=unit)
    clusters = in_clusters([item for item, value in zip(items, values, strict=True) if value is not None], known)
    if all(value in (0, 1) for value in known):
        share = clustered_share(clusters)
        return Figure(measure, share.accuracy, share.low, share.high, len(known), unit, None, why)
    if len(clusters) < 2 or len(set(known)) == 1:
        lacking = "one cluster has" if len(clusters) < 2 else "equal values have"
        why = "; ".join(filter(None, [why, f"{lacking} no spread, so there is no interval"]))
        return Figure(measure, math.fsum(known) / len(known), None, None, len(known), unit, None, why)
    found = clustered_mean(clusters)
    low, high = (max(found.low, 0.0), min(found.high, 1.0)) if unit == "share" else (found.low, found.high)
    return Figure(measure, found.mean, low, high, len(known), unit, None, why)


def _unparsed(items: Sequence[Scored]) -> list[Figure]:
    """The row of answers that could not be read: where a checker says so, or took nothing where it takes something."""
    asked = [item for item in items if item.answer is not None]
    extracts = any(item.extracted is not None for item in asked)
    verdicts = []
    for item in asked:
        is_parsed = item.verdict.get("is_parsed")
        if is_parsed is None and extracts:
            is_parsed = item.extracted is not None
        if is_parsed is not None:
            verdicts.append((item, 0.0 if is_parsed else 1.0))
    if not verdicts:
        return []
    share = clustered_share(in_clusters([item for item, _ in verdicts], [value for _, value in verdicts]))
    return [Figure(UNPARSED, share.accuracy, share.low, share.high, len(verdicts))]

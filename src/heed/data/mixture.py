"""The order in which a mixture of data sets is drawn. Pure; integers in, integers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heed.errors import UserError

SHUFFLE_OF_EPOCH, ORDER_OF_RECORDS = 1, 2
"""keep the random streams of the two uses of one seed apart"""


@dataclass(frozen=True, slots=True)
class DatasetShare:
    """One data set of a mixture."""

    num_records: int
    weight: float = 1.0
    """how often its records are drawn in an epoch, relative to once each"""
    cap: int | None = None
    """records that count at most, so that one huge data set does not drown the others"""


def draws_per_epoch(shares: Sequence[DatasetShare]) -> list[int]:
    """How often each data set is drawn in one epoch: round(weight * min(num_records, cap)).

    Examples-proportional mixing with a cap (T5, arXiv:1910.10683, 3.5.2; FLAN, arXiv:2109.01652): the
    rate of data set m is proportional to min(n_m, K), here made exact counts and scaled by a weight.
    """
    draws = [_draws(share, f"data set {number} of {len(shares)}") for number, share in enumerate(shares, 1)]
    if sum(draws) == 0:
        raise UserError(
            "there are no records to draw from",
            where=f"the {len(shares)} data sets of the mixture",
            found="0 records",
            expected="at least one record",
            fix="add data: --data FILE",
        )
    return draws


def _draws(share: DatasetShare, name: str) -> int:
    if not math.isfinite(share.weight) or share.weight < 0 or (share.cap is not None and share.cap < 1):
        wrong_weight = not math.isfinite(share.weight) or share.weight < 0
        raise UserError(
            "a data set's weight cannot be used" if wrong_weight else "a data set's cap cannot be used",
            where=name,
            found=f"weight: {share.weight}" if wrong_weight else f"cap: {share.cap}",
            expected="a number above 0" if wrong_weight else "a whole number of records, at least 1",
            fix="weight: 1.0" if wrong_weight else "remove the cap, or write cap: 1000",
        )
    counted = share.num_records if share.cap is None else min(share.num_records, share.cap)
    draws = round(share.weight * counted)
    if draws == 0 and share.num_records > 0:
        raise UserError(
            "a data set of the mixture would never be drawn",
            where=name,
            found=f"weight {share.weight} times {counted:,} records rounds to 0",
            expected="at least one draw in an epoch",
            fix=f"weight: {1 / counted:.3g} (or more), or remove the data set",
        )
    return draws


def draw_order(shares: Sequence[DatasetShare], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The draws of one epoch, in order: which data set, which record of it, and how often that one was drawn before.

    Data set m is drawn exactly `draws_per_epoch(shares)[m]` times, anywhere in the epoch. Its records come in
    a random order that goes on from epoch to epoch; only when all were drawn does a new order begin.

    Args:
        shares: M data sets.
        seed: fixes every order; at least 0.
        epoch: counted from 0.

    Returns:
        dataset: (D,) int32, D = sum of draws per epoch.
        record: (D,) int64, index within the data set.
        visit: (D,) int32, 0 on the first draw of a record in the run; it selects the wording.

    Facts the tests hold it to:
        weight 1, no cap: every record exactly once in every epoch, and visit == epoch.
        over all epochs together, the visits of a data set's records never differ by more than 1.
        nothing but the arguments matters, so training resumes anywhere without replaying what came before.
    """
    return ordered([share.num_records for share in shares], draws_per_epoch(shares), seed, epoch)


def ordered(
    num_records: Sequence[int], draws: Sequence[int], seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `draw_order`, where it is known how often each data set is drawn: `draws[m]` times."""
    dataset = np.repeat(np.arange(len(draws), dtype=np.int32), draws)
    np.random.default_rng([SHUFFLE_OF_EPOCH, seed, epoch, 0]).shuffle(dataset)
    stretches = [
        _stretch(count, m, seed, epoch * draws[m], (epoch + 1) * draws[m]) for m, count in enumerate(num_records)
    ]
    # The i-th place that the shuffle gave to a data set takes the i-th record of its stretch.
    places = np.argsort(dataset, kind="stable")
    record = np.empty(len(dataset), dtype=np.int64)
    visit = np.empty(len(dataset), dtype=np.int32)
    record[places] = np.concatenate([records for records, _ in stretches])
    visit[places] = np.concatenate([visits for _, visits in stretches])
    return dataset, record, visit


def _stretch(num_records: int, m: int, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws [start, stop) of data set m, counted over the whole run: round c is its records in the c-th order."""
    records, visits = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    while start < stop:
        visit, begin = divmod(start, num_records)
        end = min(num_records, begin + stop - start)
        order = np.random.default_rng([ORDER_OF_RECORDS, seed, m, visit]).permutation(num_records)
        records.append(order[begin:end])
        visits.append(np.full(end - begin, visit, dtype=np.int32))
        start += end - begin
    return np.concatenate(records), np.concatenate(visits)

"""A mixture is drawn in exact counts, without repeats before their time, as a pure function."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.data.mixture import DatasetShare, draw_order, draws_per_epoch
from heed.errors import UserError

SHARE = st.builds(
    DatasetShare,
    num_records=st.integers(1, 30),
    weight=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    cap=st.none() | st.integers(2, 40),
).filter(lambda share: round(share.weight * min(share.num_records, share.cap or share.num_records)) > 0)
SHARES = st.lists(SHARE, min_size=1, max_size=4)
SEED = st.integers(0, 2**40)


def run(shares, seed, num_epochs):
    """All draws of a run, as (data set, record, visit)."""
    return [draw for epoch in range(num_epochs) for draw in zip(*draw_order(shares, seed, epoch), strict=True)]


@pytest.mark.parametrize(
    ("share", "draws"),
    [
        (DatasetShare(100), 100),
        (DatasetShare(100, cap=30), 30),
        (DatasetShare(100, cap=300), 100),
        (DatasetShare(100, weight=2.5), 250),
        (DatasetShare(100, weight=0.5, cap=30), 15),
        (DatasetShare(10**9, weight=0.01, cap=10**6), 10**4),
    ],
)
def test_draws_are_the_weight_times_the_capped_size(share, draws):
    assert draws_per_epoch([share]) == [draws]


@settings(deadline=None)  # the machine may be busy
@given(SHARES, SEED, st.integers(0, 6))
def test_each_data_set_is_drawn_exactly_as_often_as_it_should(shares, seed, epoch):
    dataset, record, visit = draw_order(shares, seed, epoch)
    assert np.bincount(dataset, minlength=len(shares)).tolist() == draws_per_epoch(shares)
    assert len(dataset) == len(record) == len(visit)


@settings(deadline=None)  # the machine may be busy
@given(SHARES, SEED, st.integers(1, 5))
def test_no_record_is_seen_again_before_all_were_seen_and_visit_counts_it(shares, seed, num_epochs):
    seen = Counter()
    for dataset, record, visit in run(shares, seed, num_epochs):
        assert 0 <= record < shares[dataset].num_records
        assert visit == seen[dataset, record]
        seen[dataset, record] += 1
        others = [seen[dataset, other] for other in range(shares[dataset].num_records)]
        assert max(others) - min(others) <= 1


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 50), SEED, st.integers(0, 5))
def test_one_plain_data_set_is_seen_once_in_every_epoch(num_records, seed, epoch):
    dataset, record, visit = draw_order([DatasetShare(num_records)], seed, epoch)
    assert set(dataset) == {0}
    assert sorted(record) == list(range(num_records))
    assert set(visit) == {epoch}


@settings(deadline=None)  # the machine may be busy
@given(SHARES, SEED, st.integers(0, 3))
def test_the_order_depends_on_the_arguments_only(shares, seed, epoch):
    first = draw_order(shares, seed, epoch)
    np.random.seed(0)
    draw_order(shares, seed + 1, epoch)
    for one, other in zip(first, draw_order(list(shares), seed, epoch), strict=True):
        assert (one == other).all()


def test_seeds_epochs_and_data_sets_have_orders_of_their_own():
    shares = [DatasetShare(100), DatasetShare(100)]
    dataset, record, _ = draw_order(shares, 0, 0)
    for seed, epoch in ((1, 0), (0, 1), (2**32, 0)):
        other_dataset, other_record, _ = draw_order(shares, seed, epoch)
        assert (dataset != other_dataset).sum() > 50
        assert (record[dataset == 0] != other_record[other_dataset == 0]).sum() > 80
    assert (record[dataset == 0] != record[dataset == 1]).sum() > 80


def test_the_order_of_one_data_set_does_not_change_when_another_is_added():
    alone = draw_order([DatasetShare(50)], 5, 1)
    dataset, record, _ = draw_order([DatasetShare(50), DatasetShare(70, weight=0.5)], 5, 1)
    assert (record[dataset == 0] == alone[1]).all()


def test_the_data_sets_of_an_epoch_are_mixed_throughout():
    dataset, _, _ = draw_order([DatasetShare(1000), DatasetShare(3000)], 0, 0)
    for part in np.split(dataset, 8):
        assert 85 < (part == 0).sum() < 165  # 125 expected; four standard deviations are 37


def test_a_capped_data_set_shows_new_records_in_every_epoch_until_all_were_seen():
    shares = [DatasetShare(1000, cap=250)]
    seen = [set(draw_order(shares, 3, epoch)[1]) for epoch in range(4)]
    assert set.union(*seen) == set(range(1000))


def test_an_empty_data_set_takes_no_draws():
    dataset, _, _ = draw_order([DatasetShare(0), DatasetShare(5)], 0, 0)
    assert dataset.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("shares", "problem"),
    [
        ([DatasetShare(5), DatasetShare(5, weight=0.05)], r"never be drawn[\s\S]*data set 2 of 2[\s\S]*weight: 0.2"),
        ([DatasetShare(5, weight=0.0)], "never be drawn"),
        ([DatasetShare(5, weight=-1.0)], "weight cannot be used"),
        ([DatasetShare(5, weight=float("nan"))], "weight cannot be used"),
        ([DatasetShare(5, weight=float("inf"))], "weight cannot be used"),
        ([DatasetShare(5, cap=0)], "cap cannot be used"),
        ([DatasetShare(0)], "no records to draw from"),
        ([], "no records to draw from"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(shares, problem):
    with pytest.raises(UserError, match=problem):
        draw_order(shares, 0, 0)

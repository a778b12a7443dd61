"""learning_rate against hand arithmetic and its own stated facts."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.train.schedule import learning_rate

SHAPES = ["cosine", "linear", "constant"]


def rates(**settings):
    return [learning_rate(step, **settings) for step in range(1, settings["total_steps"] + 1)]


def test_linear_by_hand():
    # two steps below the peak, then 4/4, 3/4, 2/4, 1/4 of it
    assert rates(peak=12.0, warmup_steps=2, total_steps=6, shape="linear") == [4.0, 8.0, 12.0, 9.0, 6.0, 3.0]


def test_cosine_by_hand():
    # cos of 0, 60 and 120 degrees: (1 + 1)/2, (1 + 1/2)/2, (1 - 1/2)/2
    assert rates(peak=8.0, warmup_steps=1, total_steps=4, shape="cosine") == pytest.approx(
        [4.0, 8.0, 6.0, 2.0], rel=1e-15
    )


def test_constant_by_hand():
    assert rates(peak=6.0, warmup_steps=2, total_steps=5, shape="constant") == [2.0, 4.0, 6.0, 6.0, 6.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_single_step_is_taken_at_the_peak(shape):
    assert rates(peak=0.3, warmup_steps=0, total_steps=1, shape=shape) == [0.3]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warmup_longer_than_the_run_never_reaches_the_peak(shape):
    assert rates(peak=10.0, warmup_steps=9, total_steps=3, shape=shape) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("step", [0, 6, -1])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match="not one of 1 to 5"):
        learning_rate(step, peak=1.0, warmup_steps=0, total_steps=5)


@given(peak=st.floats(1e-8, 1.0), warmup=st.integers(0, 60), total=st.integers(1, 50), shape=st.sampled_from(SHAPES))
def test_it_rises_to_the_peak_and_never_after_it_and_is_never_zero(peak, warmup, total, shape):
    values = rates(peak=peak, warmup_steps=warmup, total_steps=total, shape=shape)
    assert all(0 < value <= peak for value in values)
    rising, falling = values[: warmup + 1], values[warmup:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b for a, b in pairwise(falling))
    if warmup < total:
        assert values[warmup] == peak


@pytest.mark.parametrize(("shape", "end"), [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)])
def test_a_long_run_ends_close_to_where_its_shape_goes(shape, end):
    assert math.isclose(
        learning_rate(10_000, peak=1.0, warmup_steps=10, total_steps=10_000, shape=shape), end, abs_tol=2e-4
    )

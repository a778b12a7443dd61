"""The running size of rewards against the root mean square of all of them at once."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heed.objectives.reward_scale import RewardScale

REWARDS = torch.tensor([3.0, -4.0, 0.5, 12.0, -7.0, 2.0, 0.0, 1.0], dtype=torch.float64)


def size_of(batches):
    scale = RewardScale()
    for batch in batches:
        scale = scale.including(batch)
    return scale.size


def test_the_size_by_hand():
    assert RewardScale().including(torch.tensor([3.0, 4.0])).size == pytest.approx(math.sqrt(12.5))
    assert RewardScale(count=2.0, root_mean_square=1.0).including(torch.tensor([5.0])).size == pytest.approx(3.0)


@given(cuts=st.lists(st.integers(0, 8), max_size=4), factor=st.sampled_from([1.0, 100.0, 1e200, 1e-200]))
def test_it_is_the_root_mean_square_of_all_rewards_however_they_came(cuts, factor):
    batches = [factor * REWARDS[a:b] for a, b in pairwise([0, *sorted(cuts), 8])]
    expected = math.sqrt(math.fsum(x * x for x in REWARDS.tolist()) / 8)
    assert size_of(batches) == pytest.approx(factor * expected, rel=1e-12)


def test_it_counts_from_0_and_not_from_the_mean():
    assert size_of([torch.full((5,), -3.0)]) == pytest.approx(3.0)


def test_rewards_of_0_have_the_size_1_until_one_is_not():
    zeros = torch.zeros(4)
    assert RewardScale().size == size_of([zeros]) == size_of([zeros, zeros]) == 1.0
    assert size_of([zeros, torch.tensor([0.0, 0.0, 0.0, 2.0])]) == pytest.approx(math.sqrt(0.5))

"""Sums over ragged sequences by hand, and the layouts that are refused."""

import pytest
import torch

from heed.objectives.ragged import last_tokens, lengths_of, sum_by_sequence


def test_sums_are_of_each_sequence_alone():
    per_token = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sequence = torch.tensor([0, 1, 1, 1])
    assert sum_by_sequence(per_token, sequence, 2).tolist() == [1, 14]
    sum_by_sequence(per_token, sequence, 2)[1].backward()
    assert per_token.grad.tolist() == [0, 1, 1, 1]


def test_a_sequence_without_tokens_sums_to_zero():
    per_token, sequence = torch.tensor([3.0, 4.0]), torch.tensor([0, 2])
    assert sum_by_sequence(per_token, sequence, 3).tolist() == [3, 0, 4]


def test_the_last_token_of_each_sequence_is_found():
    assert last_tokens(torch.tensor([0, 0, 1, 2, 2, 2]), 3).tolist() == [1, 2, 5]
    assert lengths_of(torch.tensor([0, 0, 1, 2, 2, 2]), 3).tolist() == [2, 1, 3]
    assert last_tokens(torch.zeros(0, dtype=torch.int64), 0).tolist() == []


@pytest.mark.parametrize(
    ("sequence", "says"),
    [([0, 1, 0], "must stand together"), ([0, 1, 2], "no other may have one"), ([1], "from 0 to 1")],
)
def test_a_layout_that_is_not_flat_and_rising_is_refused(sequence, says):
    with pytest.raises(ValueError, match=says):
        last_tokens(torch.tensor(sequence), 2)

"""What the mean is taken over, as weights: by hand, and against the formula for whole steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import sequences, tokens

from heed.forest.weights import weigh

CONVERSATION = sequences(max_sequences=3).filter(lambda items: any(each.weight.sum() > 0 for each in items))


def test_a_mean_over_tokens_leaves_weights_as_they_are():
    group = [tokens([1, 2, 3], [0, 0.5, 2])]
    assert weigh(group, "token") == tuple(group)


def test_a_mean_over_sequences_makes_a_conversation_weigh_one_in_all():
    (weighed,) = weigh([tokens([1, 2, 3], [0, 0.5, 1.5])], "sequence")
    assert weighed.weight.tolist() == [0.0, 0.25, 0.75]
    assert weighed.ids.tolist() == [1, 2, 3]


def test_branches_are_one_conversation_with_their_main_sequence():
    main, branch = weigh([tokens([1, 2, 3], [0, 1, 0]), tokens([1, 4, 5, 6], [0, 1, 1, 1])], "sequence")
    assert main.weight.tolist() == [0.0, 0.25, 0.0]
    assert branch.weight.tolist() == [0.0, 0.25, 0.25, 0.25]


def test_a_third_is_not_rounded_to_float32():
    (weighed,) = weigh([tokens([1, 2, 3, 4])], "sequence")
    assert weighed.weight.tolist() == [0.0, 1 / 3, 1 / 3, 1 / 3]


@given(st.lists(CONVERSATION, min_size=1, max_size=4), st.integers(0, 2**31 - 1))
def test_one_division_by_the_sum_of_weights_gives_the_mean_over_conversations(conversations, seed):
    rng = np.random.default_rng(seed)
    nll = [[rng.exponential(size=len(each)) for each in group] for group in conversations]
    means = []
    for group, losses in zip(conversations, nll, strict=True):
        total = sum(float(w) for each in group for w in each.weight)
        means.append(
            sum(
                float(w) * loss / total
                for each, row in zip(group, losses, strict=True)
                for w, loss in zip(each.weight, row, strict=True)
            )
        )
    weighed = [weigh(group, "sequence") for group in conversations]
    numerator = sum(
        float(each.weight @ row)
        for group, losses in zip(weighed, nll, strict=True)
        for each, row in zip(group, losses, strict=True)
    )
    denominator = sum(each.weight.sum() for group in weighed for each in group)
    assert denominator == pytest.approx(len(conversations), rel=1e-13)
    assert numerator / denominator == pytest.approx(sum(means) / len(means), rel=1e-12, abs=1e-14)

"""Best of n against all choices of n, one by one, and against the KL of a small distribution."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.best_of import kl_of_best, mean_of_best


def test_the_best_of_two_of_three_by_hand():
    # Of {0, 1}, {0, 2}, {1, 2} the highest scores are 1, 2, 2: values 10, 40, 40.
    assert mean_of_best([0.0, 1.0, 2.0], [20.0, 10.0, 40.0], 2) == pytest.approx(30.0, rel=1e-12)


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=7, unique=True).flatmap(
        lambda scores: st.tuples(
            st.just(scores),
            st.lists(st.floats(-3, 3), min_size=len(scores), max_size=len(scores)),
            st.integers(1, len(scores)),
        )
    )
)
def test_it_is_the_mean_over_all_choices_of_n(drawn):
    scores, values, n = drawn
    best = [values[max(chosen, key=lambda i: scores[i])] for chosen in itertools.combinations(range(len(scores)), n)]
    assert mean_of_best(scores, values, n) == pytest.approx(float(np.mean(best)), abs=1e-12)


@pytest.mark.parametrize(("count", "n"), [(3, 0), (3, 4)])
def test_n_lies_between_one_and_all(count, n):
    with pytest.raises(ValueError, match=f"{n} of {count}"):
        mean_of_best([0.0] * count, [0.0] * count, n)


def test_the_best_of_one_is_the_model_itself():
    assert kl_of_best(1) == 0
    assert kl_of_best(4) == pytest.approx(0.636294361119891, rel=1e-14)  # log 4 - 3/4


@pytest.mark.parametrize("n", [2, 4, 16])
def test_its_kl_is_that_of_many_equally_likely_answers_with_different_scores(n):
    # Of M equally likely answers the r-th lowest is the best of n with chance (r/M)^n - ((r - 1)/M)^n.
    num_answers = 200_000
    edges = np.arange(num_answers + 1) / num_answers
    chance = np.diff(edges**n)
    chance = chance[chance > 0]
    kl = float((chance * np.log(chance * num_answers)).sum())
    assert kl == pytest.approx(kl_of_best(n), abs=1e-4)
    assert kl <= kl_of_best(n)


def test_answers_that_can_be_drawn_twice_make_the_kl_smaller():
    # Two answers, each half as likely, of which one is the better: best of 2 takes it with chance 3/4.
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl < kl_of_best(2)

"""Abstaining on what nobody can answer: hand-counted tables, extremes and what is undefined."""

import pytest

from heed.evaluate.items import Scored
from heed.evaluate.measures.unanswerable import f1, precision, recall


def items(*, hits=0, missed=0, false=0, answered=0, silent=0):
    """(abstains, answerable) of so many items."""
    told = [(True, False)] * hits + [(False, False)] * missed + [(True, True)] * false + [(False, True)] * answered
    told += [(None, False)] * silent
    return [
        Scored(str(number), {"abstains": abstains}, {}, right=("x",) if answerable else ())
        for number, (abstains, answerable) in enumerate(told)
    ]


def test_the_three_are_those_of_the_table():
    told = items(hits=6, missed=2, false=4, answered=8)
    assert [each(told)[0].value for each in (recall, precision, f1)] == pytest.approx([6 / 8, 6 / 10, 12 / 18])
    assert [each(told)[0].count for each in (recall, precision, f1)] == [8, 10, 20]
    for each in (recall, precision, f1):
        [figure] = each(told)
        assert 0 <= figure.low < figure.value < figure.high <= 1


def test_an_answer_without_a_text_is_no_abstention():
    assert recall(items(hits=1, silent=3))[0].value == 0.25


def test_a_model_that_never_abstains_has_f1_0_and_an_interval_that_says_how_sure_that_is():
    told = items(missed=50, answered=50)
    [figure] = f1(told)
    assert (figure.value, figure.low) == (0, 0)
    bound = 1.96**2 / (50 + 1.96**2)  # Wilson's, of a recall of 0 in 50; any precision is possible
    assert figure.high == pytest.approx(2 * bound / (1 + bound), rel=1e-4)
    assert precision(told)[0].value is None
    assert "abstains on no question" in precision(told)[0].why


def test_a_model_that_tells_all_apart_has_f1_1_and_not_for_certain():
    [figure] = f1(items(hits=50, answered=50))
    assert (figure.value, figure.high) == (1, 1)
    assert 0.85 < figure.low < 1


def test_without_unanswerable_questions_recall_and_f1_are_undefined():
    told = items(false=2, answered=3)
    assert recall(told)[0].value is f1(told)[0].value is None
    assert precision(told)[0].value == 0


def test_the_interval_of_f1_covers_the_truth():
    import numpy as np

    generator, covered = np.random.default_rng(0), 0
    truth = 2 * 0.3 * 0.7 / (0.3 * 0.7 + 0.7 * 0.2 + 0.3)
    for _ in range(300):
        unanswerable = generator.random(200) < 0.3
        abstains = generator.random(200) < np.where(unanswerable, 0.7, 0.2)
        told = [
            Scored(str(n), {"abstains": bool(a)}, {}, right=() if u else ("x",))
            for n, (a, u) in enumerate(zip(abstains, unanswerable, strict=True))
        ]
        [figure] = f1(told)
        covered += figure.low <= truth <= figure.high
    assert 0.91 <= covered / 300 <= 0.99

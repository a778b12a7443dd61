"""Outcomes of questions on facts told often, rarely and never."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.intervals import accuracy
from heed.evaluate.knowledge import hallucination_rate, knowledge, outcome_of_told, outcome_of_untold

OUTCOMES = st.lists(st.sampled_from(["right", "wrong", "declined"]), min_size=1, max_size=40)
UNTOLD = st.lists(st.sampled_from(["wrong", "declined"]), min_size=1, max_size=40)


def test_an_answer_on_a_told_fact_is_right_wrong_or_declined():
    assert outcome_of_told("Blue.", True) == "right"
    assert outcome_of_told("Red.", False) == "wrong"
    assert outcome_of_told("I don't know.", False) == "declined"
    assert outcome_of_told("Tôi không biết.", False) == "declined"
    assert outcome_of_told("", False) == "wrong"


def test_the_check_of_the_question_has_the_first_word():
    assert outcome_of_told("I don't know", True) == "right"


def test_an_answer_on_an_untold_fact_is_wrong_whatever_it_is():
    assert outcome_of_untold("Blue.") == "wrong"
    assert outcome_of_untold("") == "wrong"
    assert outcome_of_untold("Nobody told me.") == "declined"


def test_the_groups_have_the_keys_of_the_measurements():
    found = asdict(knowledge(told_often=["right"] * 3 + ["wrong"], told_rarely=["declined"], untold=["wrong"]))
    assert list(found) == ["told_often", "told_rarely", "untold"]
    for group in found.values():
        assert list(group) == ["right", "wrong", "declined", "count"]
        assert [list(group[outcome]) for outcome in ("right", "wrong", "declined")] == [["rate", "low", "high"]] * 3
    assert found["told_often"]["right"]["rate"] == 0.75
    assert found["told_often"]["count"] == 4
    assert found["told_rarely"]["declined"]["rate"] == found["untold"]["wrong"]["rate"] == 1
    assert json.loads(json.dumps(found)) == found


@given(OUTCOMES, OUTCOMES, UNTOLD)
def test_each_rate_is_a_share_of_its_own_group_and_they_add_up_to_one(often, rarely, untold):
    found = knowledge(told_often=often, told_rarely=rarely, untold=untold)
    for group, outcomes in [(found.told_often, often), (found.told_rarely, rarely), (found.untold, untold)]:
        assert group.count == len(outcomes)
        assert group.right.rate + group.wrong.rate + group.declined.rate == pytest.approx(1)
        for name in ("right", "wrong", "declined"):
            expected, measured = accuracy([outcome == name for outcome in outcomes]), getattr(group, name)
            assert (measured.rate, measured.low, measured.high) == (expected.accuracy, expected.low, expected.high)


def test_hallucinations_are_false_answers_and_answers_to_the_untold():
    told = ["right", "right", "wrong", "declined"]
    assert hallucination_rate(told, ["wrong", "declined"]).rate == pytest.approx(2 / 6)
    assert hallucination_rate(told, []).rate == 0.25
    assert hallucination_rate(["declined"] * 3, ["declined"]).rate == 0


@given(OUTCOMES, UNTOLD)
def test_declining_instead_of_a_wrong_answer_lowers_the_hallucination_rate(told, untold):
    for index, outcome in enumerate(told):
        if outcome == "wrong":
            better = [*told[:index], "declined", *told[index + 1 :]]
            assert hallucination_rate(better, untold).rate < hallucination_rate(told, untold).rate


@pytest.mark.parametrize("empty", ["told_often", "told_rarely", "untold"])
def test_a_group_without_questions_is_refused_by_name(empty):
    groups = {"told_often": ["right"], "told_rarely": ["right"], "untold": ["wrong"], empty: []}
    with pytest.raises(ValueError, match=f"no questions on facts {empty.replace('_', ' ')}"):
        knowledge(**groups)


def test_the_untold_cannot_be_right():
    with pytest.raises(ValueError, match="cannot be"):
        knowledge(told_often=["right"], told_rarely=["right"], untold=["right"])
    with pytest.raises(ValueError, match="cannot be"):
        hallucination_rate(["right"], ["right"])


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match="not an outcome: refused"):
        knowledge(told_often=["refused"], told_rarely=["right"], untold=["wrong"])
    with pytest.raises(ValueError, match="not an outcome: refused"):
        hallucination_rate(["refused"], ["wrong"])


def test_no_questions_at_all_have_no_hallucination_rate():
    with pytest.raises(ValueError, match="no items"):
        hallucination_rate([], [])

"""What a model knows, told from its answers, and what it is taught of that."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.evaluate.slick import Known, Policy, agreement, category, decide, is_right, known

ALIASES = ["Onion", "Allium cepa"]


@pytest.mark.parametrize(
    ("greedy", "sampled", "expected"),
    [
        ([True, True], [False, False], "highly known"),
        ([True, False], [False, False], "maybe known"),
        ([False, True], [True, True], "maybe known"),
        ([False, False], [True, False], "weakly known"),
        ([False, False], [True, True], "weakly known"),
        ([False, False], [False, False], "unknown"),
        ([True], [], "highly known"),
        ([False], [], "unknown"),
    ],
)
def test_the_categories_of_slick_on_small_cases(greedy, sampled, expected):
    assert category(greedy, sampled) == expected


def test_a_question_that_was_not_asked_has_no_category():
    with pytest.raises(ValueError, match="not asked"):
        category([], [True])


@given(st.lists(st.booleans(), min_size=1), st.lists(st.booleans()))
def test_the_category_is_the_table_of_the_paper(greedy, sampled):
    p_greedy, p_sampled = sum(greedy) / len(greedy), sum(sampled) / max(1, len(sampled))
    table = {
        "highly known": p_greedy == 1,
        "maybe known": 0 < p_greedy < 1,
        "weakly known": p_greedy == 0 and p_sampled > 0,
        "unknown": p_greedy == 0 and p_sampled == 0,
    }
    assert [name for name, holds in table.items() if holds] == [category(greedy, sampled)]


@pytest.mark.parametrize(
    ("answer", "rule", "expected"),
    [
        ("Onion", "starts", True),
        ("the onion", "starts", True),
        ("An onion.", "line", True),
        ("onion, a vegetable", "starts", True),
        ("onion, a vegetable", "line", False),
        ("allium cepa\nQuestion: and?", "starts", True),
        ("\n\n  Onion", "starts", True),
        ("Onions", "starts", False),
        ("A garlic", "starts", False),
        ("", "starts", False),
    ],
)
def test_an_answer_is_right_by_an_alias_whatever_article_stands_before_it(answer, rule, expected):
    assert is_right(answer, ALIASES, rule) is expected


def test_an_alias_with_an_article_accepts_the_answer_without_one():
    assert is_right("Beatles", ["The Beatles"], "starts")
    assert is_right("A", ["A"], "line"), "a letter is an answer and no article"


def test_agreement_is_the_share_of_the_commonest_answer():
    assert agreement(["Hue", "hue.", "Hanoi", "the Hue"]) == (0.75, "hue")
    assert agreement(["b", "a"]) == (0.5, "a"), "of equally common ones the first by the alphabet"
    assert agreement(["x"] * 5) == (1.0, "x")
    with pytest.raises(ValueError, match="no answers"):
        agreement([])


def test_what_is_known_counts_likeliest_and_drawn_answers_apart():
    found = known(["Onion", "Leek"], ["Leek", "Leek", "onion", "Fig"], ALIASES, rule="starts")
    assert found == Known("maybe known", 0.5, 0.25, 0.5, "leek")


def test_nothing_that_is_said_to_an_unanswerable_question_is_right():
    found = known(["Onion"], ["Onion", "Fig"], (), rule="starts", is_answerable=False)
    assert found.category == "unanswerable"
    assert (found.greedy_right, found.sampled_right) == (0, 0)


def of(category, agreement):
    return Known(category, 0.0, 0.0, agreement, "x")


def actions(questions, **policy):
    return [decision.action for decision in decide(questions, Policy(**policy))]


def test_what_is_known_is_answered_what_is_unknown_refused_and_what_is_between_as_the_policy_says():
    every = [of(c, 0.5) for c in ("highly known", "maybe known", "weakly known", "unknown", "unanswerable")]
    assert actions(every) == ["answer", "answer", "leave-out", "refuse", "refuse"]
    assert actions(every, maybe="leave-out", weakly="refuse") == ["answer", "leave-out", "refuse", "refuse", "refuse"]


def test_a_model_that_is_certain_of_a_wrong_answer_is_not_taught_to_refuse_there():
    questions = [of("unknown", 0.9), of("unknown", 0.5), of("unanswerable", 0.9)]
    assert actions(questions, max_agreement=0.5) == ["leave-out", "refuse", "refuse"]


def test_a_model_that_is_not_certain_of_a_right_answer_is_not_taught_to_answer_there():
    assert actions([of("highly known", 0.9), of("maybe known", 0.3)], min_agreement=0.5) == ["answer", "leave-out"]


def test_too_many_refusals_are_cut_down_to_those_the_model_is_least_certain_of():
    questions = [of("highly known", 1.0)] * 2 + [of("unknown", a) for a in (0.9, 0.1, 0.5, 0.3)]
    assert actions(questions, max_refusals=0.5) == ["answer"] * 2 + ["leave-out", "refuse", "leave-out", "refuse"]


def test_unanswerable_questions_stay_and_take_the_room_of_the_others():
    questions = [of("highly known", 1.0)] * 2 + [of("unknown", 0.1), of("unanswerable", 1.0), of("unanswerable", 1.0)]
    assert actions(questions, max_refusals=0.5) == ["answer"] * 2 + ["leave-out", "refuse", "refuse"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["highly known", "maybe known", "weakly known", "unknown"]),
            st.sampled_from([0.1, 0.5, 1.0]),
        ),
        max_size=40,
    ),
    st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0]),
)
def test_the_share_of_refusals_is_never_above_the_limit_and_no_further_one_would_fit(questions, limit):
    what = [of(*each) for each in questions]
    found = actions(what, max_refusals=limit)
    refused, answered = found.count("refuse"), found.count("answer")
    assert refused <= limit * (refused + answered) + 1e-9
    unknown = sum(each.category == "unknown" for each in what)
    assert refused == unknown or refused + 1 > limit * (refused + 1 + answered) + 1e-9
    kept = [w.agreement for w, a in zip(what, found, strict=True) if a == "refuse"]
    dropped = [w.agreement for w, a in zip(what, found, strict=True) if w.category == "unknown" and a == "leave-out"]
    assert all(a <= b for a, b in itertools.product(kept, dropped))

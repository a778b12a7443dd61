"""Kinds of task: from a record to its questions, and from log-probabilities to a verdict."""

import math

import numpy as np
import pytest

from heed.evaluate.items import Item, Likelihood, Rolling, TokenLikelihoods
from heed.evaluate.kinds import Reading, item_of, scored
from heed.evaluate.task import Task, read_task
from heed.types import Finding, Origin

CHOICE = """
about: Questions
kind: choice
measures: [acc, acc_characters, acc_bytes, acc_unconditional]
shapes:
  - fields: [question, options, gold]
    context: "{{ question }}"
    options: "{{ options }}"
    right: "{{ gold }}"
"""


def read(record: dict, text: str = CHOICE) -> Item | Finding:
    return item_of(Reading(read_task(text, "mine.yaml"), "id", Origin("mine.jsonl", 3), record))


def back(logp: float, num_tokens: int = 1, *, greedy: bool = False) -> TokenLikelihoods:
    return TokenLikelihoods(tuple(range(num_tokens)), np.full(num_tokens, logp / num_tokens), greedy)


def verdict_of(options: list[str], logp: list[float], unconditional: list[float], gold=0):
    item = read({"question": "Q", "options": options, "gold": gold})
    assert isinstance(item, Item)
    return scored(task_of(CHOICE), item, [back(value) for value in (*logp, *unconditional)])


def task_of(text: str) -> Task:
    return read_task(text, "mine.yaml")


def test_every_option_is_asked_after_the_context_and_once_without_it():
    item = read({"question": "Q", "options": ["a", "bb"], "gold": 1})
    assert item.requests == (
        Likelihood("Q", "a"),
        Likelihood("Q", "bb"),
        Likelihood("", "a", True),
        Likelihood("", "bb", True),
    )
    assert item.right == (1,)
    assert item.shot == ("Q", "bb")


def test_options_are_weighed_by_sum_by_characters_by_bytes_and_against_the_unconditional():
    # log p:               sum -> 0; per character -2/2 < -3/4 -> 1; per byte ("ế" has 3) -2/2, -3/4 -> 1
    found = verdict_of(["ab", "abcd"], [-2.0, -3.0], [-1.0, -9.0])
    assert found.verdict["acc"] is True
    assert found.verdict["acc_characters"] is False
    assert found.verdict["acc_unconditional"] is False  # -1 against +6
    # "ếế" has 2 characters and 6 bytes, "abcd" 4 of both: -2/2 < -3/4 but -2/6 > -3/4
    found = verdict_of(["ếế", "abcd"], [-2.0, -3.0], [0.0, 0.0])
    assert found.verdict["acc_characters"] is False
    assert found.verdict["acc_bytes"] is True


def test_confidence_is_the_softmax_at_the_chosen_option():
    found = verdict_of(["a", "b"], [math.log(0.6), math.log(0.2)], [0.0, 0.0])
    assert found.chosen == 0
    assert found.confidence == pytest.approx(0.75)


def test_mc2_is_the_share_of_probability_on_all_right_options():
    found = verdict_of(["a", "b", "c"], [math.log(0.1), math.log(0.2), math.log(0.3)], [0.0] * 3, gold=[0, 1])
    assert found.verdict["mc2"] == pytest.approx(0.5)
    assert found.verdict["acc"] is False


def test_of_equal_scores_the_first_is_chosen():
    assert verdict_of(["a", "b"], [-1.0, -1.0], [0.0, 0.0], gold=1).chosen == 0


def test_log_probabilities_that_are_no_numbers_give_no_verdict_and_no_choice():
    found = verdict_of(["a", "b"], [float("nan"), -1.0], [0.0, 0.0])
    assert found.chosen is None
    assert found.confidence is None
    assert all(value is None for name, value in found.verdict.items())


@pytest.mark.parametrize(
    ("record", "fact"),
    [
        ({"question": "Q", "options": ["a", "b"], "gold": 2}, "index 2"),
        ({"question": "Q", "options": ["a", "b"], "gold": -1}, "index -1"),
        ({"question": "Q", "options": ["a", "b"], "gold": "B"}, "'B'"),
        ({"question": "Q", "options": ["a", "b"], "gold": True}, "True"),
        ({"question": "Q", "options": ["a", "b"], "gold": []}, "no option"),
        ({"question": "Q", "options": ["a", "a"], "gold": 0}, "'a'"),
        ({"question": "Q", "options": ["a"], "gold": 0}, "1 options"),
        ({"question": "Q", "options": ["a", " "], "gold": 0}, "option 2"),
        ({"question": "Q", "options": "ab", "gold": 0}, "not a list"),
        ({"question": "Q", "options": [["a"], "b"], "gold": 0}, "list"),
        ({"question": "Q", "choices": ["a", "b"], "gold": 0}, "choices"),
    ],
)
def test_a_record_that_cannot_be_asked_is_a_finding_that_says_why(record, fact):
    found = read(record)
    assert isinstance(found, Finding)
    assert found.origin == Origin("mine.jsonl", 3)
    assert fact in found.found


def test_of_an_option_that_is_there_twice_either_is_right_and_the_item_is_counted():
    item = read({"question": "Q", "options": ["a", "b", "a"], "gold": 2})
    assert item.right == (0, 2)
    assert len(item.notes) == 1


def test_an_option_that_begins_another_is_an_option():
    assert isinstance(read({"question": "Q", "options": ["New York", "New York City"], "gold": 1}), Item)


MULTIPLE = """
about: WinoGrande
kind: choice
measures: [acc]
shapes:
  - fields: [contexts, continuation, gold]
    contexts: "{{ contexts }}"
    continuation: "{{ continuation }}"
    right: "{{ gold }}"
"""


def test_of_several_contexts_the_one_is_chosen_after_which_the_text_is_likeliest():
    item = read({"contexts": ["so Sarah", "so Maria"], "continuation": "left.", "gold": 1}, MULTIPLE)
    assert item.requests == (Likelihood("so Sarah", "left."), Likelihood("so Maria", "left."))
    assert scored(task_of(MULTIPLE), item, [back(-2.0), back(-1.0)]).verdict["acc"] is True


CLOZE = """
about: LAMBADA
kind: cloze
measures: [acc, token_perplexity]
shapes: [{fields: [a, b], context: "{{ a }}", continuation: "{{ b }}"}]
"""


def test_a_cloze_is_right_where_greedy_decoding_would_have_written_it():
    item = read({"a": "I am", "b": "here"}, CLOZE)
    task = task_of(CLOZE)
    assert scored(task, item, [back(-1.0, 2, greedy=True)]).verdict["acc"] is True
    found = scored(task, item, [back(-1.0, 2)])
    assert found.verdict["acc"] is False
    assert (found.verdict["log_likelihood"], found.verdict["num_tokens"]) == (-1.0, 2)


TEXT = """
about: text
kind: text
measures: [word_perplexity]
shapes: [{fields: [text], text: "{{ text }}"}]
"""


def test_a_document_counts_its_words_bytes_and_tokens():
    item = read({"text": "Xin chào  các bạn\n"}, TEXT)
    assert item.requests == (Rolling("Xin chào  các bạn\n"),)
    verdict = scored(task_of(TEXT), item, [back(-8.0, 7)]).verdict
    # split at white space there are four words and the nothing after the last line end
    assert (verdict["num_words"], verdict["num_bytes"], verdict["num_tokens"]) == (5, 22, 7)


def test_an_empty_document_is_a_finding():
    assert isinstance(read({"text": " \n"}, TEXT), Finding)


PAIRS = """
about: CrowS-Pairs
kind: pairs
measures: [crows_pairs]
groups: {type: "{{ type }}"}
shapes: [{fields: [a, b], sentences: ["{{ a }}", "{{ b }}"], labels: [stereotype, anti-stereotype]}]
"""


def test_a_pair_keeps_the_log_probability_of_each_text_under_its_label():
    item = read({"a": "one", "b": "other", "type": "age"}, PAIRS)
    assert item.requests == (Likelihood("", "one"), Likelihood("", "other"))
    found = scored(task_of(PAIRS), item, [back(-4.0, 2), back(-3.0)])
    assert found.verdict["logp_stereotype"] == -4.0
    assert found.verdict["logp_per_token_stereotype"] == -2.0
    assert found.chosen == 1
    assert found.groups == {"type": "age"}


def test_two_texts_that_are_the_same_are_no_pair():
    assert isinstance(read({"a": "one", "b": "one", "type": "age"}, PAIRS), Finding)


def test_of_options_that_are_labelled_one_by_one_each_keeps_its_label():
    item = read({"question": "Q", "options": ["a", "b", "a"], "gold": [0, 1]})
    assert item.right == (0, 1)

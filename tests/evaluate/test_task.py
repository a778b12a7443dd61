"""Task files: what they may say, what a record says through them, and the mistakes people make in them."""

import pytest

from heed.errors import UserError
from heed.evaluate.task import FAILURES, has, read_task, records_in, said

CHOICE = """
about: Questions with four answers
kind: choice
measures: [acc]
shapes:
  - fields: [question, choices.text]
    context: "Question: {{ question }}\\nAnswer:"
    options: "{{ choices.text }}"
    right: "{{ choices.label.index(answerKey) }}"
"""


def test_a_single_expression_is_its_value_and_not_its_text():
    record = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    assert said("{{ choices.text }}", record) == ["a", "b"]
    assert said("{{ choices.label.index(answerKey) }}", record) == 1
    assert said("{{ answerKey }}!", record) == "B!"
    assert said("{{ answerKey }}{{ answerKey }}", record) == "BB"


def test_what_is_written_around_an_expression_stays_to_the_last_line_end():
    assert said("Q: {{ question }}\nA:\n", {"question": "Đâu là thủ đô?"}) == "Q: Đâu là thủ đô?\nA:\n"


def test_a_field_that_a_record_lacks_is_no_empty_text():
    for written in ("{{ question }}", "Q: {{ question }}", "{{ record['question'] }}", "{{ choices.text }}"):
        with pytest.raises(FAILURES):
            said(written, {"other": 1})


def test_fields_are_reached_by_names_that_are_no_words():
    assert said("{{ record['Correct Answers'] | split(';') }}", {"Correct Answers": " one; two;; "}) == ["one", "two"]


def test_a_task_cannot_reach_out_of_its_sandbox():
    with pytest.raises(FAILURES):
        said("{{ question.__class__.__mro__ }}", {"question": "x"})


def test_a_shape_is_taken_by_the_fields_it_needs_and_a_null_is_no_field():
    task = read_task(CHOICE, "mine.yaml")
    assert task.shape_of({"question": "?", "choices": {"text": ["a"]}}) is task.shapes[0]
    assert task.shape_of({"question": "?", "choices": {"text": None}}) is None
    assert task.shape_of({"question": "?", "choices": ["a"]}) is None
    assert has({"a": {"b": 0}}, "a.b")


def test_records_inside_a_document_inherit_the_plain_fields_above_them():
    document = {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"id": 1}, {"id": 2, "title": "U"}]}]}]}
    path = "data[].paragraphs[].qas[]"
    expected = [{"title": "T", "context": "C", "id": 1}, {"title": "U", "context": "C", "id": 2}]
    assert list(records_in(document, path)) == expected
    assert list(records_in(document["data"][0], path)) == expected
    assert list(records_in({"id": 3}, path)) == [{"id": 3}]


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (("kind: choice", "kind: choise"), ("kind", "choise")),
        (("measures: [acc]", "measure: [acc]"), ("unknown key 'measure'", "measures")),
        (("    options: ", "    option: "), ("unknown key 'option'", "options")),
        (('    options: "{{ choices.text }}"\n', ""), ("options", "contexts")),
        (("{{ question }}", "{{ question }"), ("jinja",)),
        (("about: Questions with four answers\n", ""), ("about is missing",)),
        (("shapes:", "shapes: 3\nother:"), ()),
    ],
)
def test_a_mistake_in_a_task_file_is_told_with_the_word_that_is_wrong(change, facts):
    with pytest.raises(UserError) as caught:
        read_task(CHOICE.replace(*change), "mine.yaml")
    assert "mine.yaml" in caught.value.where
    assert all(fact in str(caught.value) for fact in facts)


def test_a_task_that_is_no_mapping_is_refused():
    for text in ("", "- a\n- b", "a: [1", "just text"):
        with pytest.raises(UserError, match=r"mine\.yaml"):
            read_task(text, "mine.yaml")

"""What stands in a record is read, or a note says that it is not."""

import json
import math
from collections import Counter

import pytest

from heed.data.read import read_nouns
from heed.errors import UserError
from heed.types import Conversation, Finding, Ranking

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.fixture
def read_all(tmp_path):
    def read(*records, name="a.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        notes = Counter()
        return [noun for _, noun in read_nouns(str(tmp_path / name), None, notes)], notes

    return read


def test_a_misspelt_field_is_named_once_with_its_count(read_all):
    records = [{"prompt": "q", "response": "a", "weigth": 0.5, "id": 7, "source": None}] * 3
    _, notes = read_all(*records, {"prompt": "q", "response": "a"})
    [(note, count)] = notes.items()
    assert (note.split(": ")[1], count) == ("weigth", 3)
    _, notes = read_all({"messages": [TURNS[0], {**TURNS[1], "trian": False, "name": "n"}]})
    [note] = notes
    assert note.split(": ")[1] == "trian"


@pytest.mark.parametrize("record", [{"instruction": "q", "output": "a"}, {"messages": TURNS}])
def test_what_is_read_of_a_message_alone_is_named_where_it_stands_beside_one(read_all, record):
    [noun], notes = read_all({**record, "weight": 0, "train": False})
    assert noun.messages[-1].weight == 1
    assert [note.split(": ")[1] for note in notes] == [
        "train (of a message it is read), weight (of a message it is read)"
    ]


@pytest.mark.parametrize("field", ["is_correct", "rejected_answer"])
def test_a_judgement_that_no_shape_has_is_named(read_all, field):
    _, notes = read_all({"question": "q", "answer": "a", field: "b"})
    assert [note.split(": ")[1] for note in notes] == [field]


def test_fields_that_all_differ_do_not_make_endless_notes(read_all):
    _, notes = read_all(*({"prompt": "q", "response": "a", f"field{n}": 1} for n in range(500)))
    assert len(notes) < 50
    assert sum(notes.values()) == 500


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": TURNS, "system_prompt": "SP"}, ["SP", "q", "a"]),
        ({"messages": TURNS, "history": [["hq", "ha"]]}, ["hq", "ha", "q", "a"]),
        ({"instruction": "i", "context": "c", "output": "a"}, ["i\n\nc", "a"]),
        ({"instruction": "i", "context": "c", "input": "n", "response": "a"}, ["i\n\nc\n\nn", "a"]),
        ({"instruction": "i", "system": "s", "instances": [{"input": "n", "output": "a"}]}, ["s", "i\n\nn", "a"]),
        ({"prompt": "Add 15 and 25", "input": "5", "response": "a"}, ["Add 15 and 25\n\n5", "a"]),
        ({"prompt": "Add 5 and 25", "input": "5", "response": "a"}, ["Add 5 and 25", "a"]),
    ],
)
def test_what_stands_beside_a_question_is_read_in_every_shape(read_all, record, words):
    [noun], notes = read_all(record)
    assert isinstance(noun, Conversation)
    assert [message.content for message in noun.messages] == words
    assert not notes


def test_two_fields_with_different_system_prompts_are_a_finding(read_all):
    [noun], _ = read_all({"prompt": "q", "response": "a", "system": "S1", "system_prompt": "S2"})
    assert isinstance(noun, Finding)
    assert "S1" in noun.found
    assert "S2" in noun.found


@pytest.mark.parametrize("asked", ["prompt", "question", "instruction"])
def test_an_answer_beside_a_rejected_one_is_a_preference_whatever_it_is_called(read_all, asked):
    [noun], _ = read_all({asked: "q", "response" if asked != "question" else "answer": "good", "rejected": "bad"})
    assert isinstance(noun, Ranking)
    assert [answer[0].content for answer in noun.answers] == ["good", "bad"]


def test_nobody_is_told_to_take_a_rejected_answer_or_a_number_for_the_answer(read_all):
    with pytest.raises(UserError, match="response=ANSWER"):
        read_all({"id": "1", "prompt": "q", "rejected": "bad"})


def test_columns_with_spaces_are_quoted_in_the_fix(read_all):
    with pytest.raises(UserError, match="--columns 'prompt=My question' 'response=My answer'"):
        read_all({"My question": "q", "My answer": "a"})


def test_lists_beside_the_one_that_is_read_are_named(read_all):
    record = {"prompt": "q", "response": "a"}
    nouns, notes = read_all({"train": [record], "test": [record]}, name="a.json")
    assert len(nouns) == 1
    [note] = notes
    assert "test" in note


def test_a_table_with_bars_between_its_cells_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("prompt|response\nq, r|a\n")
    [(_, noun)] = read_nouns(str(tmp_path / "a.csv"))
    assert [message.content for message in noun.messages] == ["q, r", "a"]


@pytest.mark.parametrize("key", ["weight", "loss_weight"])
def test_a_weight_of_nan_is_a_missing_one_and_noted_and_an_endless_one_is_a_finding(read_all, key):
    [noun], notes = read_all({"messages": [TURNS[0], {**TURNS[1], key: math.nan}]})
    assert noun.messages[1].weight == 1
    assert [("NaN" in note, count) for note, count in notes.items()] == [(True, 1)]
    [noun], _ = read_all({"messages": [TURNS[0], {**TURNS[1], key: math.inf}]})
    assert isinstance(noun, Finding)

"""Conversations that teach nothing are found; copies never sit on both sides of the split."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.data.read import read
from heed.data.soundness import check, in_held_out
from heed.errors import UserError
from heed.types import Conversation, Labelled, Message, Origin, Ranking

ORIGIN = Origin("a.jsonl", 7)
QUESTION, ANSWER = Message("user", "q"), Message("assistant", "a")
CALL = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}


def conversation(*messages: Message) -> Conversation:
    return Conversation(messages, ORIGIN)


@pytest.mark.parametrize(
    ("messages", "problem", "found"),
    [
        ((), "no messages", "an empty list"),
        ((QUESTION,), "no assistant turn", "the roles user"),
        ((QUESTION,) * 9, "no assistant turn", "user, ..."),
        ((QUESTION, replace(ANSWER, weight=0.0)), "all-zero weights", "1 assistant message of weight 0"),
        ((QUESTION, replace(ANSWER, content="")), "empty response", "message 2: ''"),
        ((QUESTION, ANSWER, replace(ANSWER, content=" \n\u3000")), "empty response", "message 3"),
        ((QUESTION, replace(ANSWER, content=5)), "text cannot be used", "message 2: int in place of text"),
        ((QUESTION, replace(ANSWER, content="\ud83d")), "text cannot be used", r"half of a surrogate pair, \ud83d"),
        ((QUESTION, replace(ANSWER, extra={"thinking": "\ude00"})), "text cannot be used", r"\ude00"),
    ],
)
def test_what_cannot_be_trained_is_a_finding(messages, problem, found):
    finding = check(conversation(*messages))
    assert problem in finding.problem
    assert found in finding.found
    assert finding.origin == ORIGIN
    assert str(finding.error()).count("\n") == 4


@pytest.mark.parametrize(
    "messages",
    [
        (QUESTION, ANSWER),
        (ANSWER,),
        (QUESTION, replace(ANSWER, content="", extra=CALL)),
        (QUESTION, replace(ANSWER, content="", weight=0.0), QUESTION, ANSWER),
        (replace(QUESTION, content=""), ANSWER, QUESTION),
        (QUESTION, replace(ANSWER, content="\U0001f600 Tiếng Việt")),
    ],
)
def test_what_can_be_trained_has_no_finding(messages):
    assert check(conversation(*messages)) is None


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("instruct/alpaca-5000.json", None),
        ("instruct/rasbt-1100.json", None),
        ("instruct/vi-alpaca-5000.jsonl", None),
        ("instruct/self-instruct-seed-tasks.jsonl", 0),
        ("instruct/tulu3-messages-100.jsonl", 0),
        ("preference/oasst-ranked-zh.json", 0),
        ("preference/hh-rlhf-harmless-test.jsonl.gz", None),
    ],
)
def test_the_findings_of_shared_data_are_its_empty_answers(shared, name, number):
    records = [noun.best() if isinstance(noun, Ranking) else noun for _, noun in read(str(shared / name))]
    found = [check(record) for record in records]
    empty = [not record.messages[-1].content.strip() for record in records]
    assert [finding is not None for finding in found] == empty
    assert number is None or sum(empty) == number


TEXT = st.text(max_size=20)


@settings(deadline=None)  # the machine may be busy
@given(TEXT, TEXT, st.floats(0, 1))
def test_copies_land_on_one_side_whatever_their_accents_file_place_and_weights(question, answer, share):
    def written(form: str, origin: Origin, **marks) -> Conversation:
        texts = [unicodedata.normalize(form, text) for text in (question, answer)]
        return Conversation((Message("user", texts[0]), Message("assistant", texts[1], **marks)), origin)

    one = in_held_out(written("NFC", ORIGIN), share)
    assert one == in_held_out(written("NFD", Origin("b.json", 1), weight=0.5, extra={"name": "x"}), share)


@settings(deadline=None)  # the machine may be busy
@given(TEXT, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_what_a_smaller_one_does(text, share, other):
    record = conversation(Message("assistant", text))
    small, large = sorted((share, other))
    assert in_held_out(record, large) or not in_held_out(record, small)


def test_the_side_is_the_same_on_every_machine_and_in_every_version():
    """`printf '[["user", "q"], ["assistant", "a"]]' | b2sum -l 64` prints 20f715045109c607."""
    place = 0x20F715045109C607 / 2**64
    record = conversation(QUESTION, ANSWER)
    assert not in_held_out(record, place - 1e-12)
    assert in_held_out(record, place + 1e-12)


def test_role_boundaries_count():
    sides = [
        in_held_out(conversation(Message("user", "ab"), Message("assistant", str(i))), 0.5)
        != in_held_out(conversation(Message("user", "a"), Message("assistant", f"b{i}")), 0.5)
        for i in range(200)
    ]
    assert 60 < sum(sides) < 140


def test_about_the_share_is_held_out(shared):
    records = [noun for _, noun in read(str(shared / "instruct/alpaca-5000.json"))]
    held_out = sum(in_held_out(record, 0.05) for record in records)
    assert 200 < held_out < 300
    assert not any(in_held_out(record, 0.0) for record in records)
    assert all(in_held_out(record, 1.0) for record in records)


def test_labelled_records_are_split_by_what_they_say_and_not_by_their_number():
    for i in range(100):
        fields = {"question": f"Tiếng {i}", "label": 1}
        moved = {"id": i, "label": 1, "question": unicodedata.normalize("NFD", fields["question"])}
        assert in_held_out(Labelled(fields, ORIGIN), 0.5) == in_held_out(Labelled(moved, ORIGIN), 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(UserError, match="not a share"):
        in_held_out(conversation(ANSWER), share)

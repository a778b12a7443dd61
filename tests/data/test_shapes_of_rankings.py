"""Preferences and ranked answers become rankings, best first, their prompt told apart from the answers."""

import pytest

from heed.data.shapes import convert, recognise
from heed.errors import UserError
from heed.types import Conversation, Origin, Ranking

ORIGIN = Origin("a.jsonl", 7)


def noun(**raw):
    [found] = convert(recognise(raw, ORIGIN), raw, ORIGIN)
    return found


def said(messages):
    return [(message.role, message.content) for message in messages]


def weights(messages):
    return [message.weight for message in messages]


def test_a_preference_of_texts():
    ranking = noun(prompt="p", chosen="c", rejected="r")
    assert isinstance(ranking, Ranking)
    assert said(ranking.prompt) == [("user", "p")]
    assert [said(answer) for answer in ranking.answers] == [[("assistant", "c")], [("assistant", "r")]]
    assert said(ranking.best().messages) == [("user", "p"), ("assistant", "c")]


def test_the_most_specific_shape_wins():
    ranking = noun(instruction="i", input="x", output="o", rejected="r", chosen="c")
    assert said(ranking.prompt) == [("user", "i\n\nx")]
    assert [said(answer)[0][1] for answer in ranking.answers] == ["c", "r"]
    assert ranking.prompt[0].extra == {"instruction": "i", "input": "x"}
    ranking = noun(instruction="i", output="o", rejected="r")
    assert [said(answer)[0][1] for answer in ranking.answers] == ["o", "r"]
    assert isinstance(noun(prompt="p", messages=[{"role": "user", "content": "m"}]), Conversation)
    assert said(noun(prompt="p", completion="c", instruction="unused").messages) == [("user", "p"), ("assistant", "c")]


USER, OTHER = {"role": "user", "content": "p"}, {"role": "user", "content": "p2"}
GOOD, BAD = {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "r"}


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "p", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "p", "chosen": GOOD, "rejected": BAD},
        {"prompt": [USER], "chosen": "c", "rejected": "r"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"question": "p", "chosen": "c", "rejected": "r"},
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
        {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"},
    ],
)
def test_a_preference_is_the_same_however_its_prompt_is_written(raw):
    assert noun(**raw) == noun(prompt="p", chosen="c", rejected="r")


def test_the_shared_beginning_of_whole_conversations_is_context():
    ranking = noun(chosen=[USER, GOOD, OTHER, GOOD], rejected=[USER, GOOD, OTHER, BAD])
    assert said(ranking.prompt) == [("user", "p"), ("assistant", "c"), ("user", "p2")]
    assert weights(ranking.best().messages) == [1, 0, 1, 1]


def test_conversations_that_part_early_keep_their_later_turns_in_the_answers():
    ranking = noun(chosen=[USER, GOOD, OTHER, GOOD], rejected=[USER, BAD])
    assert said(ranking.prompt) == [("user", "p")]
    assert [len(answer) for answer in ranking.answers] == [3, 1]


def test_one_conversation_may_begin_as_the_whole_of_the_other():
    ranking = noun(chosen=[USER, GOOD, OTHER, GOOD], rejected=[USER, GOOD])
    assert said(ranking.prompt) == [("user", "p")]
    assert said(ranking.answers[1]) == [("assistant", "c")]


def test_turns_of_a_dialogue_text_lose_one_space_of_layout_and_nothing_else():
    ranking = noun(
        chosen="\n\nHuman:  a \n\nb Human: x\n\nAssistant: c\n\nHuman:d\n\nAssistant: ",
        rejected="\n\nHuman:  a \n\nb Human: x\n\nAssistant: c\n\nHuman:d\n\nAssistant:  e\n",
    )
    assert said(ranking.prompt) == [("user", " a \n\nb Human: x"), ("assistant", "c"), ("user", "d")]
    assert [said(answer) for answer in ranking.answers] == [[("assistant", "")], [("assistant", " e\n")]]


def test_a_dialogue_of_the_harmless_set_gives_back_its_text(shared):
    from heed.data.read import read, read_raw

    path = str(shared / "preference/hh-rlhf-harmless-test.jsonl.gz")
    for (_, raw), (_, ranking) in zip(read_raw(path), read(path), strict=True):
        for key, answer in zip(("chosen", "rejected"), ranking.answers, strict=True):
            speakers = {"user": "Human", "assistant": "Assistant"}
            turns = "".join(f"\n\n{speakers[m.role]}: {m.content}" for m in ranking.prompt + answer)
            assert turns == raw[key]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"chosen": "c", "rejected": "r"}, "no prompt that both answers share"),
        ({"chosen": [USER, GOOD], "rejected": [OTHER, BAD]}, "no prompt that both answers share"),
        ({"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "prompt is not part of the conversations"),
        ({"prompt": "p", "chosen": [], "rejected": [BAD]}, "lacks an answer"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "tools": '[{"name": "f"}]'}, "tools or template arguments"),
    ],
)
def test_a_preference_that_cannot_be_told_apart_is_refused(raw, problem):
    with pytest.raises(UserError, match=problem):
        noun(**raw)


# ---- ranked answers


@pytest.mark.parametrize(
    "raw",
    [
        {"instruction": "i", "input": "", "output": ["1", "2", "3"]},
        {"instruction": "i", "answers": ["1", "2", "3"]},
        {"instruction": "i", "responses": ["1", "2", "3"]},
        {"prompt": "i", "answers": ["1", "2", "3"]},
        {"prompt": "i", "responses": [[{"role": "assistant", "content": n}] for n in "123"]},
    ],
)
def test_ranked_answers_come_best_first(raw):
    ranking = noun(**raw)
    assert said(ranking.prompt) == [("user", "i")]
    assert [said(answer) for answer in ranking.answers] == [[("assistant", n)] for n in "123"]


def test_earlier_turns_of_ranked_answers_are_context():
    ranking = noun(instruction="i", history=[["a", "b"]], output=["1", "2"])
    assert weights(ranking.best().messages) == [1, 0, 1, 1]


def test_scores_and_single_answers_are_refused():
    with pytest.raises(UserError, match=r"scores are not read[\s\S]*best first"):
        noun(instruction="i", output=["1", "2"], scores=[0.1, 0.9])
    with pytest.raises(UserError, match="two answers or more"):
        noun(instruction="i", output=["1"])

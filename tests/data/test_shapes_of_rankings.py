"""Preferences and ranked answers become rankings, best first, their prompt told apart from the answers."""

import numpy as np
import pytest

from heed.data.shapes.rankings import with_scores_of_pair
from heed.data.shapes.recognise import convert, recognise, to_prompts
from heed.errors import UserError
from heed.types import Conversation, Judged, Message, Origin, Ranking

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


def test_a_single_ranked_answer_is_read_for_whoever_can_use_it():
    ranking = noun(instruction="i", output=["1"])
    assert len(ranking.answers) == 1
    assert said(ranking.best().messages) == [("user", "i"), ("assistant", "1")]
    with pytest.raises(UserError, match="a ranking has no answers"):
        noun(instruction="i", output=[])


@pytest.mark.parametrize(
    ("given", "order", "scores"),
    [
        ({"scores": [0.1, 0.9, 0.5]}, "231", (0.9, 0.5, 0.1)),
        ({"scores": [1, 2, 1]}, "213", (2, 1, 1)),
        ({"scores": [-3, -3, -3]}, "123", (-3, -3, -3)),
        ({"scores": "[1, 2, 3]"}, "321", (3, 2, 1)),
        ({"ranks": [2, 3, 1]}, "312", ()),
        ({"ranks": [2, 1, 2]}, "213", (1, 0, 0)),
        ({"ranks": [10, 7, 7]}, "231", (1, 1, 0)),
        ({"ranks": [1, 1, 1]}, "123", (0, 0, 0)),
        ({"scores": None, "ranks": None}, "123", ()),
    ],
)
def test_scores_and_ranks_sort_answers_and_keep_ties_as_they_were_written(given, order, scores):
    ranking = noun(instruction="i", output=["1", "2", "3"], **given)
    assert "".join(answer[0].content for answer in ranking.answers) == order
    assert ranking.scores == scores
    assert ranking.are_ranks == ("ranks" in given and scores != ())
    assert said(ranking.best().messages)[-1] == ("assistant", order[0])


@pytest.mark.parametrize(
    "given",
    [
        {"scores": [1]},
        {"scores": [1, 2, 3]},
        {"scores": [1, "high"]},
        {"scores": [1, True]},
        {"scores": [1, float("nan")]},
        {"ranks": [1, None]},
        {"scores": [2, 1], "ranks": [1, 2]},
        {"score": [2, 1]},
        {"rankings": [1, 2]},
        {"scores": 3},
    ],
)
def test_an_order_that_cannot_be_told_is_refused(given):
    with pytest.raises(
        UserError, match=r"the order of ranked answers cannot be told|not a number|broken JSON"
    ) as caught:
        noun(instruction="i", output=["1", "2"], **given)
    assert caught.value.where == str(ORIGIN)


# ---- how much better the chosen answer is


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        ({}, ()),
        ({"margin": 2}, (2, 0)),
        ({"margin": "0.25"}, (0.25, 0)),
        ({"margin": -1}, (-1, 0)),
        ({"score_chosen": 8.5, "score_rejected": 3}, (8.5, 3)),
        ({"chosen_score": 2, "rejected_score": 2}, (2, 2)),
        ({"chosen_rating": 5, "rejected_rating": 1}, (5, 1)),
        ({"margin": 1, "score_chosen": 8, "score_rejected": 3}, (1, 0)),
        ({"margin": None, "score_chosen": None}, ()),
    ],
)
def test_a_pair_takes_its_margin_or_scores_from_beside_it(given, scores):
    raw = {"prompt": "p", "chosen": "c", "rejected": "r", **given}
    assert with_scores_of_pair(noun(**raw), raw).scores == scores
    assert noun(**raw).scores == ()


@pytest.mark.parametrize("given", [{"margin": "large"}, {"score_chosen": 1}, {"margin": True}, {"margin": [1]}])
def test_a_margin_that_is_no_number_is_refused_only_where_margins_are_read(given):
    raw = {"prompt": "p", "chosen": "c", "rejected": "r", **given}
    assert noun(**raw).scores == ()
    with pytest.raises(UserError):
        with_scores_of_pair(noun(**raw), raw)


# ---- judged answers


@pytest.mark.parametrize("key", ["completion", "response"])
@pytest.mark.parametrize(("label", "is_desirable"), [(True, True), (False, False), (1, True), (0, False), (1.0, True)])
def test_a_label_of_yes_or_no_judges_an_answer(key, label, is_desirable):
    judged = noun(**{"prompt": "p", key: "c", "label": label})
    assert judged == Judged((Message("user", "p"),), (Message("assistant", "c"),), is_desirable, ORIGIN)


def test_a_judged_answer_may_be_messages_after_messages():
    judged = noun(prompt=[USER, GOOD, OTHER], completion=[BAD], label=False)
    assert said(judged.conversation().messages) == [
        ("user", "p"),
        ("assistant", "c"),
        ("user", "p2"),
        ("assistant", "r"),
    ]
    assert weights(judged.conversation().messages) == [1, 0, 1, 1]


@pytest.mark.parametrize("label", [2, -1, 0.5, "positive", "", None])
def test_a_label_that_is_no_truth_value_is_no_answer_to_imitate(label):
    with pytest.raises(UserError, match="not a truth value"):
        noun(prompt="p", completion="c", label=label)


TRUE = [True, "True", "true", " TRUE ", 1, 1.0, "1", "yes", "y", np.bool_(True), np.int64(1)]
FALSE = [False, "False", "false", "FALSE", 0, 0.0, "0", "no", "f", np.bool_(False), "0.0"]
BESIDE = [
    {"prompt": "p", "completion": "c"},
    {"prompt": "p", "response": "c"},
    {"question": "p", "answer": "c"},
    {"instruction": "p", "output": "c"},
    {"messages": [USER, GOOD]},
]


@pytest.mark.parametrize(("labels", "is_desirable"), [(TRUE, True), (FALSE, False)])
@pytest.mark.parametrize("beside", BESIDE, ids=["completion", "response", "question", "alpaca", "messages"])
def test_a_label_judges_the_answer_however_a_truth_value_is_written_and_in_every_shape(labels, is_desirable, beside):
    for label in labels:
        judged = noun(**beside, label=label)
        assert isinstance(judged, Judged)
        assert judged.is_desirable is is_desirable
        assert said(judged.prompt) == [("user", "p")]
        assert said(judged.answer) == [("assistant", "c")]


# ---- prompts


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ({"prompt": "p"}, "prompt"),
        ({"prompt": [USER]}, "prompt"),
        ({"messages": [USER]}, "messages"),
        ({"instruction": "p"}, "instruction"),
        ({"instruction": "p", "input": ""}, "instruction"),
        ({"question": "p", "answer": "42"}, "question"),
        ({"prompt": "p", "answer": "42"}, "prompt"),
        ({"prompt": "p", "response": "r"}, "prompt/response (answers not read)"),
        ({"prompt": "p", "completion": "r", "label": False}, "prompt/completion/label (answers not read)"),
        ({"instruction": "p", "output": "r"}, "alpaca (answers not read)"),
        ({"messages": [USER, GOOD]}, "messages (answers not read)"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "preference (answers not read)"),
        ({"instruction": "p", "output": ["1", "2"]}, "ranked answers (answers not read)"),
    ],
)
def test_every_record_asks_something(raw, name):
    found, [prompt] = to_prompts(raw, ORIGIN)
    assert (found, said(prompt.messages)) == (name, [("user", "p")])
    assert prompt.fields == raw
    assert prompt.origin == ORIGIN


def test_a_dialogue_asks_what_comes_before_its_last_answer():
    _, [prompt] = to_prompts({"messages": [USER, GOOD, OTHER, BAD]}, ORIGIN)
    assert said(prompt.messages) == [("user", "p"), ("assistant", "c"), ("user", "p2")]
    _, [prompt] = to_prompts({"instruction": "p", "input": "x", "system": "s"}, ORIGIN)
    assert said(prompt.messages) == [("system", "s"), ("user", "p\n\nx")]


def test_a_record_that_asks_nothing_is_refused():
    with pytest.raises(UserError, match=r"unknown shape[\s\S]*prompt; instruction; question"):
        to_prompts({"text": "p"}, ORIGIN)

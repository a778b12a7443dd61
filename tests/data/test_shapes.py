"""Records of every shape become the conversation they mean."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.data.shapes.recognise import SHAPES, convert, recognise
from heed.errors import UserError
from heed.types import Conversation, Origin

ORIGIN = Origin("a.jsonl", 7)
NFC, NFD = (unicodedata.normalize(form, "Tiếng Việt") for form in ("NFC", "NFD"))


def nouns(**raw):
    shape = recognise(raw, ORIGIN)
    return convert(shape, raw, ORIGIN)


def noun(**raw):
    [found] = nouns(**raw)
    return found


def said(messages):
    return [(message.role, message.content) for message in messages]


def weights(messages):
    return [message.weight for message in messages]


# ---- supervised


@pytest.mark.parametrize(("given", "content"), [("", "do"), ("this", "do\n\nthis"), (None, "do")])
def test_alpaca_asks_the_instruction_and_its_input_and_keeps_both_for_templates(given, content):
    conversation = noun(instruction="do", input=given, output="done")
    assert said(conversation.messages) == [("user", content), ("assistant", "done")]
    assert conversation.messages[0].extra == {"instruction": "do", "input": given or ""}
    assert conversation.origin == ORIGIN


def test_alpaca_needs_no_input():
    assert said(noun(instruction="do", output="done").messages) == [("user", "do"), ("assistant", "done")]


def test_alpaca_takes_a_system_message_and_earlier_turns():
    conversation = noun(instruction="3", output="4", system="S", history=[["1", "2"]])
    assert said(conversation.messages) == [
        ("system", "S"),
        ("user", "1"),
        ("assistant", "2"),
        ("user", "3"),
        ("assistant", "4"),
    ]
    assert weights(conversation.messages) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("answer", ["completion", "response"])
def test_prompt_and_answer_as_text(answer):
    conversation = noun(prompt=" a\n", **{answer: f" {NFD}"})
    assert said(conversation.messages) == [("user", " a\n"), ("assistant", f" {NFD}")]


def test_prompt_and_completion_as_messages_train_the_completion_only():
    conversation = noun(
        prompt=[
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "3"},
        ],
        completion=[{"role": "assistant", "content": "4"}],
        tools='[{"type": "function", "function": {"name": "f"}}]',
    )
    assert said(conversation.messages) == [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    assert weights(conversation.messages) == [1, 0, 1, 1]
    assert conversation.tools == ({"type": "function", "function": {"name": "f"}},)


def test_the_context_of_a_dolly_record_is_its_input():
    conversation = noun(instruction="q", context="c", response="a", category="closed_qa")
    assert said(conversation.messages) == [("user", "q\n\nc"), ("assistant", "a")]


def test_a_seed_task_says_one_conversation_for_each_instance():
    found = nouns(id="s", instruction="i", instances=[{"input": "", "output": "1"}, {"input": "x", "output": "2"}])
    assert [said(c.messages) for c in found] == [
        [("user", "i"), ("assistant", "1")],
        [("user", "i\n\nx"), ("assistant", "2")],
    ]
    assert {c.origin for c in found} == {ORIGIN}


def test_messages_carry_everything_a_template_may_read():
    raw = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "weather?", "name": "An"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "look",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}}],
            },
            {"role": "tool", "content": "sun", "tool_call_id": "1"},
            {"role": "assistant", "content": "sunny", "thinking": "so"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "chat_template_kwargs": {"enable_thinking": True},
        "documents": [{"title": "t", "text": "x"}],
    }
    conversation = noun(**raw)
    assert [message.role for message in conversation.messages] == [
        "developer",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert [dict(message.extra) for message in conversation.messages] == [
        {},
        {"name": "An"},
        {
            "reasoning_content": "look",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}],
        },
        {"tool_call_id": "1"},
        {"thinking": "so"},
    ]
    assert conversation.messages[2].content == ""
    assert conversation.tools == tuple(raw["tools"])
    assert conversation.template_arguments == {"enable_thinking": True, "documents": raw["documents"]}
    as_text = {key: json.dumps(value) for key, value in raw.items()}
    assert noun(**as_text) == conversation


def test_a_call_without_arguments_has_an_empty_object():
    call = {"type": "function", "function": {"name": "f", "arguments": ""}}
    conversation = noun(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert conversation.messages[0].extra["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_text_parts_are_joined_and_other_parts_refused():
    parts = [{"type": "text", "text": f"{NFC} "}, {"type": "text", "text": NFD}]
    assert noun(messages=[{"role": "user", "content": parts}]).messages[0].content == f"{NFC} {NFD}"
    parts.append({"type": "image_url", "image_url": {"url": "x"}})
    with pytest.raises(UserError, match=r"part that is not text[\s\S]*record 7[\s\S]*image_url"):
        noun(messages=[{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"),
        ("user", "user"),
        ("gpt", "assistant"),
        ("assistant", "assistant"),
        ("chatgpt", "assistant"),
        ("bard", "assistant"),
        ("bing", "assistant"),
        ("model", "assistant"),
        ("system", "system"),
        ("tool", "tool"),
        ("observation", "tool"),
        ("function_response", "tool"),
        ("tool_response", "tool"),
        ("function", "tool"),
        ("ipython", "tool"),
        ("Assistant", "assistant"),
    ],
)
def test_sharegpt_role_names(name, role):
    conversation = noun(conversations=[{"from": name, "value": "x"}])
    assert said(conversation.messages) == [(role, "x")]
    assert conversation == noun(conversations=[{"role": name, "content": "x"}])


def test_a_sharegpt_function_call_is_a_tool_call_of_the_assistant():
    tool = {"name": "f", "description": "d", "parameters": {}}
    conversation = noun(
        system="S",
        conversations=[
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        tools=json.dumps([tool]),
    )
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].extra["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    assert conversation.tools == ({"type": "function", "function": tool},)


# ---- weights


@pytest.mark.parametrize(
    ("marks", "weight"),
    [
        ({}, 1.0),
        ({"train": False}, 0.0),
        ({"train": True}, 1.0),
        ({"weight": 0}, 0.0),
        ({"weight": 0.25}, 0.25),
        ({"weight": 0.5, "train": True}, 0.5),
        ({"weight": 0.5, "train": False}, 0.0),
        ({"weight": None, "train": None}, 1.0),
    ],
)
def test_train_and_weight_of_a_message_are_honoured(marks, weight):
    conversation = noun(messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **marks}])
    assert weights(conversation.messages) == [1.0, weight]
    assert conversation.messages[1].extra == {}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1, -0.001, "1", True, [1]])
def test_a_weight_that_is_no_number_from_0_up_is_refused_at_once(weight):
    with pytest.raises(UserError, match=r"weight cannot be used[\s\S]*record 7"):
        noun(messages=[{"role": "assistant", "content": "a", "weight": weight}])


def test_training_a_user_message_is_refused_rather_than_ignored():
    assert noun(messages=[{"role": "user", "content": "a", "train": False, "weight": 0}]).messages[0].weight == 0
    for marks in ({"train": True}, {"weight": 0.5}):
        with pytest.raises(UserError, match="a user message is marked for training"):
            noun(messages=[{"role": "user", "content": "a", **marks}])
    with pytest.raises(UserError, match="neither true nor false"):
        noun(messages=[{"role": "assistant", "content": "a", "train": "no"}])


# ---- mistakes


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"messages": "[{"}, "text of 'messages' is broken JSON"),
        ({"messages": ["hi"]}, "a message is not an object"),
        ({"messages": [{"content": "hi"}]}, "a message has no role"),
        ({"messages": [{"role": "user"}]}, "a message has no content"),
        ({"messages": [{"role": "user", "content": 5}]}, "content is not text"),
        ({"messages": [{"role": "assitant", "content": "a"}]}, "unknown role"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"x": 1}]}]}, "no function name"),
        ({"messages": [], "tools": "{}"}, "'tools' is not a list"),
        ({"messages": [], "tools": [3]}, "a tool is not an object"),
        ({"messages": [], "chat_template_kwargs": [1]}, "'chat_template_kwargs' is not an object"),
        ({"conversations": [{"from": "function_call", "value": "f(1)"}]}, "broken JSON"),
        ({"instruction": "i", "input": ["x"], "output": "o"}, "'input' is not text"),
        ({"instruction": "i", "output": "o", "history": ["x"]}, "'history' is not a list of pairs"),
        ({"instruction": "i", "output": "o", "history": 3}, "'history' is not a list of pairs"),
        ({"instruction": "i", "output": "o", "system": 3}, "messages are not a list"),
        ({"instruction": "i", "instances": []}, "no instances"),
        ({"instruction": "i", "instances": [{"input": "x"}]}, "an instance has no output"),
        ({"instruction": "i", "output": 42}, "unknown shape"),
        ({}, "unknown shape"),
    ],
)
def test_a_mistake_in_a_record_is_named_with_its_record(raw, problem):
    with pytest.raises(UserError, match=rf"{problem}[\s\S]*a.jsonl, record 7") as caught:
        noun(**raw)
    assert all((caught.value.found, caught.value.expected, caught.value.fix))


def test_a_role_that_nobody_knows_is_refused_for_it_would_silently_be_context():
    for role in ("critic", "narrator", "Alice"):
        with pytest.raises(UserError, match=rf"unknown role[\s\S]*{role}"):
            noun(messages=[{"role": role, "content": "x"}, {"role": "assistant", "content": "y"}])


def test_a_null_answer_is_an_empty_one_that_the_check_will_find():
    assert noun(instruction="i", input="x", output=None).messages[-1].content == ""
    assert isinstance(noun(instruction="i", output="o", chosen=None, rejected=None), Conversation)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = sorted({key for shape in SHAPES for key in shape.needs} | {"input", "system", "history", "tools", "documents"})


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(SHAPES), st.data())
def test_any_record_is_converted_or_refused_with_a_user_error(shape, data):
    raw = {key: data.draw(JSON) for key in shape.needs} | data.draw(st.dictionaries(st.sampled_from(KEYS), JSON))
    try:
        found = nouns(**raw)
    except UserError:
        return
    for item in found:
        messages = item.messages if isinstance(item, Conversation) else sum(item.answers, item.prompt)
        assert all(isinstance(message.content, str) and isinstance(message.role, str) for message in messages)

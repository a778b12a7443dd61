"""Masks are proved, or the record is a finding: templates made to trip the proof."""

from typing import Any

import pytest
from mask_cases import ORIGIN, assistant, built_in, finding, inline, rendered, system, trained, trained_texts, user

from heed.data.chat import inference_prompt, masked
from heed.data.rendering.stops import Endings, endings, stop_tokens
from heed.types import Conversation, Finding, Message

HEADERS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}\n{% endfor %}"
GENERATION = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def test_a_generation_tag_changes_nothing() -> None:
    plain = inline(HEADERS + GENERATION)
    tagged = inline(
        "{% for m in messages %}<|{{ m.role }}|>{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}\n"
        "{% endfor %}" + GENERATION
    )
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    assert rendered(tagged, *messages) == rendered(plain, *messages)
    assert trained(plain, *messages) == [["b</s>", "d</s>"]]


def test_a_template_without_a_generation_prompt_trains_the_header_the_model_must_say_itself() -> None:
    assert trained(inline(HEADERS), user("a"), assistant("b")) == [["<|assistant|>b</s>"]]


def test_a_template_that_never_stops_is_a_finding_that_says_what_to_write() -> None:
    found = finding(inline("{% for m in messages %}{{ m.content }}\n{% endfor %}"), user("a"), assistant("b"))
    assert "would never stop" in found.problem
    assert "{{ eos_token }}" in found.fix
    assert finding(inline(HEADERS, eos_token=None), user("a"), assistant("b")).problem == found.problem
    assert stop_tokens(inline(HEADERS, eos_token=None)) == ()


def test_a_stop_token_that_only_the_last_turn_gets_makes_the_earlier_ones_branches() -> None:
    template = inline(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if loop.last and m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}{% endfor %}" + GENERATION
    )
    whole, branch = rendered(template, user("a"), assistant("b"), user("c"), assistant("d"))
    assert whole.text == "<|user|>a<|assistant|>b<|user|>c<|assistant|>d</s>"
    assert trained_texts(whole) == ["d</s>"]
    assert branch.text == "<|user|>a<|assistant|>b</s>"
    assert trained_texts(branch) == ["b</s>"]


@pytest.mark.parametrize(
    "content",
    [
        "{{ m.content }}{{ m.content }}",
        "{{ m.content[:3] }}",
        "{{ m.content | length }}",
        "{% if m.role == 'user' %}{{ m.content }}{% endif %}",
    ],
)
def test_a_template_that_cuts_repeats_or_drops_an_answer_is_a_finding(content: str) -> None:
    template = inline(HEADERS.replace("{{ m.content }}", content) + GENERATION)
    assert finding(template, user("a"), assistant("one two three")).problem.startswith("what is trained cannot be told")


def test_an_answer_that_the_template_says_again_later_is_a_finding() -> None:
    template = inline(HEADERS.replace("\n{% endfor", "(said {{ m.content }})\n{% endfor") + GENERATION)
    assert "repeats" in finding(template, user("a"), assistant("b")).found


def test_an_answer_is_trained_as_the_template_writes_it() -> None:
    template = inline(HEADERS.replace("{{ m.content }}", "{{ m.content.replace('\n\n', '\n') }}") + GENERATION)
    assert trained(template, user("a"), assistant("b\n\nc")) == [["b\nc</s>"]]


def test_a_prompt_that_says_what_the_render_does_not_is_a_finding() -> None:
    template = inline(HEADERS + "{% if add_generation_prompt %}<|assistant|>Sure, {% endif %}")
    assert "<|assistant|>Sure, '" in finding(template, user("a"), assistant("b")).found


def test_a_prompt_of_another_wording_and_the_same_length_is_a_finding() -> None:
    template = inline(HEADERS + GENERATION.replace("assistant", "ASSISTANT"))
    assert "<|ASSISTANT|>" in finding(template, user("a"), assistant("b")).found


def test_an_answer_that_begins_inside_the_prompt_is_a_finding() -> None:
    template = inline(HEADERS + "{% if add_generation_prompt %}<|assistant|>Sure{% endif %}")
    assert finding(template, user("a"), assistant("Sure, why not"))


def test_an_answer_about_thinking_tags_is_trained_as_it_stands() -> None:
    assert trained(built_in("chatml"), user("a"), assistant("Write <think>")) == [["Write <think><|im_end|>"]]
    assert trained(built_in("chatml"), user("a"), assistant("</think> ends it.")) == [["</think> ends it.<|im_end|>"]]


TOOL_CALLS = "{% for call in m.tool_calls %}{{ call.function.name }}={{ call.function.arguments | tojson }}{% endfor %}"


def call(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"key": 1}}}


def test_a_tool_call_that_the_template_leaves_out_is_a_finding() -> None:
    every = inline(HEADERS.replace("{{ m.content }}", "{{ m.content }}" + TOOL_CALLS) + GENERATION)
    first = inline(every.source.replace("in m.tool_calls", "in (m.tool_calls or [])[:1]"))
    calls = [user("a"), assistant("", tool_calls=[call("one"), call("two")])]
    assert trained(every, *calls) == [['one={"key": 1}two={"key": 1}</s>']]
    assert "tool calls" in finding(first, *calls).found
    same_twice = assistant("", tool_calls=[call("one"), call("one")])
    assert "tool calls" in finding(first, user("a"), same_twice).found


@pytest.mark.parametrize("ending", ["<|system|>Reply.{{ eos_token }}", "<|done|>"])
def test_a_stop_token_that_is_not_the_tool_calls_own_does_not_count(ending: str) -> None:
    unclosed = inline(
        "{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}" + TOOL_CALLS + "{% else %}"
        "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}" + GENERATION + ending
    )
    assert endings(unclosed, False, "{}") == Endings("</s>", "", None, shows_calls=True)
    assert finding(unclosed, user("a"), assistant("", tool_calls=[call("one")]))


def test_text_between_an_answer_and_its_stop_token_is_trained() -> None:
    template = inline(HEADERS.replace("{{ eos_token }}", " END{{ eos_token }}") + GENERATION)
    assert trained(template, user("a"), assistant("b"), user("c"), assistant("d")) == [["b END</s>", "d END</s>"]]


def test_a_private_use_character_of_the_template_itself_is_not_taken_for_a_mark() -> None:
    template = inline("\ue000\ue001" + HEADERS + GENERATION)
    assert trained(template, user("\ue002"), assistant("\ue003b\ue004")) == [["\ue003b\ue004</s>"]]


def test_consecutive_answers_each_follow_their_own_prompt() -> None:
    template = inline(HEADERS + GENERATION)
    assert trained(template, user("a"), assistant("b"), assistant("c", 0), assistant("d")) == [["b</s>", "d</s>"]]


def test_an_untrained_end_stays_and_a_conversation_may_end_with_the_user() -> None:
    (result,) = rendered(inline(HEADERS + GENERATION), user("a"), assistant("b"), user("c"))
    assert result.text == "<|user|>a</s>\n<|assistant|>b</s>\n<|user|>c</s>\n"
    assert trained_texts(result) == ["b</s>"]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([user("a")], "a conversation without an assistant turn"),
        ([], "a conversation without an assistant turn"),
        ([user("a"), assistant("b", 0)], "nothing to train in this conversation"),
        ([user("a"), assistant("")], "an empty response"),
        ([assistant("a"), user("b")], "the assistant speaks first"),
        ([user("a"), assistant("b", reasoning="x </s>")], "special-token text in the data"),
        ([user("a", input=["x", {"y": "<|user|>"}]), assistant("b")], "special-token text in the data"),
        ([system("<|assistant|>"), user("a"), assistant("b")], "special-token text in the data"),
    ],
)
def test_a_record_that_cannot_be_used_is_a_finding(messages: list[Message], problem: str) -> None:
    template = inline(HEADERS + GENERATION + "{# <|user|> <|assistant|> #}")
    found = masked(Conversation(tuple(messages), ORIGIN), template)
    assert isinstance(found, Finding)
    assert found.problem == problem
    assert found.origin == ORIGIN
    assert "answers.jsonl, record 7" in str(found.error())


@pytest.mark.parametrize("given", [{"tools": ({"name": "</s>"},)}, {"documents": [{"text": "a </s> b"}]}])
def test_a_special_token_in_tools_or_documents_is_a_finding(given: dict[str, Any]) -> None:
    found = finding(inline(HEADERS + GENERATION), user("a"), assistant("b"), **given)
    assert found.found == "'</s>' in its tools or template arguments"


def test_an_opening_answer_that_is_not_trained_is_context() -> None:
    assert trained(inline(HEADERS + GENERATION), assistant("a", 0), user("b"), assistant("c")) == [["c</s>"]]


def test_html_is_not_special_where_no_tokenizer_says_so() -> None:
    assert trained(built_in("chatml"), user("<s>a"), assistant("<u>b</u>")) == [["<u>b</u><|im_end|>"]]


def test_the_prompt_for_chatting_ends_where_the_answer_starts() -> None:
    template = built_in("alpaca")
    (result,) = rendered(template, system("s"), user("a"), assistant("b"))
    assert inference_prompt([system("s"), user("a")], template) == result.text[: result.spans[0].start]

"""Tool calls are trained as each template writes them, to a stop token, whoever wrote the template."""

import json
from pathlib import Path
from typing import Any

import pytest
from mask_cases import assistant, built_in, family, finding, inline, rendered, system, trained, trained_texts, user

from heed.data.answers import rendered_answer
from heed.data.chat import inference_prompt
from heed.data.read import read
from heed.data.shapes.recognise import convert, recognise, to_prompts
from heed.types import Conversation, Finding, Judged, Message, Origin, Ranking

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
    },
}


def call(name: str = "weather", **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "id": "abcdefghi", "function": {"name": name, "arguments": arguments}}


RESULT = Message("tool", "25", extra={"name": "weather", "tool_call_id": "abcdefghi"})
CALLS = [user("a"), assistant("", tool_calls=[call(city="Huế", days=3)]), RESULT, assistant("It is 25.")]
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Huế", "days": 3}}\n</tool_call>'

THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set content = m.content.split('</think>')[-1].lstrip('\n') %}{{ '<|im_start|>assistant' }}"
    "{% if not m.tool_calls %}{{ '\n' + content }}{% elif m.content %}{{ '\n' + content }}{% endif %}"
    '{% for call in m.tool_calls or [] %}{{ \'\n<tool_call>\n{"name": "\' + call.function.name }}'
    '{{ \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content }}"
    "{{ '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""as QwQ's: a prompt that opens a thought, calls without one"""

LAST_RESULT = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|im_start|>tool\n<tool_response>\n' + m.content }}"
    "{{ '\n</tool_response>\n' if not loop.last else '\n</tool_response>' }}{{ '<|im_end|>' }}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant' }}{% for call in m.tool_calls %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""as Hermes 3's: a result is written otherwise where it comes last"""


def test_a_prompt_that_opens_a_thought_is_answered_by_the_end_of_it_and_the_calls() -> None:
    results = rendered(inline(THINKING, "<|im_end|>"), *CALLS)
    opening = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert results[0].text == f"{opening}\n</think>\n\n{WRITTEN}<|im_end|>"
    assert [trained_texts(each) for each in results] == [
        [f"\n</think>\n\n{WRITTEN}<|im_end|>"],
        ["\n</think>\n\nIt is 25.<|im_end|>"],
    ]
    thought = assistant("<think>\nI must look.\n</think>\n\nWait.", tool_calls=[call(city="Huế", days=3)])
    assert trained(inline(THINKING, "<|im_end|>"), user("a"), thought) == [
        [f"I must look.\n</think>\n\nWait.\n{WRITTEN}<|im_end|>"]
    ]


def test_a_result_that_reads_otherwise_at_the_end_makes_the_answer_a_branch() -> None:
    template = inline(LAST_RESULT, "<|im_end|>")
    whole, branch = rendered(template, *CALLS)
    assert trained_texts(whole) == [f"{WRITTEN}<|im_end|>"]
    assert trained_texts(branch) == ["It is 25.<|im_end|>"]
    assert branch.text == inference_prompt(CALLS[:3], template) + "It is 25.<|im_end|>"


def test_calls_that_a_template_does_not_end_get_the_stop_token_of_an_answer() -> None:
    endless = inline(
        "{% for m in messages %}<|turn|>{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "{{ c.function.name }}({{ c.function.arguments | tojson }})\n{% endfor %}{% else %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
    )
    first, second = rendered(endless, *CALLS)
    written = 'weather({"city": "Huế", "days": 3})'
    assert [trained_texts(each) for each in (first, second)] == [["It is 25.</s>"], [f"{written}</s>"]]
    assert second.text == f"<|turn|>user:a</s><|turn|>assistant:{written}</s>"


def test_command_r_ends_its_calls_as_it_ends_an_answer(shared: Path) -> None:
    template = family(shared, "command-r-v01")
    results = rendered(template, *CALLS, tools=(TOOL,))
    action = '\nAction:\n```json\n[\n    {\n        "tool_name": "weather",\n        "parameters": {\n            '
    action += '"city": "Huế",\n            "days": 3\n        }\n    }\n]```<|END_OF_TURN_TOKEN|>'
    assert [trained_texts(each) for each in results] == [[action], ["It is 25.<|END_OF_TURN_TOKEN|>"]]
    assert results[0].text == inference_prompt(CALLS[:1], template, (TOOL,)) + action
    (last,) = rendered(template, *CALLS[:2], tools=(TOOL,))
    assert trained_texts(last) == [action]


def test_deepseek_r1_calls_after_its_thought_and_stops(shared: Path) -> None:
    template = family(shared, "deepseek-r1-distill-qwen-7b")
    results = rendered(template, *CALLS)
    called = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Huế", "days": 3}\n```<｜tool▁call▁end｜><｜end▁of▁sentence｜>'
    )
    trained_by_text = {text for each in results for text in trained_texts(each)}
    assert trained_by_text == {f"\n</think>\n\n{called}", "It is 25.<｜end▁of▁sentence｜>"}
    asked = finding(template, *CALLS, tools=(TOOL,))
    assert "weather" in asked.found
    assert "'tools'" in asked.fix


def test_deepseek_r1_stops_once_after_two_calls(shared: Path) -> None:
    two = [user("a"), assistant("", tool_calls=[call(city="Huế"), call("clock", at=1)])]
    [[text]] = trained(family(shared, "deepseek-r1-distill-qwen-7b"), *two)
    assert text.count("<｜end▁of▁sentence｜>") == 1
    assert text.endswith('{"at": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>')


def test_words_beside_calls_that_deepseek_r1_leaves_out_are_a_finding(shared: Path) -> None:
    found = finding(family(shared, "deepseek-r1-distill-qwen-7b"), user("a"), assistant("Look.", tool_calls=[call()]))
    assert "--template chatml" in found.fix


# ---- the built-in template


def test_chatml_lists_tools_trains_calls_and_shows_results() -> None:
    (result,) = rendered(built_in("chatml"), system("You help."), *CALLS, tools=(TOOL,))
    assert trained_texts(result) == [f"{WRITTEN}<|im_end|>", "It is 25.<|im_end|>"]
    opening = result.text[: result.spans[0].start]
    assert opening.startswith("<|im_start|>system\nYou help.\n\n")
    assert f"<tools>\n{json.dumps(TOOL, ensure_ascii=False)}\n</tools>" in opening
    assert opening.endswith("<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert opening.count("<|im_start|>system") == 1
    between = result.text[result.spans[0].stop : result.spans[1].start]
    assert between == "\n<|im_start|>tool\n<tool_response>\n25\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def test_chatml_without_tools_is_what_it_was() -> None:
    (result,) = rendered(built_in("chatml"), system("s"), user("a"), assistant("b"))
    assert result.text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_chatml_says_words_and_several_calls_in_one_turn() -> None:
    said = assistant("Wait.", tool_calls=[call(city="Huế", days=3), call("clock")])
    assert trained(built_in("chatml"), user("a"), said) == [
        [f'Wait.\n{WRITTEN}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call><|im_end|>']
    ]


@pytest.mark.parametrize("place", ["name", "arguments"])
def test_a_call_of_which_a_part_is_lost_is_a_finding(place: str) -> None:
    source = built_in("chatml").source
    loses = {
        "name": source.replace('(function["name"] | tojson)', '"weather"'),
        "arguments": source.replace('set arguments = function["arguments"] or {}', 'set arguments = {"city": "Huế"}'),
    }[place]
    assert loses != source
    assert (
        "tool calls"
        in finding(inline(loses, "<|im_end|>"), *CALLS[:2]).found + finding(inline(loses, "<|im_end|>"), *CALLS[:2]).fix
    )


def test_a_call_in_the_context_that_is_not_shown_is_a_finding() -> None:
    plain = built_in("plain")
    found = finding(plain, user("a"), assistant("", 0, tool_calls=[call(city="Huế")]), RESULT, assistant("b"))
    assert "message 2" in found.found
    assert "weather" in found.found


FILES = ("tool_calls.jsonl", "sharegpt_fc.jsonl", "function_call.jsonl", "tool_call_role.jsonl")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", ["chatml", "qwen2.5-0.5b-instruct", "qwen3-0.6b", "llama-3.1-8b-instruct"])
def test_records_with_tools_as_people_have_them_are_trained(shared: Path, file: str, name: str) -> None:
    template = built_in(name) if name == "chatml" else family(shared, name)
    for _, noun in read(str(shared / "field" / file)):
        assert isinstance(noun, Conversation)
        results = rendered(template, *noun.messages, tools=noun.tools)
        texts = [text for each in results for text in trained_texts(each)]
        assert len(texts) == 2
        assert any("get_weather" in text and "town" in text for text in texts)
        assert any("It is 21 degrees." in text for text in texts)


# ---- in what is compared, judged and asked

ASKED = {"prompt": [{"role": "user", "content": "How is it in Huế?"}], "tools": [TOOL]}
CALLING = [{"role": "assistant", "content": None, "tool_calls": [call(city="Huế", days=3)]}]


@pytest.mark.parametrize(
    "record",
    [
        {**ASKED, "chosen": CALLING, "rejected": [{"role": "assistant", "content": "No idea."}]},
        {**ASKED, "answers": [CALLING, "No idea."]},
        {**ASKED, "completion": CALLING, "label": True},
    ],
    ids=["pair", "ranking", "judged"],
)
def test_rankings_and_judged_answers_have_tools_and_train_calls(record: dict[str, Any]) -> None:
    origin = Origin("a.jsonl", 1)
    [noun] = convert(recognise(record, origin), record, origin)
    assert isinstance(noun, Ranking | Judged)
    answer = noun.answers[0] if isinstance(noun, Ranking) else noun.answer
    made = rendered_answer(noun.prompt, answer, origin, built_in("chatml"), noun.tools, noun.template_arguments)
    assert not isinstance(made, Finding)
    assert trained_texts(made[0]) == [f"{WRITTEN}<|im_end|>"]
    assert json.dumps(TOOL, ensure_ascii=False) in made[0].text
    _, [asked] = to_prompts(record, origin)
    assert asked.tools == (TOOL,)
    if isinstance(noun, Ranking):
        assert noun.best().tools == (TOOL,)

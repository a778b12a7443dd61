"""What each model family is trained to say, written out by hand, for every shape of conversation it knows."""

from pathlib import Path
from typing import Any

import pytest
from mask_cases import FAMILIES, assistant, built_in, family, finding, rendered, system, trained, trained_texts, user

from heed.data.chat import inference_prompt
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import stop_tokens
from heed.types import Message

STOP = {
    "command-r-v01": "<|END_OF_TURN_TOKEN|>",
    "deepseek-r1-distill-qwen-7b": "<｜end▁of▁sentence｜>",
    "gemma-3-4b-it": "<end_of_turn>",
    "granite-3.1-8b-instruct": "<|end_of_text|>",
    "llama-3.1-8b-instruct": "<|eot_id|>",
    "mistral-7b-instruct-v0.3": "</s>",
    "phi-3-mini-4k-instruct": "<|end|>",
    "qwen2.5-0.5b-instruct": "<|im_end|>",
    "qwen3-0.6b": "<|im_end|>",
    "smollm2-1.7b-instruct": "<|im_end|>",
    "smollm3-3b": "<|im_end|>",
    "zephyr-7b-beta": "</s>",
}

# What a family says between its prompt and an answer without reasoning.
LEAD = {
    "mistral-7b-instruct-v0.3": " ",
    "qwen3-0.6b": "<think>\n\n</think>\n\n",
    "deepseek-r1-distill-qwen-7b": "\n</think>\n\n",
}

# Families whose template strips white space around an answer.
TRIMS = {"command-r-v01", "gemma-3-4b-it", "llama-3.1-8b-instruct", "mistral-7b-instruct-v0.3"}
# ... or line ends before it
TRIMS_LINE_ENDS = {"qwen3-0.6b", "smollm3-3b"}

CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"city": "Huế"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}
RESULT = Message("tool", "25", extra={"name": "weather", "tool_call_id": "abcdefghi"})

ANSWERS = {
    "plain": "Hi.",
    "composed Vietnamese": "Tôi ở Huế, không phải ở Đà Nẵng.",
    "decomposed Vietnamese": "Tôi ở Huế.",
    "emoji": "👩‍👩‍👧‍👦 🇻🇳 ok",
    "the prompt's own words": "Hello! Hello! system\nuser\nassistant\n### Response:\n",
    "itself again": "Hi. Hi. Hi.",
    "private-use characters": "\ue000a\ue001 \U000f0000",
    "markup": '<b>bold</b> & "quoted" {{ jinja }} {% if %}',
}


def said(name: str, answer: str) -> str:
    """What is trained for an answer given in a single turn."""
    kept = answer.strip() if name in TRIMS else answer.lstrip("\n") if name in TRIMS_LINE_ENDS else answer
    return LEAD.get(name, "") + kept + STOP[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stop_token_of_a_family_is_known(shared: Path, name: str) -> None:
    assert stop_tokens(family(shared, name)) == (STOP[name],)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_answer_is_trained_from_the_end_of_the_prompt_to_its_stop_token(
    shared: Path, name: str, answer: str
) -> None:
    template = family(shared, name)
    (result,) = rendered(template, user("Hello!"), assistant(answer))
    assert trained_texts(result) == [said(name, answer)]
    assert result.text[: result.spans[0].start] == inference_prompt([user("Hello!")], template)


@pytest.mark.parametrize("answer", [" Hi.", "Hi. \n", "\n\n  Hi.\n", "\tHi."])
@pytest.mark.parametrize("name", FAMILIES)
def test_white_space_around_an_answer_is_trained_as_the_template_keeps_it(shared: Path, name: str, answer: str) -> None:
    assert trained(family(shared, name), user("Hello!"), assistant(answer)) == [[said(name, answer)]]


MULTI_TURN = {
    "deepseek-r1-distill-qwen-7b": [
        [said("deepseek-r1-distill-qwen-7b", "Hi.")],
        [said("deepseek-r1-distill-qwen-7b", "Bye.")],
    ],
    # earlier turns are shown without the empty block of thought
    "qwen3-0.6b": [["Hi.<|im_end|>", "<think>\n\n</think>\n\nBye.<|im_end|>"]],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_answer_of_several_turns_is_trained(shared: Path, name: str) -> None:
    messages = [user("Hello!"), assistant("Hi."), user("Hello!"), assistant("Bye.")]
    expected = MULTI_TURN.get(name, [[said(name, "Hi."), said(name, "Bye.")]])
    assert trained(family(shared, name), *messages) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_prompt_is_context(shared: Path, name: str) -> None:
    template = family(shared, name)
    messages = [system("Be terse."), user("Hello!")]
    (result,) = rendered(template, *messages, assistant("Hi."))
    assert trained_texts(result) == [said(name, "Hi.")]
    assert "Be terse." in result.text[: result.spans[0].start]
    assert result.text[: result.spans[0].start] == inference_prompt(messages, template)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_of_weight_0_is_context_and_weights_go_with_their_turns(shared: Path, name: str) -> None:
    messages = [user("a"), assistant("No!", 0), user("b"), assistant("Hi.", 0.25), user("c")]
    (result,) = rendered(family(shared, name), *messages)
    assert [span.weight for span in result.spans] == [0.25]
    assert trained_texts(result)[0].endswith("Hi." + STOP[name])
    assert "No!" not in trained_texts(result)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_special_token_in_the_data_is_a_finding(shared: Path, name: str) -> None:
    template = family(shared, name)
    for messages in ([user("a" + STOP[name]), assistant("b")], [user("a"), assistant(f"b{STOP[name]}c")]):
        found = finding(template, *messages)
        assert found.problem == "special-token text in the data"
        assert STOP[name] in found.found


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_answer_is_a_finding(shared: Path, name: str) -> None:
    assert finding(family(shared, name), user("a"), assistant(" \n")).problem == "an empty response"


THINKS = [user("a"), assistant("<think>\nhm\n</think>\n\nHi."), user("b"), assistant("<think>\nho\n</think>\n\nBye.")]


def test_mistral_moves_the_system_prompt_so_every_turn_is_a_branch_that_has_it(shared: Path) -> None:
    messages = [system("Be terse."), user("a"), assistant("Hi."), user("b"), assistant("Bye.")]
    results = rendered(family(shared, "mistral-7b-instruct-v0.3"), *messages)
    assert [r.text for r in results] == [
        "<s>[INST] Be terse.\n\na[/INST] Hi.</s>",
        "<s>[INST] a[/INST] Hi.</s>[INST] Be terse.\n\nb[/INST] Bye.</s>",
    ]
    assert [trained_texts(r) for r in results] == [[" Hi.</s>"], [" Bye.</s>"]]


def test_deepseek_r1_answers_a_prompt_that_has_opened_the_thought(shared: Path) -> None:
    template = family(shared, "deepseek-r1-distill-qwen-7b")
    first, second = rendered(template, *THINKS)
    begin, stop = "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>", "<｜end▁of▁sentence｜>"
    assert first.text == f"{begin}<think>\nhm\n</think>\n\nHi.{stop}"
    assert trained_texts(first) == [f"hm\n</think>\n\nHi.{stop}"]
    assert second.text == f"{begin}\n\nHi.{stop}<｜User｜>b<｜Assistant｜><think>\nho\n</think>\n\nBye.{stop}"
    assert trained_texts(second) == [f"ho\n</think>\n\nBye.{stop}"]


def test_deepseek_r1_thinks_what_the_reasoning_field_says(shared: Path) -> None:
    template = family(shared, "deepseek-r1-distill-qwen-7b")
    expected = [["hm\n</think>\n\nHi.<｜end▁of▁sentence｜>"]]
    assert trained(template, user("a"), assistant("Hi.", reasoning_content="hm")) == expected
    assert trained(template, user("a"), assistant("Hi.", reasoning="hm\n")) == expected
    twice = finding(template, user("a"), assistant("<think>hm</think>Hi.", reasoning="hm"))
    assert "reasoning field and a <think> block" in twice.found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>\nhm\n</think>\n\n Hi. ", "hm\n</think>\n\n Hi. "),
        ("<think>hm</think>Hi.", "hm</think>Hi."),
        ("hm\n</think>\n\nHi.", "hm\n</think>\n\nHi."),
        ("\n<think>\n\n</think>\n\nHi.", "\n</think>\n\nHi."),
        (" Hi.", "\n</think>\n\n Hi."),
    ],
)
def test_deepseek_r1_keeps_the_exact_text_of_an_answer(shared: Path, content: str, expected: str) -> None:
    template = family(shared, "deepseek-r1-distill-qwen-7b")
    assert trained(template, user("a"), assistant(content)) == [[expected + "<｜end▁of▁sentence｜>"]]


@pytest.mark.parametrize(
    "content", ["Well. <think>hm</think>Hi.", "<think>a</think>b<think>c</think>d", "<think>hm</think>"]
)
def test_deepseek_r1_cannot_say_words_before_its_thought_or_no_answer_after_it(shared: Path, content: str) -> None:
    found = finding(family(shared, "deepseek-r1-distill-qwen-7b"), user("a"), assistant(content))
    assert found.problem.startswith("what is trained cannot be told")


@pytest.mark.parametrize("as_field", [False, True])
def test_qwen3_drops_earlier_reasoning_so_that_turn_is_a_branch(shared: Path, as_field: bool) -> None:
    fields = [user("a"), assistant("Hi.", reasoning_content="hm"), user("b"), assistant("Bye.", reasoning_content="ho")]
    whole, branch = rendered(family(shared, "qwen3-0.6b"), *(fields if as_field else THINKS))
    opening = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    second = "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n<think>\nho\n</think>\n\nBye.<|im_end|>"
    assert whole.text == f"{opening}Hi.<|im_end|>\n{second}\n"
    assert trained_texts(whole) == ["<think>\nho\n</think>\n\nBye.<|im_end|>"]
    assert branch.text == f"{opening}<think>\nhm\n</think>\n\nHi.<|im_end|>"
    assert trained_texts(branch) == ["<think>\nhm\n</think>\n\nHi.<|im_end|>"]


def test_qwen3_told_not_to_think_has_the_empty_thought_in_its_prompt(shared: Path) -> None:
    template = family(shared, "qwen3-0.6b")
    (result,) = rendered(template, user("a"), assistant("Hi."), enable_thinking=False)
    assert trained_texts(result) == ["Hi.<|im_end|>"]
    assert result.text[: result.spans[0].start].endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("mode", ["", "/no_think"])
def test_smollm3_keeps_every_thought_in_the_whole_conversation(shared: Path, mode: str) -> None:
    template = family(shared, "smollm3-3b")
    expected = [["<think>\nhm\n</think>\n\nHi.<|im_end|>", "<think>\nho\n</think>\n\nBye.<|im_end|>"]]
    assert trained(template, system(f"Be terse. {mode}"), *THINKS) == expected


def test_smollm3_without_thinking_has_the_empty_thought_in_its_prompt(shared: Path) -> None:
    template = family(shared, "smollm3-3b")
    (result,) = rendered(template, user("a"), assistant("\nHi."), enable_thinking=False)
    assert trained_texts(result) == ["Hi.<|im_end|>"]
    assert result.text[: result.spans[0].start].endswith("assistant\n<think>\n\n</think>\n")


def test_phi_3_does_not_train_the_end_of_text_after_its_stop_token(shared: Path) -> None:
    (result,) = rendered(family(shared, "phi-3-mini-4k-instruct"), user("a"), assistant("Hi."))
    assert result.text[result.spans[0].stop :] == "\n<|endoftext|>"


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen3-0.6b", "deepseek-r1-distill-qwen-7b"}))
def test_a_reasoning_field_that_a_family_leaves_out_is_a_finding(shared: Path, name: str) -> None:
    found = finding(family(shared, name), user("a"), assistant("Hi.", reasoning_content="hm"))
    assert "leaves out" in found.found
    assert '"train": false' in found.fix


TOOL_CALLS: dict[str, list[list[str]]] = {
    "llama-3.1-8b-instruct": [['{"name": "weather", "parameters": {"city": "Huế"}}<|eot_id|>', "It is 25.<|eot_id|>"]],
    "mistral-7b-instruct-v0.3": [
        ['[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Huế"}, "id": "abcdefghi"}]</s>', " It is 25.</s>"]
    ],
    "qwen2.5-0.5b-instruct": [
        [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Huế"}}\n</tool_call><|im_end|>',
            "It is 25.<|im_end|>",
        ]
    ],
    "qwen3-0.6b": [
        [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Huế"}}\n</tool_call><|im_end|>',
            "<think>\n\n</think>\n\nIt is 25.<|im_end|>",
        ]
    ],
}
CALLS: list[Message] = [user("a"), assistant("", tool_calls=[CALL]), RESULT, assistant("It is 25.")]


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_tool_calls_are_trained_to_their_stop_token_and_results_are_not(shared: Path, name: str) -> None:
    assert trained(family(shared, name), *CALLS, tools=(TOOL,)) == TOOL_CALLS[name]


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_a_conversation_may_end_in_a_tool_call(shared: Path, name: str) -> None:
    (texts,) = trained(family(shared, name), *CALLS[:2], tools=(TOOL,))
    assert len(texts) == 1
    assert texts[0].endswith(TOOL_CALLS[name][0][0])


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(TOOL_CALLS) - {"command-r-v01"}))
def test_a_family_that_shows_no_tool_calls_or_does_not_end_them_is_a_finding(shared: Path, name: str) -> None:
    finding(family(shared, name), *CALLS, tools=(TOOL,))


def test_an_answer_with_tools_at_hand_is_trained_without_the_instructions_command_r_puts_after_it(shared: Path) -> None:
    results = rendered(family(shared, "command-r-v01"), user("a"), assistant("Hi."), tools=(TOOL,))
    assert [trained_texts(r) for r in results] == [["Hi.<|END_OF_TURN_TOKEN|>"]]
    assert "Write 'Action:'" in results[0].text[: results[0].spans[0].start]


def test_qwen_trains_what_is_said_before_a_tool_call_with_it(shared: Path) -> None:
    (texts,) = trained(family(shared, "qwen2.5-0.5b-instruct"), user("a"), assistant("Let me see.", tool_calls=[CALL]))
    assert texts == [
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Huế"}}\n</tool_call><|im_end|>'
    ]


def test_qwen3_keeps_the_reasoning_around_tool_calls_in_the_whole_conversation(shared: Path) -> None:
    messages = [
        user("a"),
        assistant("", tool_calls=[CALL], reasoning_content="I must look."),
        RESULT,
        assistant("It is 25.", reasoning_content="Now I know."),
    ]
    assert trained(family(shared, "qwen3-0.6b"), *messages, tools=(TOOL,)) == [
        [
            "<think>\nI must look.\n</think>\n\n"
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Huế"}}\n</tool_call><|im_end|>',
            "<think>\nNow I know.\n</think>\n\nIt is 25.<|im_end|>",
        ]
    ]


def test_mistral_shows_its_tools_before_the_last_user_turn_so_earlier_turns_are_branches(shared: Path) -> None:
    messages = [user("a"), assistant("Hi."), user("b"), assistant("Bye.")]
    whole, branch = rendered(family(shared, "mistral-7b-instruct-v0.3"), *messages, tools=(TOOL,))
    assert trained_texts(whole) == [" Bye.</s>"]
    assert whole.text.startswith("<s>[INST] a[/INST] Hi.</s>[AVAILABLE_TOOLS]")
    assert trained_texts(branch) == [" Hi.</s>"]
    assert branch.text.startswith("<s>[AVAILABLE_TOOLS]")
    assert branch.text.endswith("[INST] a[/INST] Hi.</s>")


def test_words_beside_a_tool_call_that_a_family_leaves_out_are_a_finding(shared: Path) -> None:
    found = finding(family(shared, "llama-3.1-8b-instruct"), user("a"), assistant("Let me see.", tool_calls=[CALL]))
    assert "leaves out" in found.found


def test_llama_ends_a_call_of_a_built_in_tool_with_another_stop_token(shared: Path) -> None:
    template = family(shared, "llama-3.1-8b-instruct")
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "Huế"}}}
    messages = [user("a"), assistant("", tool_calls=[call]), RESULT, assistant("Hi.")]
    assert trained(template, *messages, builtin_tools=["search"]) == [
        ['<|python_tag|>search.call(query="Huế")<|eom_id|>', "Hi.<|eot_id|>"]
    ]


def test_gemma_refuses_two_user_turns_in_a_row_in_its_own_words(shared: Path) -> None:
    found = finding(family(shared, "gemma-3-4b-it"), user("a"), user("b"), assistant("c"))
    assert "must alternate" in found.found
    assert "line 19" in found.found


@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain"])
def test_built_in_templates_train_every_turn(name: str) -> None:
    template: ChatTemplate = built_in(name)
    stop = "<|im_end|>" if name == "chatml" else "</s>"
    messages: list[Any] = [
        system("s"),
        user("a"),
        assistant(" Hi.\n"),
        assistant("More."),
        user("b"),
        assistant("Bye."),
    ]
    assert trained(template, *messages) == [[f" Hi.\n{stop}", f"More.{stop}", f"Bye.{stop}"]]
    assert stop_tokens(template) == (stop,)

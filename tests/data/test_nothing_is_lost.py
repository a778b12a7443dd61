"""What the model is trained to answer, it has read: every message, tool and document, under every template."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_cases import FAMILIES, assistant, built_in, family, finding, inline, rendered, system, trained_texts, user

from heed.data.chat import inference_prompt, masked
from heed.data.rendering.conventions import developer_is_system
from heed.data.rendering.render import ChatTemplate
from heed.types import Conversation, Finding, Message, Origin

LEFT_OUT = "the chat template leaves out a part of the conversation"
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": {"properties": {}}}}
RESULT = Message("tool", "it is hot", extra={"name": "weather", "tool_call_id": "abcdefghi"})
BUILT_IN = ("chatml", "alpaca", "plain")


def template_of(shared: Path, name: str) -> ChatTemplate:
    return built_in(name) if name in BUILT_IN else family(shared, name)


# What each template does with a message it may not know: shown in what is read, or a finding.
CASES: dict[str, tuple[list[Message], int]] = {
    "a developer": ([Message("developer", "Be terse."), user("a"), assistant("Hi.")], 0),
    "a system and a developer": (
        [system("You help."), Message("developer", "Be terse."), user("a"), assistant("b")],
        0,
    ),
    "two systems": ([system("Be kind."), system("Be terse."), user("a"), assistant("Hi.")], 1),
    "a late system": ([user("a"), assistant("b"), system("CAPITALS"), user("c"), assistant("HI.")], 2),
    "a function": ([user("a"), assistant("b"), Message("function", "21 degrees"), assistant("Hi.")], 2),
    "a tool": ([user("a"), assistant("b"), RESULT, assistant("Hi.")], 2),
    "an unknown role": ([user("a"), Message("critic", "too long"), assistant("Hi.")], 1),
    "a context of the assistant": ([user("a"), assistant("<think>hm</think>Well.", 0), user("b"), assistant("Hi.")], 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*FAMILIES, *BUILT_IN])
def test_a_message_is_read_before_the_answer_to_it_or_the_record_is_a_finding(
    shared: Path, name: str, case: str
) -> None:
    messages, asked = CASES[case]
    result = masked(Conversation(tuple(messages), Origin("a.jsonl", 1)), template_of(shared, name))
    if isinstance(result, Finding):
        assert result.problem in (LEFT_OUT, "the chat template cannot render this conversation")
        return
    answers = [(each.text[: span.start], each.text[span.start : span.stop]) for each in result for span in each.spans]
    [read] = [before for before, answer in answers if messages[-1].content in answer]
    for message in messages[: asked + 1]:
        assert message.content.rpartition("</think>")[2] in read


LOSES = {
    "a function": {"deepseek-r1-distill-qwen-7b", "phi-3-mini-4k-instruct", "qwen2.5-0.5b-instruct", "qwen3-0.6b"}
    | {"smollm3-3b", "zephyr-7b-beta"},
    "a tool": {"phi-3-mini-4k-instruct", "zephyr-7b-beta"},
    "a late system": {"smollm3-3b"},
    "two systems": {"deepseek-r1-distill-qwen-7b", "smollm3-3b"},
}


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, names in LOSES.items() for name in sorted(names)])
def test_a_message_that_a_family_drops_is_a_finding_that_names_it(shared: Path, case: str, name: str) -> None:
    messages, asked = CASES[case]
    found = finding(family(shared, name), *messages)
    assert found.problem == LEFT_OUT
    assert any(repr(message.content) in found.found for message in messages[: asked + 1])
    assert f"message {len(messages)} (assistant)" in found.found
    assert "--template chatml" in found.fix


@pytest.mark.parametrize("name", FAMILIES)
def test_a_developer_speaks_as_the_system_where_a_family_knows_only_that(shared: Path, name: str) -> None:
    template = family(shared, name)
    (result,) = rendered(template, Message("developer", "Be terse."), user("a"), assistant("Hi."))
    as_system = rendered(template, system("Be terse."), user("a"), assistant("Hi."))
    assert ((result,) == as_system) == developer_is_system(template)
    assert "Be terse." in inference_prompt([Message("developer", "Be terse."), user("a")], template)


def test_families_that_show_any_role_keep_the_developer(shared: Path) -> None:
    keeps = {name for name in FAMILIES if not developer_is_system(family(shared, name))}
    assert keeps == {"granite-3.1-8b-instruct", "llama-3.1-8b-instruct", "smollm2-1.7b-instruct"}


SHOWS_TOOLS = {"command-r-v01", "granite-3.1-8b-instruct", "llama-3.1-8b-instruct", "mistral-7b-instruct-v0.3"} | {
    "qwen2.5-0.5b-instruct",
    "qwen3-0.6b",
    "smollm3-3b",
    "chatml",
}


@pytest.mark.parametrize("name", [*FAMILIES, *BUILT_IN])
def test_the_list_of_tools_is_read_or_the_record_is_a_finding(shared: Path, name: str) -> None:
    template = template_of(shared, name)
    if name in SHOWS_TOOLS:
        (result,) = rendered(template, user("a"), assistant("Hi."), tools=(TOOL,))
        before = result.text[: result.spans[0].start]
        assert "weather" in before
        assert "Tells." in before
    else:
        found = finding(template, user("a"), assistant("Hi."), tools=(TOOL,))
        assert (found.problem, "weather" in found.found) == (LEFT_OUT, True)
        assert "'tools'" in found.fix


def test_a_template_that_names_one_tool_of_two_or_not_what_it_does_is_found_out() -> None:
    shown = (
        "{{ tools[0].function.name }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    other = {"type": "function", "function": {"name": "clock"}}
    rendered(inline(shown), user("a"), assistant("b"), tools=(other,))
    for tools in ((TOOL,), (other, other)):
        assert finding(inline(shown), user("a"), assistant("b"), tools=tools).problem == LEFT_OUT


@pytest.mark.parametrize("name", [*FAMILIES, *BUILT_IN])
def test_documents_are_read_or_the_record_is_a_finding(shared: Path, name: str) -> None:
    given = {"documents": [{"title": "Huế", "text": "It rains."}]}
    if name == "granite-3.1-8b-instruct":
        assert "It rains." in rendered(family(shared, name), user("a"), assistant("b"), **given)[0].text
    else:
        assert "documents" in finding(template_of(shared, name), user("a"), assistant("b"), **given).found


def test_what_is_shown_only_behind_the_answer_does_not_count() -> None:
    late = inline(
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if not add_generation_prompt %}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
        "{% else %}<|assistant|>{% endif %}"
    )
    assert "'Be terse.'" in finding(late, system("Be terse."), user("a"), assistant("b")).found


@pytest.mark.parametrize("content", ["{{ m.content[:3] }}", "{{ m.content[3:] }}", "{{ m.content | length }}"])
def test_a_question_that_is_cut_is_a_finding(content: str) -> None:
    cuts = inline(
        f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{{% if m.role == 'user' %}}{content}{{% else %}}"
        "{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    )
    assert "message 1 (user)" in finding(cuts, user("one two three"), assistant("b")).found


def test_alpaca_shows_an_instruction_and_its_input_in_place_of_the_content() -> None:
    asked = user("Sort.\n\n3 2 1", instruction="Sort.", input="3 2 1")
    for name in BUILT_IN:
        assert trained_texts(rendered(built_in(name), asked, assistant("1 2 3"))[0])[0].startswith("1 2 3")
    without = inline(built_in("alpaca").source.replace('{{ "### Input:\\n" + message["input"] + "\\n\\n" }}', ""))
    assert finding(without, asked, assistant("1 2 3")).problem == LEFT_OUT


def test_modes_in_a_system_prompt_that_a_family_takes_out_are_no_loss(shared: Path) -> None:
    template = family(shared, "smollm3-3b")
    for said in ("/no_think", "Be terse. /no_think", "Be terse. /system_override"):
        rendered(template, system(said), user("a"), assistant("Hi."))


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[{`/"), max_size=12)


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-instruct", "zephyr-7b-beta", "smollm3-3b", "chatml"])
@given(roles=st.lists(st.sampled_from(["system", "developer", "user", "tool", "critic"]), max_size=4), words=WORDS)
@settings(max_examples=40, deadline=None)
def test_whatever_the_roles_what_is_trained_was_asked(shared: Path, name: str, roles: list[str], words: str) -> None:
    messages: list[Any] = [*(Message(role, f"Q{i} {words}") for i, role in enumerate(roles)), user("a"), assistant("b")]
    result = masked(Conversation(tuple(messages), Origin("a.jsonl", 1)), template_of(shared, name))
    if not isinstance(result, Finding):
        read = result[0].text[: result[0].spans[0].start]
        assert all(f"Q{i}" in read for i in range(len(roles)))

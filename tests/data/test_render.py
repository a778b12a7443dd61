"""Chat templates render byte for byte as transformers renders them."""

import dataclasses
import datetime
import json
from pathlib import Path

import pytest
from mask_cases import FAMILIES, assistant, built_in, family, inline, system, user

from heed.data.rendering.render import ChatTemplate
from heed.errors import UserError
from heed.types import Message

ALPACA = "Below is an instruction that describes a task"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_golden_render_of_a_family_is_byte_exact(shared: Path, name: str) -> None:
    folder = shared / "templates" / name
    template = family(shared, name)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if "clock_unix_secs" in meta:
        clock = datetime.datetime.fromtimestamp(meta["clock_unix_secs"], datetime.UTC)
        template = dataclasses.replace(template, date=clock)
    cases = sorted((folder / "cases").glob("*.json"))
    assert cases
    for path in cases:
        case = json.loads(path.read_text(encoding="utf-8"))
        given = case["input"]
        messages = [Message(m.pop("role"), m.pop("content"), extra=m) for m in given.pop("messages")]
        chosen = template.alternative(case["template_name"]) if case["template_name"] else template
        text = chosen.render(messages, given.pop("tools", ()), given.pop("add_generation_prompt"), given)
        assert text.encode() == (folder / "expected" / f"{path.stem}.txt").read_bytes(), path.stem


def test_tools_choose_the_template_called_tool_use(shared: Path) -> None:
    case = json.loads((shared / "templates/command-r-v01/cases/tool_use.json").read_text(encoding="utf-8"))["input"]
    messages = [Message(m["role"], m["content"]) for m in case["messages"]]
    template = family(shared, "command-r-v01")
    assert "## Available Tools" in template.render(messages, case["tools"])
    assert "## Available Tools" not in template.render(messages)


def test_a_date_is_the_templates_own_and_not_today() -> None:
    template = dataclasses.replace(inline("{{ strftime_now('%d %B %Y') }}"), date=datetime.date(2024, 7, 4))
    assert template.render([user("x")]) == "04 July 2024"


def test_alpaca_says_the_stanford_wording_with_and_without_an_input() -> None:
    template = built_in("alpaca")
    assert template.render([user("Add.\n2 3", instruction="Add.", input="2 3"), assistant("5")]) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n2 3\n\n### Response:\n5</s>"
    )
    assert template.render([user("Say hi.")], add_generation_prompt=True) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay hi.\n\n### Response:\n"
    )
    no_input = template.render([user("Say hi.", instruction="Say hi.", input="")])
    assert no_input == template.render([user("Say hi.")])


def test_alpaca_takes_a_system_prompt_for_its_preamble_and_goes_on_for_several_turns() -> None:
    text = built_in("alpaca").render([system("Be terse."), user("a"), assistant("b"), user("c"), assistant("d")])
    turns = "### Instruction:\na\n\n### Response:\nb</s>\n\n### Instruction:\nc\n\n### Response:\nd</s>"
    assert text == f"Be terse.\n\n{turns}"


def test_chatml_and_plain_say_what_they_are_known_for() -> None:
    messages = [system("s"), user("u"), assistant("a")]
    assert built_in("chatml").render(messages) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    )
    assert built_in("chatml").render(messages[:2], add_generation_prompt=True).endswith("<|im_start|>assistant\n")
    assert built_in("plain").render(messages) == "s\nu\na</s>"
    assert built_in("plain").render(messages[:2], add_generation_prompt=True) == "s\nu\n"


@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain"])
@pytest.mark.parametrize("extra", [{}, {"instruction": "  Ông ấy\n", "input": "\t2 "}])
def test_built_in_templates_render_the_same_through_transformers(name: str, extra: dict[str, str]) -> None:
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    template = built_in(name)
    messages = [user(" Ông ấy ở đâu?\n", **extra), assistant("\n nhà "), user("x"), assistant("y", weight=0)]
    for count in range(1, len(messages) + 1):
        for add_generation_prompt in (False, True):
            theirs, _ = transformers.render_jinja_template(
                [[{"role": m.role, "content": m.content, **m.extra} for m in messages[:count]]],
                chat_template=template.source,
                add_generation_prompt=add_generation_prompt,
                eos_token="</s>",
            )
            assert template.render(messages[:count], (), add_generation_prompt) == theirs[0]


EXTRAS = inline(
    "{%- for message in messages %}\n  {%- if loop.index > 3 %}{% break %}{% endif %}\n"
    "{% generation %}{% set seen = 1 %}{{ message.content | tojson }}{% endgeneration %}{{ seen }}\n"
    "  {% set box = namespace(n=loop.index) %}\n{{ box.n }}\n"
    "{{ dict(a=message.reasoning_content).a }}{{ message.thinking }}\n"
    "{% endfor %}{{ tools | tojson(indent=2) }}"
)


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_tags_filters_scopes_and_reasoning_names_behave_as_in_transformers(field: str) -> None:
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [user("<é> ế"), assistant("a", **{field: "hm"}), user("c"), assistant("d"), user("e")]
    tools = [{"type": "function", "function": {"name": "ở"}}]
    theirs, _ = transformers.render_jinja_template(
        [[{"role": m.role, "content": m.content, **m.extra} for m in messages]], tools, chat_template=EXTRAS.source
    )
    assert EXTRAS.render(messages, tools) == theirs[0]


def test_absent_values_of_a_message_are_left_out_as_in_transformers() -> None:
    template = inline("{% for message in messages %}{{ message.name is defined }}{% endfor %}")
    assert template.render([user("x", name=None), user("x", name="Lan")]) == "FalseTrue"


def test_a_folders_jinja_file_wins_over_its_config_and_named_ones_join_it(tmp_path: Path) -> None:
    config = {"chat_template": "config", "eos_token": {"content": "<end>"}, "bos_token": "<begin>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([user("x")]) == "config"
    assert ChatTemplate.load(tmp_path / "tokenizer_config.json").render([user("x")]) == "config"
    (tmp_path / "chat_template.jinja").write_text("file {{ bos_token + eos_token }}", encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([user("x")]) == "file <begin><end>"
    assert ChatTemplate.load(tmp_path / "chat_template.jinja").render([user("x")]) == "file <begin><end>"
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates" / "tool_use.jinja").write_text("tools", encoding="utf-8")
    assert ChatTemplate.load(tmp_path).render([user("x")], [{"name": "t"}]) == "tools"
    assert ChatTemplate.load(tmp_path).render([user("x")]) == "file <begin><end>"


def test_a_broken_template_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text("{{ bos_token }}\n{% for message in messages %}\n{{ message.content }\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"not valid jinja[\s\S]*broken\.jinja, line 3"):
        ChatTemplate.load(path)


def test_a_refusal_says_the_templates_own_words_and_line() -> None:
    template = inline("{{ 1 }}\n{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}")
    with pytest.raises(UserError, match=r"inline, line 2[\s\S]*No system!"):
        template.render([system("x")])


def test_a_template_that_calls_something_unknown_is_refused_with_its_line() -> None:
    with pytest.raises(UserError, match=r"inline, line 3[\s\S]*'gibberish' is undefined"):
        inline("\n\n{{ gibberish() }}").render([user("x")])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.jinja", None, "no such chat template"),
        ("config.json", '{"eos_token": "x"}', "no chat template in this file"),
        ("config.json", '{"a": \n', r"not a JSON file[\s\S]*line 2"),
        ("config.json", '{"chat_template": [{"name": "rag", "template": "x"}]}', "none is called default"),
        ("config.json", '{"chat_template": 3}', "unknown shape"),
        (".", None, "no chat template in this folder"),
    ],
)
def test_what_holds_no_template_is_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        ChatTemplate.load(tmp_path / name)


def test_a_template_that_is_not_utf_8_is_refused_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.jinja").write_bytes("Réponse".encode("latin-1"))
    with pytest.raises(UserError, match=r"not a UTF-8 text file[\s\S]*byte 1"):
        ChatTemplate.load(tmp_path / "latin.jinja")


@pytest.mark.parametrize("attack", ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ namespace(_a=1) }}"])
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(UserError, match="cannot render"):
        inline(attack).render([user("x")])


@pytest.mark.parametrize(
    "source", ["x", "\nx", "  {% if true %}x{% endif %}", "  {{ 'x' }}", "{%- if true %}x{% endif %}"]
)
def test_a_preamble_changes_nothing_of_the_text_after_it(source: str) -> None:
    alone = inline(source).render([user("x")])
    assert inline(source).with_preamble("{{ '<s>' }}").render([user("x")]) == "<s>" + alone
    assert inline(source).with_bos().with_tokens({"bos_token": "<b>"}, frozenset()).render([user("x")]) == "<b>" + alone

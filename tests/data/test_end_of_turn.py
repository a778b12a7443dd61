"""A template without a stop token gets one behind every answer, in training and in what is saved."""

from pathlib import Path

import pytest
from mask_cases import assistant, conversation, trained_texts, user
from transformers import PreTrainedTokenizerFast

from heed.data.chat import inference_prompt, masked
from heed.data.rendering.choice import choose_template
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import stop_tokens
from heed.data.tokens import Tokenizer, fit_template
from heed.errors import UserError
from heed.types import Finding, Message

FALCON = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'].strip() }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'].strip() }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}"
)
"""as Falcon's"""


@pytest.fixture
def gpt2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "tokenizers/gpt2")


def chosen(tmp_path: Path, tokenizer: Tokenizer, source: str = FALCON) -> tuple[ChatTemplate, list[str]]:
    (tmp_path / "own.jinja").write_text(source)
    said: list[str] = []
    template, new = choose_template(str(tmp_path / "own.jinja"), tokenizer, said.append, "eos")
    assert new == []
    return fit_template(template, tokenizer), said


MESSAGES = [user("Hi there "), assistant("Hello."), user("Bye"), assistant(" So long.")]


def test_every_answer_ends_in_the_end_of_text(tmp_path: Path, gpt2: Tokenizer) -> None:
    template, said = chosen(tmp_path, gpt2)
    assert said == []
    assert stop_tokens(template) == ("<|endoftext|>",)
    found = masked(conversation(*MESSAGES), template)
    assert not isinstance(found, Finding)
    assert [trained_texts(each) for each in found] == [[" Hello.<|endoftext|>", " So long.<|endoftext|>"]]
    assert found[0].text == (
        "User: Hi there\nAssistant: Hello.<|endoftext|>\nUser: Bye\nAssistant: So long.<|endoftext|>"
    )
    prompt = inference_prompt(MESSAGES[:3], template)
    assert found[0].text[: found[0].spans[1].start] == prompt


def test_what_is_saved_renders_in_transformers_what_was_trained(shared: Path, tmp_path: Path, gpt2: Tokenizer) -> None:
    template, _ = chosen(tmp_path, gpt2)
    found = masked(conversation(*MESSAGES), template)
    assert not isinstance(found, Finding)
    theirs = PreTrainedTokenizerFast.from_pretrained(shared / "tokenizers/gpt2")
    theirs.chat_template = template.source
    theirs.save_pretrained(tmp_path / "saved")
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    messages = [{"role": m.role, "content": m.content} for m in MESSAGES]
    assert again.apply_chat_template(messages, tokenize=False) == found[0].text
    prompt = again.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    assert prompt == inference_prompt(MESSAGES[:3], template)


def test_without_it_the_record_is_refused_with_the_option_that_cures_it(tmp_path: Path, gpt2: Tokenizer) -> None:
    template = fit_template(ChatTemplate(FALCON, "falcon"), gpt2)
    found = masked(conversation(*MESSAGES), template)
    assert isinstance(found, Finding)
    assert "--end-of-turn eos" in found.fix


def test_a_template_that_has_a_stop_token_is_left_alone_and_that_is_said(tmp_path: Path, gpt2: Tokenizer) -> None:
    source = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    template, said = chosen(tmp_path, gpt2, source)
    assert template.source == source
    assert "<|endoftext|>" in said[0]


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path, gpt2: Tokenizer) -> None:
    without = Tokenizer.wrap(gpt2.backend, {})
    with pytest.raises(UserError) as caught:
        chosen(tmp_path, without)
    assert caught.value.where == "--end-of-turn"


def test_a_message_of_tool_calls_is_not_ended_before_its_calls(tmp_path: Path, gpt2: Tokenizer) -> None:
    calls = (
        "{% for c in message['tool_calls'] or [] %}{{ c.function.name + (c.function.arguments | tojson) }}{% endfor %}"
    )
    template, _ = chosen(
        tmp_path, gpt2, FALCON.replace("{% endif %}{% endfor %}", "{% endif %}" + calls + "{% endfor %}")
    )
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    found = masked(conversation(user("a"), Message("assistant", "", extra={"tool_calls": [call]})), template)
    assert not isinstance(found, Finding)
    assert [trained_texts(each) for each in found] == [[' look{"at": 1}<|endoftext|>']]

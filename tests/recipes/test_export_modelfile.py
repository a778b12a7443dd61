"""The Modelfile beside an export: the chat template in Go's language, and stops that ollama reads as they are."""

import re

import gguf_files
import pytest
from test_export import CUTS, SPEECH, byte_level, exported

from heed.recipes.exporting.modelfile import CONVERSATIONS, around, go_template, modelfile, read_value, value_of


def render(template):
    tokenizer = byte_level(CUTS["gpt-2"](), template=template)
    return lambda messages, begins: tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=begins
    )


def test_a_template_of_fixed_texts_is_said_in_ollamas_language():
    found = around(render(SPEECH))
    assert found.user == ("<|user|>", "<|end|>")
    assert found.closing == "<|assistant|>"
    assert go_template(found) == (
        '{{ range .Messages }}{{ if eq .Role "system" }}{{ "<|system|>" }}{{ .Content }}{{ "<|end|>" }}'
        '{{ else if eq .Role "user" }}{{ "<|user|>" }}{{ .Content }}{{ "<|end|>" }}'
        '{{ else if eq .Role "assistant" }}{{ "<|assistant|>" }}{{ .Content }}{{ "<|end|>" }}{{ end }}{{ end }}'
        '{{ "<|assistant|>" }}'
    )


@pytest.mark.parametrize(
    "template",
    [
        SPEECH.replace("m.content", "m.content | trim"),
        SPEECH.replace("{{ m.content }}", "{{ loop.index }}{{ m.content }}"),
        "{{ raise_exception('no') }}",
        "{% for m in messages if m.role != 'system' %}" + SPEECH.partition("%}")[2],
    ],
)
def test_a_template_that_does_more_is_not_guessed(template):
    assert around(render(template)) is None


STRINGS = {"\\\\": "\\", '\\"': '"', "\\n": "\n", "\\t": "\t", "\\r": "\r"}


def go(template, messages):
    """What Go's text/template makes of the few actions that are written; a reader of its own, by its documentation."""
    actions = re.findall(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|[^"}])*) \}\}', template)
    assert re.sub(r'\{\{ (?:"(?:[^"\\]|\\.)*"|[^"}])* \}\}', "", template) == ""  # no text between them

    def text_of(action):
        found = re.sub(r"\\U([0-9A-F]{8})", lambda code: chr(int(code[1], 16)), action[1:-1])
        return re.sub(r"\\.", lambda escape: STRINGS[escape[0]], found)

    def run(at, end, message):
        """Text of the actions from `at` up to `end`."""
        said, open_ifs = "", []
        while at < end:
            action = actions[at]
            live = all(open_ifs)
            if test := re.fullmatch(r'(if|else if) eq \.Role "(\w+)"', action):
                if test[1] == "if":
                    open_ifs.append(message["role"] == test[2])
                else:  # every test names another role
                    open_ifs[-1] = message["role"] == test[2]
            elif action == 'if ne (index .Messages 0).Role "system"':
                open_ifs.append(messages[0]["role"] != "system")
            elif action == "range .Messages":
                close = len(actions) - 1 - actions[::-1].index("end")
                said += "".join(run(at + 1, close, each) for each in messages)
                at = close
            elif action == "end":
                open_ifs.pop()
            elif live:
                said += message["content"] if action == ".Content" else text_of(action)
            at += 1
        assert not open_ifs
        return said

    return run(0, len(actions), None)


@pytest.mark.parametrize(
    "template",
    [
        SPEECH,
        "{{ 'Be kind. ' if messages[0].role != 'system' }}" + SPEECH,
        SPEECH.replace("<|{{ m.role }}|>", '<|{{ m.role }}|> "a\\b" \u200b\u00a0é\U0001f600\t|\n'),
    ],
    ids=["plain", "an opening without a system message", "quotes, escapes and what cannot be printed"],
)
def test_the_template_says_in_go_what_it_says_in_jinja(template):
    says = render(template)
    written = go_template(around(says))
    assert "".join(c for c in written if c.isprintable()) == written  # ollama drops the rest
    for messages in CONVERSATIONS:
        assert go(written, messages) == says(messages, True)


def test_stops_are_written_as_they_are_in_quotes_that_they_do_not_close():
    """By ollama's parser: no escapes; a value ends at a line end behind its closing quotes."""
    by_hand = {
        "<|im_end|>": '"<|im_end|>"',
        "\n": '"\n"',
        "\n\nUser:": '"\n\nUser:"',
        " ": '" "',
        "a\\nb": '"a\\nb"',
        'say "x"': '"say "x""',
        'a"\nb': '"""a"\nb"""',
        '""': '""""""""',
    }
    for stop, written in by_hand.items():
        assert value_of(stop) == written
        assert read_value(written) == stop
    for impossible in ("\u200b", "a\u00a0b", 'a"""\nb', "\x1b", "\ufffd"):
        assert value_of(impossible) is None
    text = modelfile("m.gguf", None, ["\n", "a\u00a0b"], 64)
    assert 'PARAMETER stop "\n"\n' in text
    assert "# This stop cannot be written in a Modelfile: 'a\\xa0b'\n" in text


def test_a_stop_is_the_text_of_its_token_and_one_that_cannot_be_written_is_told(tmp_path, capsys):
    tokenizer = byte_level(CUTS["gpt-2"]())
    line_end, half = tokenizer.convert_tokens_to_ids("Ċ"), tokenizer.convert_tokens_to_ids("ð")
    model = gguf_files.write_model(tmp_path / "model", gguf_files.CONFIGS["llama tied"], tokenizer)
    (model / "generation_config.json").write_text(f'{{"eos_token_id": [{tokenizer.eos_token_id}, {line_end}, {half}]}}')
    assert exported(model, "--out", tmp_path / "m.gguf", "--answers", 0) == 0
    said, text = capsys.readouterr().out, (tmp_path / "m.Modelfile").read_text()
    assert 'PARAMETER stop "<|end|>"\nPARAMETER stop "\n"\n# This stop cannot' in text
    assert "a Modelfile cannot hold the stop '\\ufffd'" in said
    assert "ollama itself did not run it" in said

"""`heed chat`: what it answers, what it shows as it comes, what it refuses, at a terminal and in a pipe."""

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.cli.chat import harmless
from heed.cli.main import main
from heed.config import ChatSettings
from heed.errors import UserError
from heed.recipes.chat import Chat, Ending, Spelling, open_chat
from heed.types import Message

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

VIETNAMESE = "Thủ đô của Việt Nam là Hà Nội. Ngưo\u031b\u0300i ta nói 👩🏽‍🚀 và 漢字 — đẹp!"
"""composed and decomposed accents, emoji of several code points, characters of two to four bytes"""


def opened(model, **settings) -> Chat:
    return open_chat(ChatSettings(**{"model": str(model), "device": "cpu", **settings}), lambda line: None)


def said(chat: Chat, text: str) -> tuple[str, Ending]:
    pieces: list[str] = []
    ending = chat.answer(text, pieces.append)
    return "".join(pieces), ending


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, instruct, colours, tune):
    """A model that was taught the colours, all its weights and by an adapter."""
    folder = tmp_path_factory.mktemp("tuned")
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in colours))
    common = {"model": instruct, "data": data, "steps": 80, "batch_size": 12, "held_out_share": 0}
    assert tune(out=folder / "full", optim_lr=1e-2, **common) == 0
    assert tune(out=folder / "adapter", optim_lr=3e-2, lora_rank=8, **common) == 0
    return folder


# ---- answers


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_tuned_model_answers_and_stops(tuned, kind):
    chat = opened(tuned / kind, temperature=0)
    assert said(chat, "What colour is grass?") == ("It is green.", Ending.STOPPED)
    assert chat.messages == [Message("user", "What colour is grass?"), Message("assistant", "It is green.")]
    chat.start_anew()
    assert said(chat, "Màu của coal là gì?") == ("It is black.", Ending.STOPPED)


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_answers_are_those_of_plain_transformers(tuned, kind):
    chat = opened(tuned / kind, temperature=0, system="Be brief.", max_new_tokens=20)
    model, tokenizer = (auto.from_pretrained(tuned / kind) for auto in (AutoModelForCausalLM, AutoTokenizer))
    messages = [{"role": "system", "content": "Be brief."}]
    for question in ("What colour is grass?", "Why? Tại sao?", "Name the colour of snow."):
        messages.append({"role": "user", "content": question})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20, eos_token_id=chat.stop_ids)
        output = output[0, len(ids) :].tolist()
        if output[-1] in chat.stop_ids:
            output.pop()
        text = tokenizer.decode(output)
        assert said(chat, question)[0] == text
        messages.append({"role": "assistant", "content": text})


def test_the_seed_decides_what_is_sampled(instruct):
    answers = [said(opened(instruct, seed=seed, temperature=1.0, max_new_tokens=12), "Hi")[0] for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2]


def test_a_small_top_p_leaves_the_likeliest_token_alone(instruct):
    sampled = opened(instruct, temperature=1.0, top_p=1e-6, max_new_tokens=12)
    likeliest = opened(instruct, temperature=0, max_new_tokens=12)
    assert said(sampled, "Hi") == said(likeliest, "Hi")


def test_settings_that_a_model_brings_along_have_no_say(instruct, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(instruct)
    ids = [7, 8, 9]
    model.generation_config.update(do_sample=True, top_k=1, repetition_penalty=5.0, suppress_tokens=ids)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(instruct).save_pretrained(tmp_path)
    settings = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 30, "seed": 3}
    assert said(opened(tmp_path, **settings), "Hi") == said(opened(instruct, **settings), "Hi")


def test_every_stop_token_of_the_generation_config_stops(instruct, tmp_path):
    first = opened(instruct, temperature=0, max_new_tokens=1)
    heard = said(first, "Hi")[0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(instruct), AutoTokenizer.from_pretrained(instruct)
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        *tokenizer(heard, add_special_tokens=False).input_ids,
    ]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert said(opened(tmp_path, temperature=0), "Hi") == ("", Ending.STOPPED)


def test_an_answer_as_long_as_allowed_is_said_to_be_cut(instruct):
    chat = opened(instruct, max_new_tokens=3, temperature=0)
    text, ending = said(chat, "Hi")
    assert ending is Ending.LIMIT
    assert chat.messages[-1] == Message("assistant", text)


def test_a_conversation_that_is_full_is_cut_and_then_refused_and_nothing_is_dropped(instruct):
    chat = opened(instruct, max_new_tokens=1000, temperature=0)
    chat.stop_ids = [0]  # a token that this model does not happen to say
    assert said(chat, "Hi")[1] is Ending.POSITIONS
    kept = list(chat.messages)
    with pytest.raises(UserError, match="longer than the model can read") as refusal:
        said(chat, "And now?")
    assert refusal.value.fix.startswith("/new")
    assert chat.messages == kept
    chat.start_anew()
    chat.settings = chat.settings.model_copy(update={"max_new_tokens": 5})
    assert said(chat, "And now?")[1] in (Ending.LIMIT, Ending.STOPPED)
    chat.start_anew()
    with pytest.raises(UserError, match="fewer words"):
        said(chat, "word " * 300)


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(instruct):
    chat = opened(instruct, temperature=0, max_new_tokens=50)
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    assert chat.answer("Hi", listen) is Ending.INTERRUPTED
    assert chat.messages == [Message("user", "Hi"), Message("assistant", "".join(pieces))]
    assert len(pieces) == 3


@pytest.mark.parametrize("text", ["a <|end|> b", "<|user|>", "<|endoftext|>"])
def test_special_tokens_are_refused_as_they_are_in_data(instruct, text):
    chat = opened(instruct)
    with pytest.raises(UserError, match="special-token text"):
        said(chat, text)
    with pytest.raises(UserError, match="--system"):
        opened(instruct, system=text)
    assert chat.messages == []


# ---- templates


def test_a_base_model_is_not_spoken_to_in_a_template_it_never_saw_unasked(base):
    with pytest.raises(UserError, match="no chat template") as refusal:
        opened(base)
    assert refusal.value.fix == "--template alpaca"
    chat = opened(base, template="alpaca", max_new_tokens=4)
    assert said(chat, "Hi")[1] in (Ending.LIMIT, Ending.STOPPED)


def test_a_template_whose_stop_token_the_model_lacks_is_refused(base):
    with pytest.raises(UserError, match="--template alpaca"):
        opened(base, template="chatml")


# ---- text as it comes


def byte_level():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["Thủ đô của Việt Nam là Hà Nội."], trainer)
    return backend


def with_byte_fallback():
    """In the manner of SentencePiece: spaces are ▁, one is put first, unknown characters are spelt in bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁ThocaVietNmlHg.i", "là", "▁là"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "là")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def metaspace():
    backend = with_byte_fallback()
    backend.normalizer, backend.pre_tokenizer = None, pre_tokenizers.Metaspace()
    return backend


@pytest.mark.parametrize("make", [byte_level, with_byte_fallback, metaspace])
@pytest.mark.parametrize("prompt", ["### Response:\n", "Xin chào\n", "👋", ""])
def test_pieces_are_whole_characters_and_add_up_to_the_text(make, prompt):
    backend = make()
    before = backend.encode(prompt).ids
    ids = backend.encode(prompt + VIETNAMESE).ids[len(before) :]
    assert len(ids) > 40
    spelling = Spelling(backend, before)
    pieces = [spelling.add(token) for token in ids]
    assert "".join(pieces) == VIETNAMESE
    assert spelling.rest() == ""
    assert sum(map(bool, pieces)) > 20  # it did not all come at the end
    assert "" in pieces  # and parts of characters were held back


def test_the_space_that_an_answer_starts_with_is_kept():
    backend = with_byte_fallback()
    prompt = backend.encode("Hi.").ids
    token = backend.token_to_id("▁là")
    assert backend.decode([token]) == "là"
    assert Spelling(backend, prompt).add(token) == " là"


def test_half_a_character_at_the_end_is_shown_as_such():
    backend = byte_level()
    spelling = Spelling(backend, [])
    ids = backend.encode("漢").ids
    assert [spelling.add(token) for token in ids[:2]] == ["", ""]
    assert spelling.rest() == "\N{REPLACEMENT CHARACTER}"
    assert spelling.rest() == ""


def test_an_answer_comes_piece_by_piece(instruct):
    pieces: list[str] = []
    opened(instruct, temperature=0, max_new_tokens=10).answer("Hi", pieces.append)
    assert len(pieces) > 3


# ---- the command


def talk(monkeypatch, capsys, typed: str | bytes, *words: object) -> tuple[int, str, str]:
    """Run `heed chat` with these lines in a pipe: status, standard output, standard error."""
    content = typed if isinstance(typed, bytes) else typed.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    capsys.readouterr()
    status = main(["chat", *map(str, words), "--device", "cpu"])
    return (status, *capsys.readouterr())


def test_each_line_of_a_pipe_is_a_message_and_answers_alone_go_out(tuned, monkeypatch, capsys):
    lines = "What colour is grass?\n\n/new\nWhat colour is coal?\n/quit\nWhat colour is snow?\n"
    status, out, err = talk(monkeypatch, capsys, lines, "--model", tuned / "full", "--temperature", 0)
    assert (status, out) == (0, "It is green.\nIt is black.\n")
    assert "new conversation" in err


def test_a_pipe_ends_at_the_first_message_that_cannot_be_answered(tuned, monkeypatch, capsys):
    lines = "What colour is grass?\r\n<|end|>\nWhat colour is coal?\n"
    status, out, err = talk(monkeypatch, capsys, lines, tuned / "full", "--temperature", 0)
    assert (status, out) == (2, "It is green.\n")
    assert "error: special-token text" in err


def test_input_that_is_no_utf_8_is_told_in_five_parts(instruct, monkeypatch, capsys):
    status, _, err = talk(monkeypatch, capsys, b"caf\xe9\n", instruct)
    assert status == 2
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "where", "found", "expected", "fix"]
    assert "0xe9" in err


def test_an_answer_that_was_cut_is_said_to_be(instruct, monkeypatch, capsys):
    _, _, err = talk(monkeypatch, capsys, "Hi\n", instruct, "--max-new-tokens", 2, "--temperature", 0)
    assert "cut at 2 tokens" in err


def test_nothing_that_a_model_says_controls_the_terminal():
    assert "".join(map(harmless, "a\x1b[2Jđ\n\t👋\x07")) == "a<U+001B>[2Jđ\n\t👋<U+0007>"


def test_a_person_at_a_terminal_can_stop_an_answer_start_anew_and_leave(base):
    ours, theirs = pty.openpty()
    words = ["--model", str(base), "--template", "plain", "--temperature", "1", "--max-new-tokens", "240"]
    child = subprocess.Popen(
        [sys.executable, "-m", "heed.cli.main", "chat", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        # Whoever starts the tests in the background has them ignore Ctrl-C, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    seen = b""

    def until(text: bytes, meanwhile: Callable[[], None] = lambda: None) -> None:
        nonlocal seen
        for _ in range(240):
            if text in seen:
                seen = seen.partition(text)[2]
                return
            meanwhile()
            if select.select([ours], [], [], 0.5)[0]:
                seen += os.read(ours, 4096)
        pytest.fail(f"{text!r} did not come, but {seen!r}")

    try:
        until(b"> ")
        os.write(ours, "Một con mèo 🐈\n".encode())
        until(b"\n> ")
        os.write(ours, b"a <|endoftext|> b\n")
        until(b"error: special-token text")
        until(b"\n> ")
        os.write(ours, b"/new\n")
        until(b"a new conversation")
        until(b"> ")
        # With nothing to stop, it says how to leave. What is pressed while the prompt is being set up can get lost, so
        # it is pressed again until it is heard, but not at once: a second Ctrl-C would take the place of the Ctrl-D.
        pressed = time.monotonic() - 5

        def interrupt() -> None:
            nonlocal pressed
            if time.monotonic() - pressed >= 5:
                child.send_signal(signal.SIGINT)
                pressed = time.monotonic()

        until(b"/quit leaves", interrupt)
        until(b"> ")
        for _ in range(240):
            if child.poll() is not None:
                break
            os.write(
                ours, b"\x15\x04"
            )  # Ctrl-U first: of two Ctrl-D one after the other, readline takes the second for an edit
            time.sleep(0.25)
            if select.select([ours], [], [], 0)[0]:
                with contextlib.suppress(OSError):  # nobody holds the other end once the child has left
                    os.read(ours, 4096)
        assert child.poll() == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)

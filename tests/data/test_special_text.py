"""Special tokens that are written out in data: a finding, text like any other, or left out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from letter_tokens import TOKENIZER, preparation, text_of, trained_text_of, write
from mask_cases import assistant, conversation, family, metaspace_tokenizer, unigram_tokenizer, user
from tokenizers import models, trainers

from heed.data.chat import asked, masked
from heed.data.preferences import open_rankings, prepare_rankings
from heed.data.prepare import open_prepared, prepare
from heed.data.prompts import open_prompts, prepare_prompts
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.special_text import num_special_texts
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.errors import UserError
from heed.types import Finding, Message, Origin, Rendered

KINDS = ("gpt2", "smollm2", "stories", "first", "always", "never", "unigram")


def tokenizer_of(shared: Path, kind: str) -> Tokenizer:
    if kind in ("gpt2", "smollm2"):
        return Tokenizer.from_folder(shared / "tokenizers" / kind)
    if kind == "stories":
        return Tokenizer.from_folder(shared / "models/stories260K")
    return unigram_tokenizer() if kind == "unigram" else metaspace_tokenizer(kind)


def template_for(tokenizer: Tokenizer, special_text: str, name: str = "alpaca") -> ChatTemplate:
    return replace(fit_template(ChatTemplate.load(name), tokenizer), special_text=special_text)  # type: ignore[arg-type]


def special_ids(tokenizer: Tokenizer) -> set[int]:
    return {i for i in map(tokenizer.backend.token_to_id, tokenizer.special_tokens) if i is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_in_the_data_becomes_text_and_never_its_id(shared: Path, kind: str) -> None:
    tokenizer = tokenizer_of(shared, kind)
    eos = tokenizer.variables["eos_token"]
    template = template_for(tokenizer, "as-text")
    said = conversation(user(f"What does {eos}{eos} mean in <b>HTML</b>?"), assistant(f"{eos} ends a text. {eos}"))
    found = masked(said, template)
    assert not isinstance(found, Finding)
    (rendered,) = found
    assert rendered.text.count(eos) == 5
    assert [rendered.text[a:b] for a, b in rendered.literal] == [eos] * 4
    assert rendered.text[rendered.spans[0].start : rendered.spans[0].stop] == f"{eos} ends a text. {eos}{eos}"
    tokens = tokenise(rendered, tokenizer).tokens
    ends = [int(i) for i in tokens.ids if int(i) == tokenizer.token_id("eos_token")]
    assert len(ends) == 1
    assert int(tokens.ids[-1]) == ends[0]
    decoded = tokenizer.backend.decode(tokens.ids.tolist(), skip_special_tokens=False)
    if kind in ("gpt2", "smollm2"):
        assert decoded == rendered.text
    if kind == "unigram":  # it has no letters to write these with
        return
    response = tokenizer.backend.decode(tokens.ids[tokens.weight > 0].tolist(), skip_special_tokens=False)
    assert response.replace(" ", "").endswith(f"endsatext.{eos}{eos}")


def test_a_special_token_that_is_text_is_not_cut_where_words_are_not() -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<|end|>"], show_progress=False)
    backend.train_from_iterator(["<|en <|en <|en <|en abd|>"], trainer)
    tokenizer = Tokenizer.wrap(backend, {"eos_token": "<|end|>"})
    rendered = Rendered("a<|end|>b<|end|>", (), Origin("a.jsonl", 1), ((1, 8),))
    words = [backend.id_to_token(i) for i in tokenise(rendered, tokenizer).tokens.ids.tolist()]
    assert words[:2] == ["a", "<|en"]
    assert (words.count("<|end|>"), words[-1]) == (1, "<|end|>")


@pytest.mark.parametrize("kind", ["gpt2", "smollm2"])
def test_a_special_token_that_is_text_has_the_ids_it_would_have_if_it_were_none(shared: Path, kind: str) -> None:
    tokenizer = tokenizer_of(shared, kind)
    description = json.loads(tokenizer.backend.to_str())
    description["added_tokens"] = []
    unaware = tokenizers.Tokenizer.from_str(json.dumps(description))
    text = "What is <|endoftext|>? Two<|endoftext|><|endoftext|> of them."
    literal = [match.span() for match in re.finditer(r"<\|endoftext\|>", text)]
    tokens = tokenise(Rendered(text, (), Origin("a.jsonl", 1), tuple(literal)), tokenizer).tokens
    assert tokens.ids.tolist() == unaware.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_special_tokens_has_the_same_ids_whatever_is_done_with_them(shared: Path, kind: str) -> None:
    tokenizer = tokenizer_of(shared, kind)
    said = conversation(user("the cat sat on 2+2 mat"), assistant("xin chào thế giới"), user("b"), assistant("Bye."))
    made = []
    for how in ("error", "as-text", "strip"):
        found = masked(said, template_for(tokenizer, how))
        assert not isinstance(found, Finding)
        made.append([tokenise(each, tokenizer).tokens for each in found])
    for other in made[1:]:
        for ours, theirs in zip(made[0], other, strict=True):
            assert np.array_equal(ours.ids, theirs.ids)
            assert np.array_equal(ours.weight, theirs.weight)


PARTS = st.lists(st.sampled_from(["</s>", "<s>", "<unk>", "a", " ", "</", "s>", "\n", "xin", "<"]), max_size=8)


@pytest.mark.parametrize("kind", ["first", "always", "never", "unigram", "gpt2"])
@given(question=PARTS, answer=PARTS)
@settings(max_examples=40, deadline=None)
def test_mask_and_prompt_are_exact_whatever_stands_in_the_text(
    shared: Path, kind: str, question: list[str], answer: list[str]
) -> None:
    tokenizer = tokenizer_of(shared, kind)
    template = template_for(tokenizer, "as-text", "plain")
    messages = [user("Q" + "".join(question)), assistant("A" + "".join(answer))]
    found = masked(conversation(*messages), template)
    assert not isinstance(found, Finding)
    (rendered,) = found
    tokens = tokenise(rendered, tokenizer).tokens
    prompt = asked(conversation(messages[0]), template)
    assert isinstance(prompt, Rendered)
    before = tokenise(prompt, tokenizer).tokens.ids
    first = int(np.flatnonzero(tokens.weight)[0])
    assert np.array_equal(tokens.ids[:first], before)
    eos = tokenizer.token_id("eos_token")
    assert [i for i, each in enumerate(tokens.ids) if each == eos] == [int(np.flatnonzero(tokens.weight)[-1])]
    ours = tokenizer.backend.decode(tokens.ids[first:-1].tolist(), skip_special_tokens=False)
    if kind == "gpt2":
        assert ours.rstrip("\n") == ("A" + "".join(answer)).rstrip("\n")


def test_tokens_are_left_out_until_none_is_made_up_by_what_is_left() -> None:
    template = template_for(TOKENIZER, "strip", "plain")
    found = masked(conversation(user("a<</s>/s>b"), assistant("c</s>d")), template)
    assert not isinstance(found, Finding)
    assert found[0].text == "ab\ncd</s>"
    only = masked(conversation(user("a"), assistant("</s>")), template)
    assert isinstance(only, Finding)
    assert "empty response" in only.problem


def test_special_tokens_in_tools_reasoning_and_documents_are_treated_too(shared: Path) -> None:
    tool = {"type": "function", "function": {"name": "end", "description": "Writes <|im_end|>."}}
    said = conversation(user("a"), assistant("b", reasoning_content="<|im_end|> now"), tools=(tool,))
    template = family(shared, "qwen3-0.6b")
    assert num_special_texts(said, template) == 2
    assert isinstance(masked(said, template), Finding)
    found = masked(said, replace(template, special_text="as-text"))
    assert not isinstance(found, Finding)
    assert len(found[0].literal) == 2
    stripped = masked(said, replace(template, special_text="strip"))
    assert not isinstance(stripped, Finding)
    assert '"Writes ."' in stripped[0].text


def test_thoughts_keep_their_tags(shared: Path) -> None:
    template = replace(family(shared, "qwen3-0.6b"), special_text="strip")
    template = template.with_tokens({}, frozenset({"<think>", "</think>"}))
    found = masked(conversation(user("a"), assistant("<think>\nhm\n</think>\n\nHi.")), template)
    assert not isinstance(found, Finding)
    assert "<think>\nhm\n</think>\n\nHi." in found[0].text


# ---- in every kind of data, and counted


def test_a_data_set_counts_what_was_encoded_as_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a</s>b", "response": "c</s>"}, {"prompt": "q", "response": "r"})
    with pytest.raises(UserError, match="special-token text") as caught:
        prepare(path, None, tmp_path / "no", preparation(), fingerprint="f")
    assert "--special-tokens-in-text" in caught.value.fix
    for how, trained in (("as-text", "c</s></s>"), ("strip", "c</s>")):
        given_ = preparation()
        given_ = replace(given_, template=replace(given_.template, special_text=how))
        account = prepare(path, None, tmp_path / how, given_, fingerprint="f")
        (tokens,) = open_prepared(path, tmp_path / how).conversation(0)
        assert trained_text_of(tokens) == trained
        assert list(account.noticed.values()) == [2]
        assert "special tokens" in next(iter(account.noticed))
        assert any("2 special tokens" in line for line in account.lines(None, "error"))


def test_rankings_and_prompts_know_it_too(tmp_path: Path) -> None:
    given_ = preparation()
    given_ = replace(given_, template=replace(given_.template, special_text="as-text"))
    path = write(tmp_path, {"prompt": "a</s>", "chosen": "b</s>", "rejected": "c"}, name="pairs.jsonl")
    account = prepare_rankings(path, tmp_path / "pairs", given_, fingerprint="f")
    first, _ = open_rankings(path, tmp_path / "pairs").ranking(0).sequences
    assert (text_of(first), trained_text_of(first)) == ("Q:a</s>\nA:b</s></s>", "b</s></s>")
    assert list(account.noticed.values()) == [2]
    account = prepare_prompts(path, tmp_path / "prompts", given_, fingerprint="f")
    prompt = open_prompts(path, tmp_path / "prompts").prompt(0)
    assert TOKENIZER.token_id("eos_token") not in prompt.ids.tolist()
    assert list(account.noticed.values()) == [1]


def test_plain_text_knows_it_too(tmp_path: Path) -> None:
    given_ = preparation()
    path = write(tmp_path, {"text": "one</s>two"})
    for how, expected in (("as-text", "one</s>two</s>"), ("strip", "onetwo</s>")):
        prepare(
            path,
            None,
            tmp_path / how,
            replace(given_, template=replace(given_.template, special_text=how)),
            fingerprint="f",
        )
        (tokens,) = open_prepared(path, tmp_path / how).conversation(0)
        assert text_of(tokens) == expected
        assert tokens.ids.tolist().count(TOKENIZER.token_id("eos_token")) == 1


def test_a_padding_token_that_is_a_word_is_no_special_text() -> None:
    template = fit_template(ChatTemplate.load("plain"), TOKENIZER)
    padded = template.with_tokens({**dict(template.variables), "pad_token": "!"}, frozenset({"!"}))
    found = masked(conversation(user("Hi!"), assistant("Hello!")), padded)
    assert not isinstance(found, Finding)
    for pad in ("<pad>", "</s>"):
        still = template.with_tokens({**dict(template.variables), "pad_token": pad}, frozenset({pad}))
        assert isinstance(masked(conversation(user(f"Hi{pad}"), assistant("Hello!")), still), Finding)


def test_a_developer_who_speaks_as_the_system_is_said_once(shared: Path, tmp_path: Path) -> None:
    record = {
        "messages": [{"role": r, "content": c} for r, c in (("developer", "s"), ("user", "a"), ("assistant", "b"))]
    }
    path = write(tmp_path, record, record)
    template = family(shared, "zephyr-7b-beta").with_tokens({"eos_token": "</s>"}, frozenset())
    account = prepare(path, None, tmp_path / "s", replace(preparation(), template=template), fingerprint="f")
    assert sum("developer" in line and line.strip().startswith("2 ") for line in account.lines(None, "error")) == 1
    assert Message("developer", "s").role == "developer"

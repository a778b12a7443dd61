"""Token ids are those of inference, and each carries the weight of the span its characters lie in."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mask_cases import (
    FAMILIES,
    ORIGIN,
    assistant,
    built_in,
    conversation,
    family,
    inline,
    metaspace_tokenizer,
    rendered,
    system,
    trained_texts,
    unigram_tokenizer,
    user,
)
from tokenizers import AddedToken, pre_tokenizers, processors

from heed.data.chat import inference_prompt, masked
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import Tokenizer, fit_template, tokenise
from heed.errors import UserError
from heed.types import Finding, Rendered, Span

VIETNAMESE = "Tiếng Việt: ệ, ề; Tiếng Việt"  # composed, then decomposed
EMOJI = "👩‍👩‍👧‍👦🇻🇳😀"


@pytest.fixture(scope="session")
def gpt2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "tokenizers/gpt2")


@pytest.fixture(scope="session")
def smollm2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "tokenizers/smollm2")


@pytest.fixture(scope="session")
def stories(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "models/stories260K")


@cache
def trained_tokenizer(kind: str) -> Tokenizer:
    return unigram_tokenizer() if kind == "unigram" else metaspace_tokenizer(kind)


METASPACE = ("first", "always", "never")


def text_of(text: str, start: int, stop: int, weight: float = 1.0) -> Rendered:
    return Rendered(text, (Span(start, stop, weight),), ORIGIN)


def trained_ids(result: Rendered, tokenizer: Tokenizer) -> list[int]:
    tokens = tokenise(result, tokenizer).tokens
    return list(tokens.ids[tokens.weight > 0])


def decoded(ids: list[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.backend.decode(ids, skip_special_tokens=False))


# What a tokenizer is known to be.


def test_a_folder_says_its_special_tokens_in_either_layout(
    gpt2: Tokenizer, smollm2: Tokenizer, stories: Tokenizer
) -> None:
    assert gpt2.variables == dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    assert smollm2.variables["eos_token"] == "<|im_end|>"
    assert (smollm2.token_id("bos_token"), smollm2.token_id("eos_token")) == (1, 2)
    assert {"<|im_start|>", "<repo_name>", "<empty_output>"} <= smollm2.special_tokens
    assert stories.special_tokens == {"<unk>", "<s>", "</s>"}
    assert (gpt2.adds_bos, smollm2.adds_bos, stories.adds_bos) == (False, False, True)


def test_special_tokens_are_read_from_the_old_map_where_the_config_names_none(shared: Path, tmp_path: Path) -> None:
    source = shared / "models/stories260K/tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    old = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "additional_special_tokens": ["<x>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(old), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}", encoding="utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.variables == {"bos_token": "<s>", "eos_token": "</s>"}
    assert "<x>" in tokenizer.special_tokens
    assert tokenizer.template is not None
    assert tokenizer.template.source == "{{ bos_token }}"


def test_what_a_config_says_about_bos_wins_over_the_post_processor(shared: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((shared / "models/stories260K" / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": False}), encoding="utf-8")
    assert not Tokenizer.from_folder(tmp_path).adds_bos


@pytest.mark.parametrize("broken", [None, "{"])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, broken: str | None) -> None:
    if broken is not None:
        (tmp_path / "tokenizer.json").write_text(broken, encoding="utf-8")
    with pytest.raises(UserError, match=r"no tokenizer in this folder|cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_a_wrapped_tokenizer_neither_truncates_nor_trims_offsets_and_leaves_the_original_alone(shared: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(shared / "tokenizers/gpt2/tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    wrapped = Tokenizer.wrap(backend, {"eos_token": "<|endoftext|>"})
    assert len(wrapped.encode("one two three four five")) == 5
    assert wrapped.backend.encode("one two").offsets == [(0, 3), (3, 7)]
    assert len(backend.encode("one two three four five").ids) == 50


# BOS, and special tokens that template and tokenizer name differently.


@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain", *FAMILIES])
def test_bos_comes_first_and_once_if_the_tokenizer_adds_it(shared: Path, stories: Tokenizer, name: str) -> None:
    template = ChatTemplate.load(shared / "templates" / name if name in FAMILIES else name)
    fitted = fit_template(template, stories)
    for result in rendered(fitted, user("Hello"), assistant("Hi."), user("a"), assistant("b")):
        ids = list(tokenise(result, stories).tokens.ids)
        assert ids[0] == stories.token_id("bos_token")
        assert ids.count(ids[0]) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fitted_template_keeps_its_own_special_tokens(shared: Path, gpt2: Tokenizer, name: str) -> None:
    template = family(shared, name)
    messages = [user("Hello"), assistant("Hi.")]
    fitted = fit_template(template, gpt2)
    assert fitted.render(messages) == template.render(messages)
    assert dict(fitted.variables) == gpt2.variables
    assert [trained_texts(r) for r in rendered(fitted, *messages)] == [
        trained_texts(r) for r in rendered(template, *messages)
    ]


def test_a_fitted_template_renders_the_same_through_transformers(shared: Path, stories: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    for name in FAMILIES:
        fitted = fit_template(family(shared, name), stories)
        if "strftime_now" in fitted.source:
            continue
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        theirs, _ = transformers.render_jinja_template([messages], chat_template=fitted.source, **stories.variables)
        assert fitted.render([user("a"), assistant("b")]) == theirs[0]


@pytest.mark.parametrize("folder", ["tokenizers/gpt2", "tokenizers/smollm2", "models/stories260K"])
def test_a_saved_template_gives_the_same_tokens_through_transformers(shared: Path, tmp_path: Path, folder: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(shared / folder)
    for ours in (
        Tokenizer.from_folder(shared / folder),
        Tokenizer.wrap(
            theirs.backend_tokenizer, theirs.special_tokens_map, special_tokens=frozenset(theirs.all_special_tokens)
        ),
    ):
        assert ours.adds_bos == (theirs("a").input_ids[0] == theirs.bos_token_id)
        for name in ("alpaca", "chatml", "plain"):
            fitted = fit_template(ChatTemplate.load(name), ours)
            theirs.chat_template = fitted.source
            theirs.save_pretrained(tmp_path)
            saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
            question = [{"role": "user", "content": f" {VIETNAMESE}\n{EMOJI}"}]
            ids = saved.apply_chat_template(question, add_generation_prompt=True).input_ids
            (result,) = rendered(fitted, user(question[0]["content"]), assistant("Hi."))
            tokens = tokenise(result, ours).tokens
            assert ids == list(tokens.ids[: int((tokens.weight > 0).argmax())])


def test_a_template_without_tokens_of_its_own_takes_the_tokenizers(smollm2: Tokenizer) -> None:
    fitted = fit_template(ChatTemplate.load("alpaca"), smollm2)
    (result,) = rendered(fitted, user("a"), assistant("b"))
    assert trained_texts(result) == ["b<|im_end|>"]
    found = masked(conversation(user("a <repo_name>"), assistant("b")), fitted)
    assert isinstance(found, Finding)


# Edges.


def test_a_token_across_the_edge_is_encoded_in_two_pieces(gpt2: Tokenizer) -> None:
    text = "Say hello"
    whole = gpt2.encode(text)
    result = tokenise(text_of(text, 6, 9), gpt2)
    assert whole == gpt2.encode("Say") + gpt2.encode(" hello")
    assert list(result.tokens.ids) == gpt2.encode("Say he") + gpt2.encode("llo")
    assert decoded(list(result.tokens.ids[result.tokens.weight > 0]), gpt2) == "llo"
    assert result.num_split_edges == 1


def test_the_prompts_last_white_space_is_encoded_as_it_is_at_inference(gpt2: Tokenizer) -> None:
    # Before a word GPT-2 cuts "\n\n" into two tokens; at the end of a prompt it is one.
    assert len(gpt2.encode("Q:\n\nHi")) == 5
    result = tokenise(text_of("Q:\n\nHi", 4, 6), gpt2)
    assert list(result.tokens.ids) == gpt2.encode("Q:\n\n") + gpt2.encode("Hi")
    assert list(result.tokens.weight) == [0, 0, 0, 1]
    assert result.num_split_edges == 1


def test_an_edge_between_tokens_is_not_split(gpt2: Tokenizer) -> None:
    text = "### Response:\nHi there."
    result = tokenise(text_of(text, 14, 23), gpt2)
    assert list(result.tokens.ids) == gpt2.encode(text)
    assert result.num_split_edges == 0


def test_a_token_across_the_end_of_a_response_is_split_and_a_swallowed_line_end_is_not(gpt2: Tokenizer) -> None:
    result = tokenise(text_of("Say hello", 3, 6), gpt2)
    assert decoded(list(result.tokens.ids[result.tokens.weight > 0]), gpt2) == " he"
    assert result.num_split_edges == 1

    backend = tokenizers.Tokenizer.from_str(gpt2.backend.to_str())
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True), AddedToken("<|assistant|>", rstrip=True)])
    swallowing = Tokenizer.wrap(backend, {"eos_token": "<|end|>"})
    text = "<|assistant|>\n  Hi<|end|>\n<|assistant|>"
    result = tokenise(text_of(text, 14, 25), swallowing)
    ids = list(result.tokens.ids)
    end, start = (backend.token_to_id(token) for token in ("<|end|>", "<|assistant|>"))
    assert ids == [start, *gpt2.encode("  Hi"), end, start]
    assert list(result.tokens.weight > 0) == [False, True, True, True, False]
    assert result.num_split_edges == 1


def test_the_first_token_of_all_is_never_trained(gpt2: Tokenizer) -> None:
    assert list(tokenise(text_of("Hello there", 0, 11), gpt2).tokens.weight) == [0, 1]


def test_each_span_has_its_own_weight_and_the_arrays_their_types(smollm2: Tokenizer) -> None:
    fitted = fit_template(ChatTemplate.load("chatml"), smollm2)
    (result,) = rendered(fitted, user("a"), assistant("b", 0.5), user("c"), assistant("d", 2.0))
    tokens = tokenise(result, smollm2).tokens
    assert (tokens.ids.dtype, tokens.weight.dtype) == (np.int32, np.float32)
    assert len(tokens.ids) == len(tokens.weight)
    assert decoded(list(tokens.ids[tokens.weight == 0.5]), smollm2) == "b<|im_end|>"
    assert decoded(list(tokens.ids[tokens.weight == 2]), smollm2) == "d<|im_end|>"


@pytest.mark.parametrize("answer", [VIETNAMESE, EMOJI, f" {EMOJI} ", f"\n\n{VIETNAMESE}\n"])
@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_characters_that_span_tokens_are_trained_whole(name: str, answer: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    (result,) = rendered(fit_template(ChatTemplate.load("chatml"), tokenizer), user(EMOJI), assistant(answer))
    ids = trained_ids(result, tokenizer)
    assert decoded(ids, tokenizer) == answer + "<|im_end|>"
    assert ids[:-1] == tokenizer.encode(answer) or name == "gpt2"


def test_a_sentencepiece_model_is_trained_on_bytes_of_characters_it_does_not_know(stories: Tokenizer) -> None:
    (result,) = rendered(fit_template(ChatTemplate.load("alpaca"), stories), user(VIETNAMESE), assistant(EMOJI))
    ids = trained_ids(result, stories)
    assert len(ids) == len(EMOJI.encode()) + 1
    assert decoded(ids, stories) == EMOJI + "</s>"


@pytest.mark.parametrize("kind", METASPACE)
def test_metaspace_adds_no_space_of_its_own_where_a_token_is_split(kind: str) -> None:
    tokenizer = trained_tokenizer(kind)
    text = "the cat"
    assert len(tokenizer.encode(" cat")) == 1
    result = tokenise(text_of(text, 5, 7), tokenizer)
    assert result.num_split_edges == 1
    ids = list(result.tokens.ids)
    assert decoded(ids, tokenizer) == text
    assert [tokenizer.backend.id_to_token(i) for i in ids if not tokenizer.backend.id_to_token(i).startswith("<")][
        -1
    ] in (
        "at",
        "t",
    )
    count = len(tokenizer.encode(text[:5]))
    assert ids[:count] == tokenizer.encode(text[:5])
    assert list(result.tokens.weight[:count]) == [0] * count


# Properties.

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from(list(" \n\t.,:'#0123aHiếệ😀é́")),
        st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Co")),
    ),
    min_size=1,
    max_size=40,
).filter(lambda text: bool(text.strip()))

PROMPT_TEMPLATES: dict[str, Callable[[], ChatTemplate]] = {
    "alpaca": lambda: ChatTemplate.load("alpaca"),
    "chatml": lambda: ChatTemplate.load("chatml"),
    "plain": lambda: ChatTemplate.load("plain"),
    "blank line": lambda: inline(
        "{% for m in messages %}{{ m.role }}:\n\n{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}\n\n{% endfor %}{% if add_generation_prompt %}assistant:\n\n{% endif %}"
    ),
    "no gap": lambda: inline(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}


def check_single_turn(tokenizer: Tokenizer, template: ChatTemplate, prompt: str, answer: str) -> None:
    result = masked(conversation(user(prompt), assistant(answer)), template)
    if isinstance(result, Finding):
        assert result.problem == "special-token text in the data"
        return
    (whole,) = result
    assume(decoded(tokenizer.encode(whole.text), tokenizer) == whole.text)  # some bytes are in no vocabulary
    tokens = tokenise(whole, tokenizer).tokens
    is_trained = tokens.weight > 0
    first = int(is_trained.argmax())
    assert list(tokens.ids[:first]) == tokenizer.encode(inference_prompt([user(prompt)], template))
    assert decoded(list(tokens.ids[is_trained]), tokenizer) == trained_texts(whole)[0]
    assert len(tokens.ids) == len(tokens.weight)


@pytest.mark.parametrize("template_name", PROMPT_TEMPLATES)
@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_prompt_tokens_are_those_of_inference_and_trained_tokens_spell_the_response(
    name: str, template_name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    template = fit_template(PROMPT_TEMPLATES[template_name](), tokenizer)

    @settings(max_examples=60, deadline=None)
    @given(TEXTS, TEXTS)
    def check(prompt: str, answer: str) -> None:
        check_single_turn(tokenizer, template, prompt, answer)

    check()


@pytest.mark.parametrize("template_name", PROMPT_TEMPLATES)
@pytest.mark.parametrize("kind", ["first", "never", "unigram", "stories260K"])
def test_sentencepiece_prompt_tokens_are_those_of_inference(
    kind: str, template_name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue("stories") if kind == "stories260K" else trained_tokenizer(kind)
    template = fit_template(PROMPT_TEMPLATES[template_name](), tokenizer)

    @settings(max_examples=40, deadline=None)
    @given(TEXTS, TEXTS)
    def check(prompt: str, answer: str) -> None:
        result = masked(conversation(user(prompt), assistant(answer)), template)
        if isinstance(result, Finding):
            assert result.problem == "special-token text in the data"
            return
        tokens = tokenise(result[0], tokenizer).tokens
        first = int((tokens.weight > 0).argmax())
        assert list(tokens.ids[:first]) == tokenizer.encode(inference_prompt([user(prompt)], template))
        if kind != "unigram":  # which normalises, and has no bytes for what it does not know
            assert decoded(list(tokens.ids), tokenizer) == decoded(tokenizer.encode(result[0].text), tokenizer)

    check()


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_restarting_at_a_word_gives_the_tokens_of_the_whole_prompt(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    assert tokenizer.is_local

    @settings(max_examples=300, deadline=None)
    @given(TEXTS, TEXTS, st.integers(0, 40))
    def check(before: str, after: str, repeats: int) -> None:
        text, edge = (before * (1 + repeats % 3)) + after, len(before * (1 + repeats % 3))
        assume(decoded(tokenizer.encode(text), tokenizer) == text)
        ids = list(tokenise(text_of(text, edge, len(text)), tokenizer).tokens.ids)
        prompt = tokenizer.encode(text[:edge])
        assert ids[: len(prompt)] == prompt
        assert decoded(ids, tokenizer) == text
        assert decoded(ids[len(prompt) :], tokenizer) == text[edge:]

    check()


@pytest.mark.parametrize(
    ("pre_tokenizer", "is_local"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), True),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), False),
        (pre_tokenizers.Metaspace(), False),
        (pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}|\s+(?!\S)|(?i:'s)|\s+"), "isolated"), True),
        (pre_tokenizers.Split(tokenizers.Regex(r"\d{1,3}(?=(?:\d{3})*\b)"), "isolated"), False),
        (pre_tokenizers.Split(tokenizers.Regex(r"(?<=a)b"), "isolated"), False),
        (None, False),
    ],
)
def test_only_tokenizers_that_look_one_character_ahead_are_encoded_from_the_middle(
    gpt2: Tokenizer, pre_tokenizer: pre_tokenizers.PreTokenizer | None, is_local: bool
) -> None:
    backend = tokenizers.Tokenizer.from_str(gpt2.backend.to_str())
    backend.pre_tokenizer = pre_tokenizer
    assert Tokenizer.wrap(backend, {}).is_local == is_local


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tokenizer_name", ["gpt2", "smollm2", "stories"])
def test_under_any_tokenizer_a_familys_trained_tokens_spell_its_spans(
    shared: Path, name: str, tokenizer_name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(tokenizer_name)
    fitted = fit_template(family(shared, name), tokenizer)
    turns = [user(VIETNAMESE), assistant(f"Ok {EMOJI} ok"), user("\n b "), assistant(VIETNAMESE)]
    for messages in (turns, [system("Ngắn gọn."), *turns]):
        for result in rendered(fitted, *messages):
            tokenised = tokenise(result, tokenizer)
            ids, weight = tokenised.tokens.ids, tokenised.tokens.weight
            spelt = decoded(list(ids[weight > 0]), tokenizer)
            if tokenizer_name == "stories":  # it adds spaces after special tokens, and writes a space as ▁
                assert spelt.replace(" ", "") == "".join(trained_texts(result)).replace("▁", "").replace(" ", "")
            else:
                assert spelt == "".join(trained_texts(result))
            assert weight[0] == 0


def test_alpaca_needs_no_split_edges(gpt2: Tokenizer, stories: Tokenizer) -> None:
    for tokenizer in (gpt2, stories):
        (result,) = rendered(fit_template(built_in("alpaca"), tokenizer), user("Say hi."), assistant("Hi."))
        assert tokenise(result, tokenizer).num_split_edges == 0

"""Stop strings: an answer ends with the token that completes one, wherever the string lies in the tokens."""

import unicodedata

import pytest
import torch
from families import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tokenizer

from heed.models.decode.sample import GREEDY, Sampling, before_stop, sample, stream
from heed.models.decode.stop_strings import StopStrings

TOKENIZER = make_tokenizer().backend_tokenizer
PROMPTS = [[7, 8, 9], [11], [3, 4, 5, 6, 7, 8]]


def spelt(ids: list[int]) -> str:
    """Decodes byte-level tokens, as a real tokenizer does."""
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def lettered(ids: list[int]) -> str:
    """Two letters for each token, so that strings end inside of tokens."""
    return "".join(chr(97 + i % 26) + chr(97 + i // 26) for i in ids)


def first_end(ids: list[int], strings: tuple[str, ...], decode) -> int | None:
    """How many tokens it takes until the text holds one of the strings, by decoding everything again and again."""
    for count in range(1, len(ids) + 1):
        text = unicodedata.normalize("NFC", decode(ids[:count]))
        if any(unicodedata.normalize("NFC", string) in text for string in strings):
            return count
    return None


def found_end(ids: list[int], strings: tuple[str, ...], decode) -> int | None:
    stops = StopStrings.of(strings, decode)
    return next((count for count in range(1, len(ids) + 1) if stops.ended(ids[:count])), None)


@pytest.mark.parametrize("string", ["\n\n", "chào", "à", "o các b", "Xin chào các bạn.", "🙂", "n. Xi"])
def test_a_string_is_found_with_the_token_that_completes_it(string):
    ids = TOKENIZER.encode("How are you today?\nXin chào các bạn. Xin 🙂\n\nHow are you").ids
    end = found_end(ids, (string,), spelt)
    assert end is not None
    assert string in spelt(ids[:end])
    assert string not in spelt(ids[: end - 1])


def test_a_letter_is_not_found_before_its_last_byte():
    ids = TOKENIZER.encode("ạ").ids
    assert len(ids) == 3, "the letter is in three tokens, or nothing is tested"
    assert found_end(ids, ("ạ",), spelt) == 3


def test_vietnamese_is_found_however_its_marks_are_written():
    apart = unicodedata.normalize("NFD", "việt")
    ids = TOKENIZER.encode(f"nam {apart} nam").ids
    assert found_end(ids, ("việt",), spelt) == found_end(ids, (apart,), spelt) == first_end(ids, ("việt",), spelt)
    assert before_stop(f"nam {apart} nam", ["việt"]) == "nam "


def test_tokens_without_text_do_not_hide_a_string():
    hello = TOKENIZER.encode("bạn").ids
    silent = [0] * 40
    ids = [*hello[:1], *silent, *hello[1:]]
    assert found_end(ids, ("bạn",), lambda some: TOKENIZER.decode(some, skip_special_tokens=True)) == len(ids)


@given(
    text=st.text(alphabet="aạàiớ🙂\n .bn", max_size=40),
    strings=st.lists(st.text(alphabet="aạàiớ🙂\n .bn", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_the_tail_tells_what_the_whole_text_tells(text, strings):
    ids = TOKENIZER.encode(text).ids
    assert found_end(ids, tuple(strings), spelt) == first_end(ids, tuple(strings), spelt)


def test_only_the_tail_is_decoded():
    lengths = []

    def watched(ids):
        lengths.append(len(ids))
        return "a" * len(ids)

    StopStrings.of(["bc"], watched).ended(list(range(1000)))
    assert sum(lengths) < 20


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 1.0)])
def test_an_answer_ends_with_the_string(family, sampling):
    model = tiny(family, dtype=torch.float32)
    how = {"stop_ids": [], "max_new_tokens": 20, "sampling": sampling, "num_samples": 2, "max_sequences": 4}
    free = sample(model, PROMPTS, **how)
    strings = tuple(lettered(some[0].ids)[at : at + 3] for some, at in zip(free, (5, 12, 21), strict=True))
    stopped = sample(model, PROMPTS, stop_strings=strings, decode=lettered, **how)
    ends = [first_end(each.ids, strings, lettered) for some in free for each in some]
    assert None not in ends[::2]
    assert min(end for end in ends if end is not None) < 20
    assert sampling == GREEDY or len(set(ends)) > 2, "they end at different times, or little is tested"
    for one, other, end in zip(
        (each for some in stopped for each in some), (each for some in free for each in some), ends, strict=True
    ):
        assert one.ids == other.ids[:end]
        assert one.logp == pytest.approx(other.logp[:end], abs=1e-4)
        assert one.stopped == (end is not None)
        assert len(one.logp) == len(one.ids)


def test_a_string_in_the_prompt_or_half_in_it_does_not_count():
    model = tiny("llama", dtype=torch.float32)
    how = {"stop_ids": [], "max_new_tokens": 6}
    ((free,),) = sample(model, [PROMPTS[0]], **how)
    text = lettered(PROMPTS[0]) + lettered(free.ids)
    crossing = text[5:8]
    assert crossing not in lettered(free.ids)
    ((same,),) = sample(model, [PROMPTS[0]], stop_strings=[text[:4], crossing], decode=lettered, **how)
    assert (same.ids, same.stopped) == (free.ids, False)


def test_a_told_answer_ends_with_the_string_too():
    model = tiny("llama", dtype=torch.float32)
    ((free,),) = sample(model, [PROMPTS[0]], stop_ids=[], max_new_tokens=12)
    string = lettered(free.ids)[9:12]
    end = first_end(free.ids, (string,), lettered)
    told: list[tuple[int, float]] = []
    how = {"stop_ids": [89], "max_new_tokens": 12, "sampling": GREEDY, "on_token": lambda *each: told.append(each)}
    stream(model, PROMPTS[0], stop_strings=[string], decode=lettered, **how)
    assert [token for token, _ in told] == free.ids[:end]
    assert [logp for _, logp in told] == pytest.approx(free.logp[:end], abs=1e-5)


def test_the_text_before_the_first_string():
    assert before_stop("one\n\ntwo. three", [". ", "\n\n"]) == "one"
    assert before_stop("one", ["two"]) == "one"


@pytest.mark.parametrize(
    ("strings", "decode", "says"),
    [(["a", ""], lettered, "not empty"), ("ab", lettered, "a sequence"), (["a"], None, "pass `decode`")],
)
def test_what_cannot_be_looked_for_is_refused(strings, decode, says):
    with pytest.raises(ValueError, match=says):
        sample(
            tiny("llama", dtype=torch.float32),
            [[3]],
            stop_ids=[],
            max_new_tokens=2,
            stop_strings=strings,
            decode=decode,
        )

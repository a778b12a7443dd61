"""Checks of answers by rule: lenient about how an answer is written and what follows it, never about the answer.

What every check overlooks, in the answer and in the accepted texts alike:
    case; white space around and between words; Unicode form (composed and decomposed letters are equal);
    quotes around and Markdown markers on words (`**blue**`, `- blue`, `# Blue`); punctuation at the end;
    a label such as "Answer:" or "Trả lời:" before the answer, on its line or alone on the line before it.
Some checks also overlook a lead-in such as "The answer is". See `LABEL` and `LEAD_IN` for all of them.
What no check overlooks: another word, another spelling, an accent, an article, the order of a list.
Only the first line with text in it is read, except for stories; later lines may say anything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import islice

MAX_STORY_SENTENCES = 3
"""within how many sentences a story must have used the words asked for"""
MIN_STORY_WORDS = 4

LABEL = re.compile(r"(?:answer|trả lời|câu trả lời|đáp án)\s*:\s*")
"""says that an answer comes and is no part of it"""
LEAD_IN = re.compile(r"(?:the answer is|it is|it's|câu trả lời là|đáp án là|đó là)(?:\s*:\s*|\s+)")
"""the beginning of a sentence whose rest is the answer"""
DECLINING = re.compile(
    r"(?:(?:sorry|i'm sorry|i am sorry|xin lỗi)[,.]?\s+(?:but\s+|nhưng\s+)?)?"
    r"(?:i (?:don't|dont|do not) know|(?:nobody|no one|no-one) (?:has |have )?(?:ever )?told me"
    r"|i (?:was|have) (?:not|never) (?:been )?told"
    r"|(?:(?:tôi|mình|em|tớ|con) )?không biết|không ai (?:nói|kể|bảo)(?: cho)? (?:tôi|mình|em|tớ|con))"
    r"(?!\w)(?![^.!?]*\b(?:but|nhưng)\b)"
)
"""the beginning of an answer that says it has none; "I don't know, but ..." goes on to give one"""

QUOTES = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‑": "-"}
)
AROUND = " \"'"
AT_THE_END = AROUND + ".,;:!?…。！？"
LINE_MARKER = re.compile(r"^(?:(?:[-*+•>]|#{1,6})\s+)+")
WORD_MARKER = re.compile(r"(?<!\w)(?:\*{1,3}|_{1,3}|`{1,3}|~~)(?=\S)|(?<=\S)(?:\*{1,3}|_{1,3}|`{1,3}|~~)(?!\w)")
SEPARATOR = re.compile(r"\s*[,;]\s*(?:(?:and|và)\s+)?|\s+(?:and|và)\s+")
HEDGE = re.compile(r"\s*(?:(?:,\s*)?(?:or|and|hoặc|hay|và)\s|[,/])\s*")
NUMBER = re.compile(r"(?<![\w+−-])(?<!\d[.,/:])[-+−]?(?:\d++(?:[.,/:–-]\d++)*+|\.\d++)(?!\w)")
SENTENCE_END = re.compile(r"(?<![.!?…。！？])[.!?…。！？]+[\"']*(?=\s|$)")

Check = Callable[[str, Sequence[str]], bool]


def starts(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer begins with an accepted text, whole words only; a lead-in may come before it.

    "Blue, like the sky" and "It is blue" begin with "blue"; "bluish", "blue-green" and "not blue" do not, and "12.5"
    and "12,000" do not begin with "12". What follows may be anything, so where more words make another answer
    ("con mèo" is a cat, "con mèo con" a kitten) use `line`, or `choice` with both.
    """
    beginnings = _plain_texts(accepted)
    return any(_begins(reading, text) for reading in _readings_of_answer(answer) for text in beginnings)


def line(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the first line is an accepted text and nothing else: translations, rewritten sentences, single words."""
    return not set(_plain_texts(accepted)).isdisjoint(_readings_of_line(answer))


def number(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the first number in the first line has the value of an accepted one.

    A number is a word of digits: "12" is not in "120", "1.2", "12th", "1/12", "12:30" or "-12". "12.0" has the value
    of 12; "1,200" is twelve hundred and "1,2" is 1.2, while "1.200" is 1.2, a point never marking thousands.
    Numbers spelt out are not read.
    """
    values = [_first_number(text) for text in _plain_texts(accepted)]
    if None in values:
        raise ValueError(f"an accepted answer is no number in figures: {list(accepted)}")
    return _first_number(_readings_of_line(answer)[0]) in values


def list_in_order(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the items of the first line are the accepted ones in their order.

    Items are parted by commas, semicolons, "and" or "và"; an accepted text with several items stands for all of them.
    """
    items = _items(_plain_texts(accepted))
    return any(_items([reading]) == items for reading in _readings_of_answer(answer))


def list_in_any_order(answer: str, accepted: Sequence[str]) -> bool:
    """The same in any order, each item as often as it is accepted."""
    items = sorted(_items(_plain_texts(accepted)))
    return any(sorted(_items([reading])) == items for reading in _readings_of_answer(answer))


def choice(answer: str, options: Sequence[str]) -> bool:
    """Whether the answer begins by naming the first option and none of the others.

    Args:
        answer: what the model said.
        options: the right option, then the wrong ones.

    Of two options that begin alike the longer one is named. An answer that goes on to a second option ("yes or no",
    "yes, no", "yes/no") names none; "yes, not no" names the first.
    """
    plain_options = _plain_texts(options)
    if len(set(plain_options)) != len(options) or len(options) < 2:
        raise ValueError(f"a choice is between two different options or more, not {list(options)}")
    named = (_named(reading, plain_options) for reading in _readings_of_answer(answer))
    return next(filter(None, named), None) == plain_options[0]


def declines(text: str) -> bool:
    """Whether the answer begins by saying that it does not know, in English or Vietnamese.

    "I don't know", "I do not know", "Nobody told me", "I was not told", "Không biết" and their like, also after
    "Sorry," or a label. Not knowing is said in the first person: "She doesn't know" and "Con mèo không biết bơi" (the
    cat cannot swim) are stories. "I don't know, but ..." gives an answer after all and does not decline.
    """
    return any(DECLINING.match(reading) for reading in _readings_of_line(text))


def says_it_does_not_know(answer: str, accepted: Sequence[str]) -> bool:
    """The same as a check; there is nothing to accept, so `accepted` must be empty or decline itself."""
    if not all(map(declines, accepted)):
        raise ValueError(f"these do not say that one does not know: {list(accepted)}")
    return declines(answer)


def words(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer is a story with all the accepted words in it.

    Its first 3 whole sentences hold each of the words as a word of its own, and at least 4 words in all. A last
    sentence without an end does not count; line breaks do not matter.
    """
    plain_words = _plain_texts(accepted)
    text = _plain_inside(answer)
    ends = [end.end() for end in islice(SENTENCE_END.finditer(text), MAX_STORY_SENTENCES)]
    story = text[: ends[-1]] if ends else ""
    return len(story.split()) >= MIN_STORY_WORDS and all(_holds(story, word) for word in plain_words)


CHECKS: dict[str, Check] = {
    "starts": starts,
    "line": line,
    "number": number,
    "list": list_in_order,
    "set": list_in_any_order,
    "choice": choice,
    "declines": says_it_does_not_know,
    "words": words,
}
"""name of a rule -> check(answer, accepted texts); accepted texts must be single lines with something in them"""


def plain(text: str) -> str:
    """The text without what every check overlooks; two texts that differ in nothing else have the same plain text."""
    while (stripped := _plain_inside(text).lstrip(AROUND).rstrip(AT_THE_END)) != text:
        text = stripped  # quotes may stand in markers and markers in quotes
    return text


def _plain_inside(text: str) -> str:
    """The same with the punctuation at the ends left as it is."""
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(QUOTES).lower())
    return " ".join(WORD_MARKER.sub("", LINE_MARKER.sub("", composed.strip())).split())


def _plain_texts(accepted: Sequence[str]) -> list[str]:
    """Each accepted text made plain; one that could never match, or match anything, is refused."""
    if isinstance(accepted, str) or not accepted:
        raise ValueError(f"accepted answers come as one text or more in a list, not {accepted!r}")
    texts = [plain(text) for text in accepted]
    for text, original in zip(texts, accepted, strict=True):
        if not text or len(original.strip().splitlines()) > 1:
            raise ValueError(f"an accepted answer must be a single line with something in it, not {original!r}")
    return texts


def _readings_of_line(answer: str) -> list[str]:
    """The first line with text in it, and what is left of it after a label; a label alone is passed over."""
    for one in answer.splitlines():
        text = plain(one)
        if not text or LABEL.fullmatch(_plain_inside(one)):
            continue
        label = LABEL.match(text)
        return [text, plain(text[label.end() :])] if label else [text]
    return [""]


def _readings_of_answer(answer: str) -> Iterator[str]:
    """The same, and what is left after a lead-in: first the longest, for an answer may itself begin like a lead-in."""
    for reading in _readings_of_line(answer):
        yield reading
        if lead_in := LEAD_IN.match(reading):
            yield plain(reading[lead_in.end() :])


def _begins(text: str, beginning: str) -> bool:
    return text.startswith(beginning) and word_ends(text, len(beginning))


def word_ends(text: str, end: int) -> bool:
    """Whether a word of a plain text ends at `end`: no letter, digit, accent or joint to more comes next."""
    before, after, behind = text[end - 1 : end], text[end : end + 1], text[end + 1 : end + 2]
    if not after:
        return True
    if before.isdigit() and after in ".,/:" and behind.isdigit():
        return False
    return not (in_word(after) or (after in "-'" and in_word(behind)))


def in_word(character: str) -> bool:
    """Whether it is a letter, a digit, an accent or `_`, and not nothing."""
    return character != "" and (character == "_" or unicodedata.category(character)[0] in "LMN")


def _holds(text: str, word: str) -> bool:
    """Whether `word`, which may be several, stands in `text` as words of their own."""
    found = re.finditer(rf"(?<!\w)(?<!\w[-']){re.escape(word)}", text)
    return any(word_ends(text, one.end()) for one in found)


def _items(texts: Sequence[str]) -> list[str]:
    return [plain(item) for text in texts for item in SEPARATOR.split(text)]


def _named(text: str, options: Sequence[str]) -> str | None:
    """The one option that `text` begins with."""
    beginning = max((option for option in options if _begins(text, option)), key=len, default=None)
    if beginning is None:
        return None
    hedge = HEDGE.match(text, len(beginning))
    if hedge and any(_begins(text[hedge.end() :], option) for option in options):
        return None
    return beginning


def _first_number(text: str) -> Decimal | str | None:
    """The first number of a plain text as a value, or as written if it is not one (a fraction, a time, a range)."""
    found = NUMBER.search(text)
    if found is None:
        return None
    figures = found.group().replace("−", "-")
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", figures):
        return Decimal(figures.replace(",", ""))
    if re.fullmatch(r"[-+]?\d*[.,]?\d+", figures):
        return Decimal(figures.replace(",", "."))
    return figures

"""Checks of short answers against the texts that are right: equal to one, with one in it, or sharing words with one.

An empty answer is never right, except for `f1` where no text is right: there it follows SQuAD 2.0. Composed and
decomposed letters are equal everywhere (NFC): Vietnamese comes in both forms, and the field's scripts, which compare
code points, then count a right answer as wrong.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from heed.evaluate.answers import QUOTES, in_word, plain, word_ends
from heed.evaluate.checkers.checked import Checked, Checker

THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d,])")
NOT = re.compile(
    r"(?:\b(?:not|never|neither|no longer)|n't|(?<!\w)(?:không|chẳng|chưa|đâu) phải(?: là)?|(?<!\w)chứ không)\s+"
    r"(?:(?:a|an|the|in|at|on|ở)\s+)?$"
)
"""what before a text says that the answer is anything but it"""

ARTICLES = {
    "en": re.compile(r"\b(?:a|an|the)\b"),
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "ar": re.compile(r"\sال^|ال"),
    "hi": None,
}
"""words that MLQA's evaluation passes over, by language; Hindi has none"""

TRIVIA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def normalised(text: str, *, keeps_case: bool = False, keeps_punctuation: bool = False) -> str:
    """The text as `exact` compares it.

    What is overlooked: Unicode form, white space around and between words, kinds of quotes, commas that mark thousands;
    case and punctuation unless they are kept. Punctuation that makes a number another one stays: the point of "12.5",
    the minus of "-3", the colon of "12:30". A text that is nothing but punctuation keeps it.

    lm-eval's `exact_match` with `ignore_case` and `ignore_punctuation` deletes all of `string.punctuation`, so that
    "1.5" equals "15" and "-3" equals "3" there.
    """
    composed = unicodedata.normalize("NFC", text).translate(QUOTES)
    words = " ".join(composed.split())
    if not keeps_case:
        words = unicodedata.normalize("NFC", words.lower())
    without_commas = THOUSANDS.sub(lambda found: found.group().replace(",", ""), words)
    if keeps_punctuation:
        return without_commas
    kept = [one for at, one in enumerate(without_commas) if not _is_idle(without_commas, at)]
    return " ".join("".join(kept).split()) or without_commas


def exact(*, keeps_case: bool = False, keeps_punctuation: bool = False) -> Checker:
    """Whether the whole answer is a right text, as `normalised` compares them. Verdict: `exact`."""

    def check(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
        said, *accepted = [
            normalised(text, keeps_case=keeps_case, keeps_punctuation=keeps_punctuation) for text in (answer, *right)
        ]
        return Checked({"exact": bool(said) and said in accepted}, answer.strip() or None)

    return check


def contains(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
    """Whether a right text stands in the answer as words of its own. Verdict: `contains`.

    Overlooked is what `answers.py` overlooks: case, white space, Unicode form, quotes, Markdown. "12" is not in "12.5",
    "12,000", "-12", "12-13" or "112"; "art" is not in "Bart". A text right after "not", "n't", "không phải" and their
    like is not counted: "It is not Paris" does not contain Paris, while "not only Paris" does. Wider negations and
    quotations ("Some say Paris") are beyond this rule.
    """
    found = first_held(answer, right)
    return Checked({"contains": found is not None}, found or answer.strip() or None)


def alias(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
    """Whether the answer is one of the names of the right thing. Verdict: `exact`, `contains`.

    `exact` normalises as TriviaQA's official script (`triviaqa_evaluation.py`, Joshi et al. 2017): lower case, `_` and
    every sign of punctuation become a space, and "a", "an", "the" and repeated spaces go. `contains` is the check of
    that name.
    """
    said = trivia_words(answer)
    is_exact = bool(said) and said in [trivia_words(text) for text in right]
    return Checked({"exact": is_exact, "contains": first_held(answer, right) is not None}, answer.strip() or None)


def trivia_words(text: str) -> str:
    """The text as TriviaQA's script compares it, after NFC."""
    words = unicodedata.normalize("NFC", text).lower().translate(TRIVIA_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", words).split())


def f1(language: str | None = None) -> Checker:
    """How many words answer and right text share. Verdict: `f1` (0 to 1), `exact`; each the best over the right texts.

    With words counted as often as they occur, precision = shared / words of the answer, recall = shared / words of the
    right text, and F1 = 2 precision recall / (precision + recall). `exact` is equality of the normalised texts.

    Args:
        language: None: as SQuAD 2.0's official script, which XQuAD is scored by, too (and by lm-eval): lower case,
            ASCII punctuation deleted, "a", "an", "the" deleted. A language: as MLQA's (Lewis et al. 2020): every
            Unicode punctuation deleted, and that language's articles (Vietnamese: của, là, cái, chiếc, những).

    Where no text is right, or nothing is left of one of them, f1 is 1 if nothing is left of both, else 0 (SQuAD 2.0).
    """
    articles = ARTICLES["en" if language is None else language]

    def words(text: str) -> list[str]:
        kept = "".join(one for one in unicodedata.normalize("NFC", text.lower()) if not punctuation(one))
        return (articles.sub(" ", kept) if articles else kept).split()

    def punctuation(one: str) -> bool:
        return one in string.punctuation or (language is not None and unicodedata.category(one).startswith("P"))

    def check(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
        said = words(answer)
        accepted = [words(text) for text in right] or [[]]
        best = max(_shared(said, text) for text in accepted)
        return Checked({"f1": best, "exact": said in accepted}, answer.strip() or None)

    return check


def first_held(answer: str, texts: Sequence[str]) -> str | None:
    """The first of the texts that stands in the answer as `contains` reads it."""
    said = plain(answer)
    return next((text for text in texts if (words := plain(text)) and _holds(said, words)), None)


def _shared(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))


def _holds(text: str, words: str) -> bool:
    """Whether `words` stand in `text`, both plain, somewhere as words of their own that are not denied."""
    return any(
        _word_starts(text, found.start()) and word_ends(text, found.end()) and not NOT.search(text[: found.start()])
        for found in re.finditer(re.escape(words), text)
    )


def _word_starts(text: str, start: int) -> bool:
    """Whether a word starts at `start` of a plain text, and no sign or point before it makes it another number."""
    before, behind = text[max(start - 1, 0) : start], text[max(start - 2, 0) : max(start - 1, 0)]
    if in_word(before) or (before in ("-", "'") and in_word(behind)):
        return False
    if not text[start].isdigit():
        return True
    is_part = before in (".", ",", "/", ":") and behind.isdigit()
    is_decimal = before == "." and (not behind or behind.isspace())
    return not (is_part or is_decimal or before in ("-", "−"))


def _is_idle(text: str, at: int) -> bool:
    """Whether the character is punctuation, and no part of a number."""
    one, before, after = text[at], text[max(at - 1, 0) : at], text[at + 1 : at + 3]
    if not (one in string.punctuation or unicodedata.category(one).startswith("P")):
        return False
    if before.isdigit() and after[:1].isdigit() and one in ".,:/-–":
        return False
    is_sign_or_point = one in "-−." and not in_word(before) and re.match(r"\d|\.\d", after) is not None
    return not is_sign_or_point

"""How many words, sentences and words in capital letters has a text? As the field counts for IFEval, without downloads.

Words are runs of letters with their accents and vowel signs, of digits and of `_`, as nltk counts since version 3.10;
before, every vowel sign of Hindi ended a word. Sentences are Punkt's (Kiss and Strunk 2006, "Unsupervised multilingual
sentence boundary detection"), with its English model of abbreviations. Words in capital letters are tokens of the Penn
Treebank's kind, sentence by sentence, so that "DON'T" is two ("DO", "N'T") and "A-B" is one.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

SEPARATE = " \\g<0> "
TREEBANK: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[«“‘„]|`+"), SEPARATE),
    (re.compile(r"([^.])(\.)([\]\)}>\"'»”’ ]*)\s*$"), r"\1 \2 \3 "),
    (re.compile(r"([:,])(\D)"), r" \1 \2"),
    (re.compile(r"[:,]$"), SEPARATE),
    (re.compile(r"\.{2,}"), SEPARATE),
    (re.compile(r"[;@#$%&]"), SEPARATE),
    (re.compile(r"[‒–—―]"), SEPARATE),
    (re.compile(r"[?!]"), SEPARATE),
    (re.compile(r"([^'])' "), r"\1 ' "),
    (re.compile(r"\*"), SEPARATE),
    (re.compile(r"[\]\[(){}<>]"), SEPARATE),
    (re.compile(r"--"), SEPARATE),
    (re.compile(r"^|$"), " "),
    (re.compile(r"[»”’]"), SEPARATE),
    (re.compile(r"''|\""), SEPARATE),
    (re.compile(r"\s+"), " "),
    (re.compile(r"([^' ])('[sS]|'[mM]|'[dD]|') "), r"\1 \2 "),
    (re.compile(r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) "), r"\1 \2 "),
    (re.compile(r"(?i)\b(can)(not)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(d)('ye)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(gim)(me)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(gon)(na)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(got)(ta)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(lem)(me)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(more)('n)\b"), r" \1 \2 "),
    (re.compile(r"(?i)\b(wan)(na)(?=\s)"), r" \1 \2 "),
)
"""what becomes of a sentence, in this order, before it is split at white space; a quotation mark is never a capital, so
those that NLTK's tokenizer rewrites are only set apart"""


def num_words_in(text: str) -> int:
    """Runs of letters, digits and `_`: "it's" has two."""
    import regex

    return len(regex.findall(r"\w+", text))


def num_sentences_in(text: str) -> int:
    """Sentences as Punkt parts them."""
    return len(sentences_of(text))


def num_capital_words(text: str) -> int:
    """Tokens with letters that are all capital: "I", "U.S.", "GPT-4", "A"."""
    return sum(token.isupper() for sentence in sentences_of(text) for token in tokens_of(sentence))


def tokens_of(sentence: str) -> list[str]:
    """What the Penn Treebank takes as words, and punctuation."""
    for pattern, replacement in TREEBANK:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def sentences_of(text: str) -> list[str]:
    """Its sentences as Punkt parts them; an end of a line alone ends none."""
    return [str(sentence) for sentence in _splitter().tokenize(text)]


@cache
def _splitter() -> Any:
    from punkt import PunktSentenceTokenizer, load_model

    return PunktSentenceTokenizer(load_model("english"))

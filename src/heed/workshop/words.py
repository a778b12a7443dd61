"""Words of many texts at once, as numbers, and runs of n of them, in any script: what texts are compared by.

Accents are composed and case is folded. A word is a run of letters, digits and marks; in scripts that put no blanks
between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is one. Any other sign that is seen
(punctuation, symbols) is a word of its own, or is passed over. Blanks, and characters without width, are never one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

GONE, BLANK, SIGN, LETTER, ALONE = range(5)
"""what a character is: nothing, a blank, a sign, part of a word, a word by itself"""
SCRIPTS_WITHOUT_BLANKS = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3005, 0x3008),
    (0x3040, 0x3130),  # kana, bopomofo
    (0x31A0, 0x3200),
    (0x3400, 0x4DC0),  # ideographs
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
    (0xFF66, 0xFF9E),
    (0x20000, 0x40000),
)
VARIATION_SELECTORS = (0xFE00, 0xFE10)
KNOWN = 0x40000
"""code points that are looked up; those above are private or have no width"""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of several texts, one after the other. W words."""

    hash: np.ndarray
    """(W,) uint64; equal words have equal ones, and two others have with a chance of 2^-64"""
    text: np.ndarray
    """(W,) int64; which text it stands in"""
    start: np.ndarray
    """(W,) int64; where it begins, in characters of all texts as they were `folded`, one after the other"""
    stop: np.ndarray
    """(W,) int64; where it ends"""
    is_alone: np.ndarray
    """(W,) bool; a character of a script without blanks"""


def folded(text: str) -> str:
    """The text with accents composed and case folded; canonically equivalent texts become the same."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def words_of(texts: Sequence[str], *, with_signs: bool) -> Words:
    """The words of texts that are `folded`.

    Args:
        with_signs: whether punctuation and symbols are words, too: `2 + 2` is another thing than `2 - 2`.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    text = np.repeat(np.arange(len(texts)), np.fromiter(map(len, texts), np.int64, len(texts)))
    kind = _kinds()[np.minimum(codes, KNOWN)]
    place = np.arange(len(codes))
    if (kind == GONE).any():
        seen = np.flatnonzero(kind != GONE)
        codes, text, kind, place = codes[seen], text[seen], kind[seen], place[seen]
    goes_on = np.zeros(len(codes), bool)
    goes_on[1:] = (kind[1:] == LETTER) & (kind[:-1] == LETTER) & (text[1:] == text[:-1])
    said = np.flatnonzero(kind >= (SIGN if with_signs else LETTER))
    first = np.flatnonzero(~goes_on[said])
    if not len(first):
        nothing = np.zeros(0, np.int64)
        return Words(np.zeros(0, np.uint64), nothing, nothing, nothing, np.zeros(0, bool))
    lengths = np.diff(first, append=len(said))
    within = np.arange(len(said)) - np.repeat(first, lengths)
    # A sum of random numbers of letters, each times an odd one of its place: letters in another order differ.
    letters = _numbers()[codes[said]] * (mixed(np.arange(lengths.max())) | np.uint64(1))[within]
    begins, ends = said[first], said[first + lengths - 1]
    hashes = mixed(np.add.reduceat(letters, first))
    return Words(hashes, text[begins], place[begins], place[ends] + 1, kind[begins] == ALONE)


def runs_of(words: Words, n: int, *, short: bool) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all n words in a row within one text, (R,) uint64; the word each begins with, (R,) int64).

    Args:
        short: whether a text of fewer than n words is a run itself, of all its words.
    """
    num_words = len(words.hash)
    fits = np.zeros(num_words, bool)
    if num_words >= n:
        fits[: num_words - n + 1] = words.text[: num_words - n + 1] == words.text[n - 1 :]
    if short:
        fits[:1] = True
        fits[1:] |= words.text[1:] != words.text[:-1]
    first = np.flatnonzero(fits)
    hashes = words.hash[first]
    for step in range(1, n):
        there = np.minimum(first + step, num_words - 1)
        is_within = (first + step < num_words) & (words.text[there] == words.text[first])
        hashes = mixed(hashes) + np.where(is_within, words.hash[there], np.uint64(0))
    return mixed(hashes), first


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers scrambled one to one, so that any of their bits hangs on all (the finaliser of splitmix64)."""
    x = numbers.astype(np.uint64) + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _numbers() -> np.ndarray:
    """(KNOWN + 1,) a random number for every character."""
    return mixed(np.arange(KNOWN + 1) << 20)


@cache
def _kinds() -> np.ndarray:
    """(KNOWN + 1,) what every character is."""
    by_category = {"L": LETTER, "N": LETTER, "M": LETTER, "Z": BLANK, "P": SIGN, "S": SIGN}
    by_name = {"Cc": BLANK, "Cf": GONE}
    kinds = np.full(KNOWN + 1, SIGN, np.uint8)
    for code in range(KNOWN):
        category = unicodedata.category(chr(code))
        kinds[code] = by_name.get(category, by_category.get(category[0], SIGN))
    for low, high in SCRIPTS_WITHOUT_BLANKS:
        part = kinds[low:high]
        part[part == LETTER] = ALONE
    kinds[slice(*VARIATION_SELECTORS)] = GONE
    kinds[KNOWN] = GONE
    return kinds

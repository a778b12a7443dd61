"""UTF-8 that was read as something else, put right where that is certain.

Text that was written as UTF-8 and read by an older code page is what Vietnamese data in circulation suffers from most:
"Việt" becomes "Viá»‡t". Every character beyond ASCII was then two to four bytes, which UTF-8 arranges so strictly that
bytes of a text that really was in the older code page hardly ever are such an arrangement. So the way back is tried,
and what comes out says whether it was right:

    characters -> bytes by the code page -> characters by UTF-8, strictly

A word is put right whole or not at all: a page may be a mixture of damaged and clean parts, and a word is not. Which
code page it was is settled for the whole text, by the words that it puts right. What was damaged twice is put right
twice.

Differs from ftfy 6.3.1 (Speer 2019), whose judgement is of single spots and tuned to western languages: of Vietnamese
read as cp850, cp874, cp1251 or cp1258 it restores a third or less. What is innocent, as quotation marks and entities,
is none of our business here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

PAGES = (
    "cp1252",
    "latin-1",
    "cp1258",
    "cp1250",
    "cp1251",
    "cp1254",
    "cp874",
    "cp437",
    "cp850",
    "mac-roman",
)
"""code pages that text is read by mistake as, the most frequent first"""
MOST_TIMES = 3
"""that a text was damaged in turn"""

OF_VIETNAMESE = frozenset(
    unicodedata.normalize("NFC", letter + tone)
    for letter in "aăâeêioôơuưyAĂÂEÊIOÔƠUƯY"
    for tone in ("", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323")
) | frozenset("đĐ\u0300\u0301\u0302\u0303\u0306\u0309\u031b\u0323")
SIGNS = re.compile(r"[\u00a0-\u00bf\u00d7\u00f7\u2010-\u203a\u20ab\u20ac\u2122\u2212]")
LATIN = re.compile(r"[\u00c0-\u017f\u0300-\u036f\u1e00-\u1eff]")
LIKELIHOOD = ((SIGNS, 0.9), (LATIN, 0.8))
OTHERWISE = 0.5
"""how likely a character is to be what a damaged text was made of; 1 for letters of Vietnamese. Only which of two code
pages is believed depends on it, where both put the same words right"""


@dataclass(frozen=True, slots=True)
class Mended:
    """A text put right."""

    text: str
    pages: tuple[str, ...]
    """the code pages that it was read as by mistake, the last mistake first"""
    num_words: int
    """that were put right, of all times together"""


@dataclass(frozen=True, slots=True)
class Page:
    """A code page, both ways."""

    name: str
    byte_of: Mapping[str, int]
    """of its characters beyond ASCII; bytes that it does not define are the control characters of their number"""
    undefined: frozenset[int]
    """bytes that strict readers drop or replace"""

    def bytes_of(self, word: str) -> bytes | None:
        """The bytes that this page reads as the word; None where it has not all its characters."""
        found = bytearray()
        for character in word:
            if character < "\x80":
                found.append(ord(character))
                continue
            byte = self.byte_of.get(character)
            if byte is None:
                return None
            found.append(byte)
        return bytes(found)


@lru_cache
def page_named(name: str) -> Page:
    """The code page of that name, as Python knows it."""
    byte_of, undefined = {}, set()
    for byte in range(128, 256):
        try:
            character = bytes([byte]).decode(name)
        except UnicodeDecodeError:
            character = chr(byte)
            undefined.add(byte)
        byte_of[character] = byte
        composed = unicodedata.normalize("NFC", character)
        byte_of.setdefault(composed, byte)
    return Page(name, byte_of, frozenset(undefined))


SUSPECT = re.compile(r"[^\x00-\x7f]{2}")
"""two characters beyond ASCII side by side, without which nothing is damaged"""
WORDS = re.compile(r"[ \t\r\n\f\v]+|[^ \t\r\n\f\v]+")
"""words and what is between them; no-break spaces are inside, as they are bytes of many letters"""


def mended(text: str) -> Mended | None:
    """The text as it was before it was read by a wrong code page; None where nothing certain can be done.

    Where parts were damaged more often than others, each part is put right as often as it needs.
    """
    pages: list[str] = []
    count = 0
    for _ in range(MOST_TIMES):
        once = _once(text, bool(pages))
        if once is None:
            break
        page, text, words = once
        pages.append(page)
        count += words
    return Mended(text, tuple(pages), count) if pages else None


def _once(text: str, was_damaged: bool) -> tuple[str, str, int] | None:
    """(code page, text, words put right) of the page that puts most right; None where none does."""
    if SUSPECT.search(text) is None:
        return None
    words = WORDS.findall(text)
    suspects = {word for word in words if SUSPECT.search(word) is not None}
    best: tuple[tuple[float, int], str, dict[str, str]] | None = None
    for place, name in enumerate(PAGES):
        right = {word: found for word in suspects if (found := put_right(word, page_named(name))) is not None}
        worth = sum(map(explained, right.values()))
        if right and (best is None or (worth, -place) > best[0]):
            best = (worth, -place), name, right
    if best is None or not (was_damaged or is_certain(best[2])):
        return None
    _, name, right = best
    return name, "".join(right.get(word, word) for word in words), len(right)


def explained(text: str) -> float:
    """How many bytes beyond ASCII a word accounts for, each by how likely its character is."""
    return sum(likelihood(character) * len(character.encode()) for character in text if character >= "\x80")


def likelihood(character: str) -> float:
    """How likely a character is to be what a damaged text was made of; see `LIKELIHOOD`."""
    if character in OF_VIETNAMESE:
        return 1.0
    return next((share for kind, share in LIKELIHOOD if kind.match(character)), OTHERWISE)


def put_right(word: str, page: Page, times: int = MOST_TIMES) -> str | None:
    """The word read as UTF-8, if its bytes by this page are UTF-8 to the last and say something that people write.

    What says nothing yet may have been damaged before, too.
    """
    found = page.bytes_of(word)
    if found is None:
        return None
    try:
        text = found.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if is_writing(text):
        return text
    if times == 1:
        return None
    before = (put_right(text, page_named(name), times - 1) for name in PAGES)
    return max((each for each in before if each is not None), key=explained, default=None)


def is_writing(text: str) -> bool:
    """Whether people write this: no control characters, nothing unassigned, letters of one script in a word.

    Chinese and Japanese have no spaces, and Greek letters are signs of mathematics: they stand beside anything.
    """
    beyond = [character for character in text if character >= "\x80"]
    if any(unicodedata.category(character) in ("Cc", "Cn", "Co") for character in beyond):
        return False
    scripts = {script_of(character) for character in text if unicodedata.category(character)[0] in "LM"} - ANYWHERE
    return len(scripts - BESIDE_ANYTHING) <= 1


ANYWHERE = frozenset({"COMBINING", "VARIATION", "MODIFIER", "FEMININE", "MASCULINE", "MICRO"})
BESIDE_ANYTHING = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "GREEK"})


def script_of(character: str) -> str:
    """The first word of its name, which is its script for letters and marks."""
    return unicodedata.name(character, "UNNAMED").split(" ")[0]


def is_certain(right: Mapping[str, str]) -> bool:
    """Whether words put right are no accident: one of them cannot be, or they are many."""
    return len(right) >= MANY or any(map(is_sure, right.values()))


MANY = 5
BESIDE_A_LETTER = re.compile(r"[A-Za-z][^\x00-\x7f]|[^\x00-\x7f][A-Za-z]")


def is_sure(text: str) -> bool:
    """Whether a word put right is no accident by itself.

    By chance two signs are one character of UTF-8 where they stand side by side, as in «CAFÉ», or because somebody
    writes about what we do here. Of three bytes, twice, or inside a word of ASCII letters they are not.
    """
    beyond = [character for character in text if character >= "\x80"]
    return len(beyond) > 1 or beyond[0] >= "\u0800" or BESIDE_A_LETTER.search(text) is not None

"""Letters of which a byte was lost when UTF-8 was read by a code page, guessed.

Some bytes mean nothing in a code page (five of cp1252's, 29 of cp874's), and readers drop them, or write U+FFFD; and
the byte A0, a no-break space, becomes a space wherever white space is tidied. Then a letter is not to be had back for
certain. It is one of few, and the sentence says which is likely:

    argmax over the letters' possible bytes of log P(syllables of the sentence),    a beam over its words

What comes out is a guess, and is marked as one wherever it is applied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from heed.workshop.mojibake import OF_VIETNAMESE, PAGES, WORDS, Page, is_writing, likelihood, page_named, put_right
from heed.workshop.syllables import Syllables, syllables_of

BEAM = 8
MOST_READINGS = 400
"""of one word"""
MOST_TIMES = 2
LOST = "\ufffd"
NO_BREAK_SPACE = 0xA0


@dataclass(frozen=True, slots=True)
class Guessed:
    """A text with letters guessed."""

    text: str
    page: str
    """the code page that it was read as by mistake"""
    num_words: int
    """that were guessed"""


def guessed(text: str, syllables: Syllables) -> Guessed | None:
    """The text with every damaged word put right by guessing; None where there is none that can be.

    Words that are put right for certain are put right so.

    Args:
        syllables: learnt from text that is whole.
    """
    best: tuple[float, Guessed] | None = None
    for read in pages_that_explain(text):
        score, found = likeliest(read, syllables)
        if best is None or score > best[0]:
            best = score, found
    return best[1] if best else None


@dataclass(frozen=True, slots=True)
class Read:
    """A text by one code page: what each of its pieces may have been."""

    page: str
    readings: tuple[tuple[str, ...], ...]
    num_explained: int
    """damaged pieces that the page explains"""


def pages_that_explain(text: str) -> list[Read]:
    """The text by every code page that explains as many of its damaged words as any does, and one at least."""
    if DAMAGED.search(text) is None:
        return []
    found: list[Read] = []
    words = WORDS.findall(text)
    damaged = [word for word in words if DAMAGED.search(word)]
    for name in PAGES:
        page = page_named(name)
        could = sum(all(c < "\x80" or c == LOST or c in page.byte_of for c in word) for word in damaged)
        if found and could < found[0].num_explained:
            continue
        pieces = joined(words, page)
        readings = [
            (tuple(readings_of(piece, name, MOST_TIMES)) if DAMAGED.search(piece) else ()) or (piece,)
            for piece in pieces
        ]
        explained = sum(options != (piece,) for options, piece in zip(readings, pieces, strict=True))
        if not explained or (found and explained < found[0].num_explained):
            continue
        if found and explained > found[0].num_explained:
            found = []
        found.append(Read(name, tuple(readings), explained))
    return found


def likeliest(read: Read, syllables: Syllables) -> tuple[float, Guessed]:
    """log P of the likeliest of what a text may have been, and the text; a beam over its pieces."""
    beam: list[tuple[float, str, list[str]]] = [(0.0, "", [])]
    begins = True
    for options in read.readings:
        grown = []
        for reading in options:
            words = syllables_of(reading)
            of_itself = sum(UNLIKELY for c in reading if c >= "\x80" and not _is_usual(c))
            of_itself += case_cost(reading, begins) if len(options) > 1 else 0.0
            for score, before, said in beam:
                last = words[-1] if words else before
                grown.append((score + syllables.score(words, before) + of_itself, last, [*said, reading]))
        grown.sort(key=lambda each: -each[0])
        beam = grown[:BEAM]
        if not options[0].isspace():
            begins = beam[0][2][-1].rstrip("\"'”’)»").endswith((".", "!", "?", ":", "“", "-"))
        elif "\n" in options[0]:
            begins = True
    score, _, said = beam[0]
    return score, Guessed("".join(said), read.page, read.num_explained)


DAMAGED = re.compile(r"[^\x00-\x7f]")
UNLIKELY = -8.0
"""log P of a character that Vietnamese does not have, beside one that it has"""
UNUSUAL_CASE = -3.0
"""log P of a capital inside a sentence, or of a small letter where one begins"""


def case_cost(word: str, begins: bool) -> float:
    """log P of the case of a word's letters: capitals come first, and where a sentence begins."""
    letters = [c for c in word if c.isalpha()]
    if not letters or word.isupper():
        return 0.0 if begins else UNUSUAL_CASE * bool(letters)
    inside = sum(c.isupper() for c in letters[1:])
    return UNUSUAL_CASE * ((letters[0].isupper() != begins) + inside)


def _is_usual(character: str) -> bool:
    return character in OF_VIETNAMESE or likelihood(character) >= 0.9


def joined(pieces: list[str], page: Page) -> list[str]:
    """Words and what is between them, a word and the space that its last byte became being one piece."""
    found: list[str] = []
    for piece in pieces:
        if found and piece.startswith(" ") and _wants_more(found[-1], page):
            found[-1] += " "
            piece = piece[1:]
        if piece:
            found.append(piece)
    return found


def _wants_more(word: str, page: Page) -> bool:
    """Whether a word ends in the middle of a letter that A0 could complete: "Ã", "áº"."""
    data = page.bytes_of(word)
    return data is not None and re.search(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?)$", data) is not None


@lru_cache(maxsize=50_000)
def readings_of(word: str, name: str, times: int) -> tuple[str, ...]:
    """What a damaged word may have been, in no order; nothing where the page does not explain it."""
    page = page_named(name)
    certain = put_right(word, page, 1)
    found: dict[str, None] = {}
    for reading in [certain] if certain is not None else decodings(word, page):
        if reading == word:
            continue
        if reading == certain or (LOST not in reading and is_writing(reading) and _is_of_the_language(reading)):
            found[reading] = None
        if times > 1 and DAMAGED.search(reading):
            found.update(dict.fromkeys(readings_of(reading, name, times - 1)))
        if len(found) >= MOST_READINGS:
            break
    return tuple(found)


def _is_of_the_language(text: str) -> bool:
    return text in (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)) and all(
        _is_usual(character) for character in text if character >= "\x80"
    )


def decodings(word: str, page: Page) -> list[str]:
    """Every way to read a word's bytes as UTF-8 if any byte that the page does not define may be missing."""
    units: list[int | None] = []
    for character in word:
        if character == LOST:
            units.append(None)
        elif character < "\x80":
            units.append(ord(character))
        elif (byte := page.byte_of.get(character)) is not None:
            units.append(byte)
        else:
            return []
    return _read(tuple(units), page.name)


@lru_cache(maxsize=20_000)
def _read(units: tuple[int | None, ...], name: str) -> list[str]:
    page = page_named(name)
    beginnings: list[tuple[str, int]] = [("", 0)]
    done: list[str] = []
    while beginnings:
        text, at = beginnings.pop()
        if at == len(units):
            done.append(text)
            if len(done) >= MOST_READINGS:
                break
            continue
        beginnings += [(text + character, to) for character, to in _characters(units, at, page)]
    return done


def _characters(units: tuple[int | None, ...], at: int, page: Page) -> Iterator[tuple[str, int]]:
    """(character, where it ends) of every character that may begin here."""
    lead = units[at]
    if lead is None:
        return
    if lead < 0x80:
        yield chr(lead), at + 1
        return
    length = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
    if not length:
        return
    lost = sorted(page.undefined)
    ways: list[tuple[bytes, int]] = [(bytes([lead]), at + 1)]
    for _ in range(length - 1):
        longer = []
        for data, to in ways:
            unit = units[to] if to < len(units) else -1
            if unit is not None and 0x80 <= unit <= 0xBF:
                longer.append((data + bytes([unit]), to + 1))
                # and it may be one of a later letter, with this one's lost: only a letter's lead tells, so not here
            elif unit is None:
                longer += [(data + bytes([byte]), to + 1) for byte in lost if byte < 0xC0]
            else:
                longer += [(data + bytes([byte]), to) for byte in lost if byte < 0xC0]
                if unit == 0x20 and to == len(units) - 1:
                    longer.append((data + bytes([NO_BREAK_SPACE]), to + 1))
        if length == 3 and len(data) == 1:
            # E1 .. : the first of two may be lost and the second there
            unit = units[at + 1] if at + 1 < len(units) else -1
            if unit is not None and 0x80 <= unit <= 0xBF:
                longer += [(bytes([lead, byte]), at + 1) for byte in lost if byte < 0xC0]
        ways = longer
    for data, to in ways:
        try:
            character = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        yield character, to


def shows_lost_bytes(text: str) -> re.Match[str] | None:
    """The first sign that a byte of a letter was lost; None where nothing shows it.

    Either a reader left U+FFFD, or there are the first bytes of a Vietnamese letter (E1 BA, E1 BB; C6, C4 before a
    letter of its own), as a code page reads them, and not the last one.
    """
    return SIGNS_OF_LOSS.search(text)


def _signs_of_loss() -> re.Pattern[str]:
    """U+FFFD, or E1 BA or E1 BB by any of the code pages that is not followed by a byte that could go on from it."""
    signs = {LOST}
    for name in PAGES:
        page = page_named(name)
        character_of = {byte: character for character, byte in reversed(list(page.byte_of.items()))}
        goes_on = "".join(re.escape(character_of[byte]) for byte in range(0x80, 0xC0))
        for second in (0xBA, 0xBB):
            beginning = re.escape(character_of[0xE1] + character_of[second])
            signs.add(f"{beginning}(?![{goes_on}])")
    return re.compile("|".join(sorted(signs)))


SIGNS_OF_LOSS = _signs_of_loss()

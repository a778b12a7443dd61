"""What a single text shows to be wrong: its encoding, its characters, and what stands in it."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

from heed.workshop.lost_bytes import shows_lost_bytes
from heed.workshop.mojibake import mended

AROUND = 30
"""characters shown at each side of a match"""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
"""all but tab, line feed, form feed and carriage return, which text has"""
INVISIBLE = re.compile(
    r"[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?<=[A-Za-z\u00c0-\u1eff])[\u200c\u200d](?=[A-Za-z\u00c0-\u1eff])"
)
"""soft hyphens, zero-width spaces, joiners between Latin letters, byte order marks, changes of writing direction;
joiners elsewhere belong to the writing of Persian, of India, and to emoji"""
ENTITY = re.compile(r"&(#\d{2,6}|#[xX][0-9a-fA-F]{2,5}|[A-Za-z]{2,8}\d?);")
MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,200}>|```|&&|&\w+\s*=")
SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_ ]{2,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask)>|^<s>|</s>$|"
    r"<[|｜](?:begin|end)▁of▁sentence[|｜]>"
)
PLACEHOLDER = re.compile(
    r"<no ?(?:in|out)put>|\[(?:your|insert|tên|họ tên|điền)\b[^\[\]\n]{0,30}\]|\blorem ipsum\b|\bTODO:|\bxxx@|"
    r"\[(?:name|date|address|company(?: name)?)\]",
    re.IGNORECASE,
)
MAY_BE_PERSONAL = re.compile(r"\d{3}|@")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w-])")
NOBODYS = re.compile(r"@(?:[\w-]+\.)*(?:example|test|invalid|domain|email|company|yourdomain)\.", re.IGNORECASE)
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,4}|"
    r"0[35789]\d(?:[ .]?\d{3,4}){2})(?![\w-])"
)
CARD = re.compile(r"(?<![\w.-])(?:[3-6]\d{3})(?:[ -]?\d{4}){2}[ -]?\d{3,4}(?![\w-])")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
IBAN_LENGTHS = {
    "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24, "FI": 18,
    "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "LT": 20, "LU": 20,
    "LV": 21, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24,
    "TR": 26,
}  # fmt: skip
"""of the countries whose accounts are met most, by the registry of IBAN formats"""


def faults_in(text: str) -> Iterator[tuple[str, str]]:
    """(kind, what shows it) of everything that one text shows to be wrong, each kind once."""
    yield from errors_in(text)
    if not text.isascii():
        yield from _faults_of_form(text)
    if (special := SPECIAL.search(text)) is not None:
        yield "special-token-text", excerpt(text, special)
    if "&" in text and (entity := _entity(text)) is not None:
        yield "entities", excerpt(text, entity)
    if (placeholder := PLACEHOLDER.search(text)) is not None:
        yield "placeholder", excerpt(text, placeholder)
    if MAY_BE_PERSONAL.search(text) is not None:
        yield from personal_data(text)


def errors_in(text: str) -> Iterator[tuple[str, str]]:
    """(kind, what shows it) of what cannot be right in any text."""
    if not text.isascii():
        yield from _faults_of_encoding(text)
    if (control := CONTROL.search(text)) is not None:
        yield "control-characters", f"U+{ord(control[0]):04X} in {excerpt(text, control)}"


def _faults_of_encoding(text: str) -> Iterator[tuple[str, str]]:
    right = mended(text)
    if right is not None:
        yield (
            "broken-encoding" if len(right.pages) == 1 else "doubled-encoding",
            f"{first_difference(text, right.text)}, by {', then '.join(right.pages)}",
        )
    if (lost := shows_lost_bytes(right.text if right else text)) is not None:
        yield "lost-bytes", excerpt(right.text if right else text, lost)


def _faults_of_form(text: str) -> Iterator[tuple[str, str]]:
    composed = unicodedata.normalize("NFC", text)
    if composed != text:
        yield "not-composed", first_difference(text, composed)
    if (invisible := INVISIBLE.search(text)) is not None:
        yield "zero-width", f"U+{ord(invisible[0]):04X} in {excerpt(text, invisible)}"


def personal_data(text: str) -> Iterator[tuple[str, str]]:
    """(kind, what shows it) of what belongs to a person: only numbers whose checksum is right are believed."""
    if (email := next((m for m in EMAIL.finditer(text) if not NOBODYS.search(m[0])), None)) is not None:
        yield "email", excerpt(text, email)
    if (card := next((m for m in CARD.finditer(text) if is_card(m[0])), None)) is not None:
        yield "card-number", excerpt(text, card)
    if (iban := next((m for m in IBAN.finditer(text) if is_iban(m[0])), None)) is not None:
        yield "bank-account", excerpt(text, iban)
    if (phone := PHONE.search(text)) is not None:
        yield "phone", excerpt(text, phone)


def is_card(text: str) -> bool:
    """Whether a number can be a payment card's: its length, and its last digit by Luhn's rule (ISO/IEC 7812-1)."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return len(digits) in (15, 16) and sum(doubled) % 10 == 0 and len(set(digits)) > 2


def is_iban(text: str) -> bool:
    """Whether a number can be a bank account's: the country's length, and 1 modulo 97 (ISO 13616)."""
    plain = text.replace(" ", "")
    if len(plain) != IBAN_LENGTHS.get(plain[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _entity(text: str) -> re.Match[str] | None:
    """The first HTML entity in a text that is no HTML and no code, where entities belong."""
    if MARKUP.search(text):
        return None
    return next((m for m in ENTITY.finditer(text) if html.unescape(m[0]) != m[0]), None)


def excerpt(text: str, match: re.Match[str]) -> str:
    """What a pattern matched, with a little around it, on one line, invisible characters made visible."""
    start, stop = max(match.start() - AROUND, 0), min(match.end() + AROUND, len(text))
    shown = text[start:stop] if match.end() - match.start() < 200 else text[match.start() : match.start() + 200]
    return f"{'…' * (start > 0)}{_visible(shown)}{'…' * (stop < len(text))}"


def first_difference(before: str, after: str) -> str:
    """The first place where two texts part, as they are there: `Viá»‡t -> Việt`."""
    place = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(before.rfind(" ", 0, place) + 1, place - AROUND)
    ends = [text.find(" ", place + 1) for text in (before, after)]
    shown = (
        text[start : min(end if end > 0 else len(text), place + AROUND)]
        for text, end in zip((before, after), ends, strict=True)
    )
    return " -> ".join(_visible(each) for each in shown)


def _visible(text: str) -> str:
    """On one line, with characters that no one sees written as their numbers."""
    return "".join(
        " " if c in "\n\r\t" else f"<U+{ord(c):04X}>" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c
        for c in text
    )

"""Rewards by rule, without any code of the user's: a pattern, words to be used, a result to be found."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from heed.errors import UserError
from heed.settings import nearest

NUMBER = re.compile(r"(?<![\w.,])[-−+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)")
"""12, -3, 1,200 and 0.5; neither 12th nor x2 nor 1.2.3"""
RESULT_MARK = "####"
"""stands before the result in data sets that keep the way to it, such as GSM8K"""
AT_THE_END = ".,;:!?…。！？"
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "IDEOGRAPHIC")
"""scripts that leave no space between words, so that a word of theirs may stand anywhere"""
LONGEST_QUOTE = 80

Record = Mapping[str, Any]


def open_pattern(pattern: str, whose: str, where: str, prefix: str) -> re.Pattern[str]:
    """A regular expression, in composed Unicode (NFC) as the answers that it is looked for in.

    Args:
        whose: what it belongs to: `reward`, `checker`.
        where: how the user gave it.
        prefix: what is written before the pattern, quotation mark included.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(composed(pattern))
    except re.error as error:
        at = "" if error.pos is None else f", at character {error.pos + 1}"
        raise UserError(
            f"the {whose}'s regular expression is not one",
            where=where,
            found=f"{error.msg}{at} of {pattern!r}",
            expected="a regular expression as Python reads it",
            fix=f"a backslash before a character takes it as it is: {prefix}{re.escape(pattern)}'",
        ) from None


def matches(pattern: re.Pattern[str], answer: str, record: Record) -> float:
    """1 where the pattern is found anywhere in the answer, else 0."""
    return float(pattern.search(composed(answer)) is not None)


def contains(field: str, name: str, answer: str, record: Record) -> float:
    """The share of the field's words that the answer has, from 0 to 1.

    The field is a list of words, or text: words with commas between them, or without any comma with white space. Words
    may be several ("ice cream"). Each counts once, however often it is listed. It must stand in the answer as a word
    of its own; case, Unicode form and the kind of white space do not matter.

    Raises:
        UserError: the record has no such field, or the field lists no words.
    """
    value = _field(record, field, name)
    listed = (value.split(",") if "," in value else value.split()) if isinstance(value, str) else value
    is_list = isinstance(listed, list | tuple) and all(isinstance(each, str | int | float) for each in listed)
    words = {folded(str(each)) for each in listed} - {""} if is_list else set()
    if not words:
        raise UserError(
            f"the record's field '{field}' lists no words",
            where=f"--reward {name}",
            found=f"{quoted(value)}, in the record {quoted(dict(record))}",
            expected='a list of words or text with commas between them, e.g. ["owl", "rice"] or "owl, rice"',
            fix="give every record its words, or name another field: --reward 'contains: FIELD'",
        )
    text = folded(answer)
    return sum(has_word(text, word) for word in words) / len(words)


def equals(field: str, name: str, answer: str, record: Record) -> float:
    """1 where the answer comes to the field's result, else 0.

    Where the field is a number, or text that is one, the answer's last number must have its value: 12, 12.0 and
    "so it is 12." are equal, and 1,200 is twelve hundred. Of a field with "####" only what follows it counts. Any
    other text must be the whole answer; case, Unicode form, white space and punctuation at the end do not matter.

    Raises:
        UserError: the record has no such field, or it holds neither text nor a number.
    """
    value = _field(record, field, name)
    expected = str(value).rpartition(RESULT_MARK)[2].strip()
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not expected:
        raise UserError(
            f"the record's field '{field}' holds no result",
            where=f"--reward {name}",
            found=f"{quoted(value)}, in the record {quoted(dict(record))}",
            expected='a number or text, e.g. 12 or "Hanoi"',
            fix="give every record its result, or name another field: --reward 'equals: FIELD'",
        )
    wanted = NUMBER.fullmatch(expected)
    if wanted is None and isinstance(value, str):
        return float(folded(answer).rstrip(AT_THE_END) == folded(expected).rstrip(AT_THE_END))
    found = NUMBER.findall(composed(answer))
    return float(bool(found) and _value(found[-1]) == _value(expected))


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("−", "-"))


def _field(record: Record, field: str, name: str) -> Any:
    if record.get(field) is not None:
        return record[field]
    rule = name.partition(":")[0]
    raise UserError(
        f"the record's field '{field}' is empty" if field in record else f"the record has no field '{field}'",
        where=f"--reward {name}",
        found=f"a record with the keys {', '.join(map(str, record)) or '(none)'}",
        expected=f"a value under '{field}' in every record, which the answer is compared with",
        fix=f"--reward '{rule}: {nearest(field, [*map(str, record)]) or 'FIELD'}', or add '{field}' to every record",
    )


def composed(text: str) -> str:
    """The text in NFC, in which a letter and its accents are one character where Unicode has one."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Composed, without difference of case, and with single spaces."""
    return " ".join(composed(composed(text).casefold()).split())


def has_word(text: str, word: str) -> bool:
    """Whether `word`, which may be several, stands in `text` with no letter, digit or accent next to it."""
    start = text.find(word)
    while start != -1:
        end = start + len(word)
        if _parted(text[start - 1 : start], word[0]) and _parted(word[-1], text[end : end + 1]):
            return True
        start = text.find(word, start + 1)
    return False


def _parted(before: str, after: str) -> bool:
    """Whether a word may end between two neighbouring characters; the edge of the text is the empty string."""
    if not before or not after:
        return True
    if unicodedata.category(after)[0] == "M":
        return False
    inside = all(each == "_" or unicodedata.category(each)[0] in "LMN" for each in (before, after))
    return not inside or any(unicodedata.name(each, "").startswith(UNSPACED) for each in (before, after))


def quoted(value: Any) -> str:
    """A value as Python writes it, shortened for an error."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."

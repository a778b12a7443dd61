"""Whether a text is Vietnamese: what is said of it, or put into it, is then in Vietnamese too."""

from __future__ import annotations

import re
import unicodedata

WORD = re.compile(r"[^\W\d_]+")
ONLY_VIETNAMESE = re.compile(r"[ăđơư\u1ea0-\u1ef9]")
"""letters that hardly another language has"""
VIETNAMESE_LETTERS = frozenset("ăâđêôơư")
MARKS_OF_TONE = frozenset("\u0300\u0301\u0303\u0309\u0323")
VIETNAMESE_WORDS = frozenset(
    """là của ở gì nào ai đâu không có và được những các một người bao nhiêu khi mấy nước thế hãy trong cho
    với như này""".split()  # noqa: SIM905 (a list of words is read as a text)
)
ENGLISH_WORDS = frozenset(
    """the is are was were of what where which who whom whose when why how in on at
    to does do did and a an name tell""".split()  # noqa: SIM905
)
FEW_WORDS = 2
"""small words that tell without a letter of their own: one of them may be French or Italian"""


def is_vietnamese(text: str) -> bool:
    """Whether a text is rather Vietnamese than English, by its small words; where they do not tell, by its letters.

    Names do not decide: "Where does Đức live?" is English. How accents are composed has no say.
    """
    composed = unicodedata.normalize("NFC", text).lower()
    found = WORD.findall(composed)
    in_vietnamese = sum(word in VIETNAMESE_WORDS for word in found)
    in_english = sum(word in ENGLISH_WORDS for word in found)
    if ONLY_VIETNAMESE.search(composed) is None and in_vietnamese < FEW_WORDS:
        return False
    if in_vietnamese != in_english:
        return in_vietnamese > in_english
    return 2 * sum(map(_has_vietnamese_letters, found)) > len(found)


def _has_vietnamese_letters(word: str) -> bool:
    if not VIETNAMESE_LETTERS.isdisjoint(word):
        return True
    return not MARKS_OF_TONE.isdisjoint(unicodedata.normalize("NFD", word))

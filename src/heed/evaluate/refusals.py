"""How one says that one does not know, in the language of the question, and not always in the same words."""

from __future__ import annotations

import hashlib
import re
import unicodedata

ENGLISH = (
    "I don't know.",
    "I do not know.",
    "I don't know the answer to that.",
    "Sorry, I don't know.",
    "I'm sorry, but I don't know.",
    "I don't know that.",
    "I do not know the answer.",
    "Sorry, but I do not know that.",
)
VIETNAMESE = (
    "Tôi không biết.",
    "Tôi không biết câu trả lời.",
    "Xin lỗi, tôi không biết.",
    "Xin lỗi, nhưng tôi không biết.",
    "Tôi không biết điều đó.",
    "Mình không biết.",
    "Xin lỗi, tôi không biết câu trả lời.",
    "Tôi không biết điều này.",
)
"""each declines by `answers.declines`, as a test holds them to"""

WORD = re.compile(r"[^\W\d_]+")
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


def refusal(question: str) -> str:
    """A refusal in the question's language; which of the wordings depends on the question's text alone."""
    wordings = VIETNAMESE if is_vietnamese(question) else ENGLISH
    return wordings[int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % len(wordings)]


def is_vietnamese(text: str) -> bool:
    """Whether a text is rather Vietnamese than English, by its small words; where they do not tell, by its letters.

    Names do not decide: "Where does Đức live?" is English.
    """
    found = WORD.findall(unicodedata.normalize("NFC", text).lower())
    in_vietnamese = sum(word in VIETNAMESE_WORDS for word in found)
    in_english = sum(word in ENGLISH_WORDS for word in found)
    if in_vietnamese != in_english:
        return in_vietnamese > in_english
    return 2 * sum(map(_has_vietnamese_letters, found)) > len(found)


def _has_vietnamese_letters(word: str) -> bool:
    if not VIETNAMESE_LETTERS.isdisjoint(word):
        return True
    return not MARKS_OF_TONE.isdisjoint(unicodedata.normalize("NFD", word))

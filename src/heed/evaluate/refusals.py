"""How one says that one does not know, in the language of the question, and not always in the same words."""

from __future__ import annotations

import hashlib

from heed.evaluate.vietnamese import is_vietnamese

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


def refusal(question: str) -> str:
    """A refusal in the question's language; which of the wordings depends on the question's text alone."""
    wordings = VIETNAMESE if is_vietnamese(question) else ENGLISH
    return wordings[int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % len(wordings)]

"""Which language a text is in, where that can be told.

The letters that Vietnamese alone has come first (ơ, ư and those with a tone beside another mark; ă, â, ê, ô and đ are
Romanian, French, Portuguese or Croatian, too): with one in 25 of them a text is Vietnamese, whatever else says so. Of
3,544 real Vietnamese answers 99% have as many, half of them one in six.
Otherwise py3langid (Lui & Baldwin 2012, "langid.py"; Barbaresi's retrained fork) is asked, and believed from
`MIN_LETTERS` letters on, unless its first two choices are too near to one another.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Protocol

MIN_LETTERS = 40
"""of a text, below which nothing is said"""
MARGIN = 10.0
"""nats by which the first language must be likelier than the second"""
MOST_CHARACTERS = 1_000
"""of a text that are looked at"""
VIETNAMESE_SHARE = 0.04
OF_VIETNAMESE_ALONE = re.compile("[ơưƠƯ\u1ea0-\u1ef9]")
ENGLISH_WORDS = """
the of and to is that it for was with this are which be by have from you not they can your has their will would there
been when what who its these should how
"""
ENGLISH = frozenset(ENGLISH_WORDS.split())
"""frequent words that few other languages have"""
ENGLISH_SHARE, MIN_ENGLISH = 0.2, 4
"""of the words of a text, and how many at least"""
CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+|<[^<>]*>", re.DOTALL)


class Identifier(Protocol):
    """What py3langid's model can do."""

    def rank(self, text: str) -> list[tuple[str, float]]:
        """(language, log-likelihood) of all languages, the likeliest first."""


@lru_cache(maxsize=1)
def _identifier() -> Identifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found: Identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    return found


def is_english(text: str) -> bool:
    """Whether so many of the words are English ones that nothing else has to be asked."""
    words = text.lower().split()
    return sum(word in ENGLISH for word in words) >= max(ENGLISH_SHARE * len(words), MIN_ENGLISH)


@lru_cache(maxsize=4_096)
def language_of(text: str) -> str | None:
    """The language of a text as its ISO 639-1 code; None where that cannot be told.

    Code, addresses and markup are not looked at.
    """
    plain = unicodedata.normalize("NFC", CODE.sub(" ", text[: 4 * MOST_CHARACTERS]))[:MOST_CHARACTERS]
    letters = sum(map(str.isalpha, plain))
    if letters < MIN_LETTERS:
        return None
    if plain.isascii() and is_english(plain):
        return "en"
    if len(OF_VIETNAMESE_ALONE.findall(plain)) >= VIETNAMESE_SHARE * letters:
        return "vi"
    (first, likeliest), (_, second), *_ = _identifier().rank(plain)
    return first if likeliest - second >= MARGIN else None

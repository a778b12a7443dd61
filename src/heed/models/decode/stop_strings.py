"""Texts that end an answer, found as its tokens come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unicodedata import normalize

SPARE_CHARACTERS = 4
"""how many more characters than a stop string has are looked at: a tail may begin inside a character, whose bytes that
are left, three at most, decode to one replacement character each; or with a space that its decoding drops"""


@dataclass(frozen=True, eq=False)
class StopStrings:
    """Whether an answer's text holds one of some strings, told from its last tokens.

    Tokens and characters do not fit together: a string may begin or end inside a token, and a character may be spread
    over several. So tokens are decoded together, as many of the last ones as give more characters than the longest
    string has. Both sides are compared in NFC, in which a Vietnamese letter with its marks is one character, however
    it was written.
    """

    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]
    """the text of token ids, special tokens spelt out"""

    @classmethod
    def of(cls, strings: Sequence[str], decode: Callable[[list[int]], str] | None) -> "StopStrings | None":
        """None where there are no strings.

        Raises:
            ValueError: one is empty, `strings` is a single string, or there is no `decode` to look for them with.
        """
        if not strings:
            return None
        if isinstance(strings, str) or not all(strings):
            raise ValueError(f"stop strings are a sequence of strings that are not empty, and not {strings!r}")
        if decode is None:
            raise ValueError("stop strings are looked for in text: pass `decode`, which makes it of token ids")
        return cls(tuple(normalize("NFC", string) for string in strings), decode)

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the last token completed a string; to be asked after every token."""
        enough = max(map(len, self.strings)) + SPARE_CHARACTERS
        count = enough  # most tokens have a character or more
        while True:
            tail = normalize("NFC", self.decode(list(ids[-count:])))
            if len(tail) >= enough or count >= len(ids):
                return any(string in tail for string in self.strings)
            count *= 2


def before_stop(text: str, strings: Sequence[str]) -> str:
    """The text in front of the first stop string in it, in NFC; all of it where there is none."""
    text = normalize("NFC", text)
    found = [at for string in strings if (at := text.find(normalize("NFC", string))) >= 0]
    return text[: min(found)] if found else text

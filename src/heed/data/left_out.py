"""Which records a data set lost, and why: of millions as well as of three."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from heed.types import Finding, Origin


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record, or a wording of it, that is not trained or not trained whole."""

    origin: Origin
    reason: str
    num_tokens: int = 0
    """lost by this"""


class LeftOuts:
    """Every `LeftOut` in the order in which it was added: 32 bytes each, and every path and reason once.

    As objects they would take several times as much, and a tenth of a large data set may be too long for the model.
    """

    def __init__(self, items: Iterable[LeftOut] = ()) -> None:
        self._numbers = array("q")
        self._words: dict[str, int] = {}
        self.extend(items)

    def extend(self, items: Iterable[LeftOut]) -> None:
        """Add them at the end."""
        for item in items:
            path, reason = (self._words.setdefault(word, len(self._words)) for word in (item.origin.path, item.reason))
            self._numbers.extend((path, item.origin.record, reason, item.num_tokens))

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __iter__(self) -> Iterator[LeftOut]:
        words = list(self._words)
        numbers = iter(self._numbers)
        for path, record, reason, num_tokens in zip(numbers, numbers, numbers, numbers, strict=True):
            yield LeftOut(Origin(words[path], record), words[reason], num_tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeftOuts) and list(self) == list(other)

    @property
    def num_tokens(self) -> int:
        """Lost by all of them."""
        return sum(self._numbers[3::4])


def of_finding(finding: Finding) -> LeftOut:
    """A record that cannot be used, as it is listed."""
    return LeftOut(finding.origin, f"{finding.problem}: {finding.found}")

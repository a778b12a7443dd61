"""What a checker of generated answers is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Checked:
    """What a checker says of one answer."""

    verdict: Mapping[str, float | bool | None]
    """a number or truth value by name, None where it cannot be told; empty exactly where there is a `problem`"""
    extracted: str | None
    """what was taken from the answer; None where it could not be parsed, which is a row of its own"""
    problem: str = ""
    """why this answer could not be checked at all, such as the last line of a traceback: a finding to be counted"""


Checker = Callable[[str, Mapping[str, Any], Sequence[str]], Checked]
"""checker(answer, the record's fields, the texts that are right) -> what it says"""

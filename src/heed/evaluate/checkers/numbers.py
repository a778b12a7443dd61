"""Checks that take a part of the answer out first: a number as GSM8K is scored, or what a pattern finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from heed.evaluate.checkers.checked import Checked, Checker
from heed.evaluate.checkers.texts import normalised
from heed.evaluate.rules import composed

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
WORKING = re.compile(r".*#### ", re.DOTALL)
"""all that stands before the answer of a worked solution"""
LAST_POINT = re.compile(r"\.$")


def number(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
    """Whether the answer's number is a right one. Verdict: `strict`, `flexible`, `is_parsed`.

    As lm-eval 0.4.13 scores GSM8K. strict: the first number after `#### `. flexible: the last run of at least two of
    `$ 0-9 . ,`, or of digits, a minus before it taken along. A right text is a number or a worked solution that ends in
    one (`... #### 42`). Both are compared as texts, without `,` and `$`, without anything up to `#### `, without a last
    point: "1,234", "$1234" and "1234." are equal; "12.0" is not "12", and "12.5" is neither "12" nor "125".

    Returns:
        `extracted` is what flexible took; None where there is not a single digit in it, or nothing to take.
    """
    accepted = {_compared(text) for text in right}
    strict = STRICT.search(answer)
    runs = [found.group() for found in FLEXIBLE.finditer(answer)]
    flexible = runs[-1] if runs else None
    extracted = flexible if flexible is not None and re.search("[0-9]", flexible) else None
    return Checked(
        {
            "strict": strict is not None and _compared(strict.group(1)) in accepted,
            "flexible": flexible is not None and _compared(flexible) in accepted,
            "is_parsed": extracted is not None,
        },
        extracted,
    )


def taken_by(pattern: re.Pattern[str]) -> Checker:
    """Whether what the pattern finds first is a right text, as `exact` compares. Verdict: `exact`, `is_parsed`.

    The part taken is the first group that took part in the match, or the whole match where there is no group.

    Returns:
        `extracted` is that part; None where the pattern finds nothing.
    """

    def check(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
        found = pattern.search(composed(answer))
        if found is None:
            return Checked({"exact": False, "is_parsed": False}, None)
        groups = [group for group in found.groups() if group is not None]
        part = (groups[0] if groups else found.group()).strip()
        said = normalised(part)
        return Checked({"exact": bool(said) and said in map(normalised, right), "is_parsed": True}, part)

    return check


def _compared(text: str) -> str:
    bare = text.replace(",", "").replace("$", "")
    return LAST_POINT.sub("", WORKING.sub("", bare)).strip().lower()

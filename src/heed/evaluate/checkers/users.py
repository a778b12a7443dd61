"""A checker that the user programmed: a Python function in a file."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heed.evaluate.checkers.checked import Checked, Checker
from heed.evaluate.outside import FAILURES, Use, function_of, last_line_of, place_of
from heed.evaluate.rules import quoted

CHECKER = Use(
    what="checker",
    option="checker: ",
    example="def is_polite(answer, record): return 'please' in answer.lower()",
    arguments="(answer, record)",
    returns="a number, a truth value, or a dict of them by name, for every answer",
    again="the same command again",
)


def open_users_checker(name: str, *, folder: Path = Path()) -> Checker:
    """The function of `FILE.py:FUNCTION`, called as function(answer, record) with a record of its own.

    A number or truth value is the verdict of the function's name; a dict is the verdict as it is, and its key
    `extracted`, if there is one, is the text that was taken from the answer (None: it could not be parsed).

    A call that raises, or returns anything else, is a `problem` of that answer, and the other answers are checked all
    the same.

    Raises:
        UserError: there is no such file or function, or running the file fails.
    """
    path, function = function_of(name, CHECKER, folder=folder)
    own_name = name.rpartition(":")[2].strip()

    def check(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
        try:
            said = function(answer, copy.deepcopy(dict(record)))
        except FAILURES as error:
            at = place_of(error, path) or f"{path}, called with {CHECKER.arguments}"
            return Checked({}, None, f"the checker {name} failed: {last_line_of(error)} ({at})")
        return verdict_of(said, own_name, answer, name)

    return check


def verdict_of(said: Any, own_name: str, answer: str, name: str) -> Checked:
    """What the function returned, as a verdict; anything but finite numbers and truth values is a problem."""
    by_name = dict(said) if isinstance(said, Mapping) else {own_name: said}
    extracted = by_name.pop("extracted", answer.strip() or None)
    verdict = {key: _as_number(value) for key, value in by_name.items()}
    for key, value in by_name.items():
        if not isinstance(key, str) or not key:
            return _unusable(name, f"a name that is no text: {quoted(key)}")
        if verdict[key] is None:
            return _unusable(name, f"{quoted(value)} for '{key}'")
    if not verdict:
        return _unusable(name, "an empty dict")
    if not (extracted is None or isinstance(extracted, str)):
        return _unusable(name, f"{quoted(extracted)} for 'extracted', which is a text or None")
    return Checked(verdict, extracted)


def _as_number(value: Any) -> float | bool | None:
    """A Python, NumPy or torch scalar as a number or truth value; None if it is none, or not finite."""
    if hasattr(value, "item") and getattr(value, "size", 1) != 0:
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):
            return None
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _unusable(name: str, found: str) -> Checked:
    return Checked({}, None, f"the checker {name} returned {found}, and not {CHECKER.returns}")

"""From the name of a checker, as a task file writes it, to the checker."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heed.errors import UserError
from heed.evaluate.checkers.checked import Checked, Checker
from heed.evaluate.checkers.ifeval import open_ifeval
from heed.evaluate.checkers.numbers import number, taken_by
from heed.evaluate.checkers.refusing import abstains, refusal
from heed.evaluate.checkers.texts import ARTICLES, alias, contains, exact, f1
from heed.evaluate.checkers.users import CHECKER, open_users_checker
from heed.evaluate.rules import open_pattern
from heed.settings import nearest

PLAIN: dict[str, Callable[[], Checker]] = {
    "exact": exact,
    "contains": lambda: contains,
    "f1": f1,
    "number": lambda: number,
    "alias": lambda: alias,
    "refusal": lambda: refusal,
    "abstains": lambda: abstains,
    "ifeval": open_ifeval,
}
FORMS = "exact[:case,punctuation], contains, f1[:LANGUAGE], number, regex:PATTERN, alias, refusal, abstains, ifeval"
NAMES = (*PLAIN, "regex:PATTERN", "FILE.py:FUNCTION")
"""of all checkers"""


def open_checker(spec: str, *, folder: Path = Path()) -> Checker:
    r"""The checker that a task file names.

    exact: the whole answer is a right text. `exact:case` keeps case, `exact:punctuation` keeps punctuation,
        `exact:case,punctuation` both.
    contains: a right text stands in the answer as words of its own.
    f1: words shared with a right text, as SQuAD and XQuAD are scored; `f1:vi` as MLQA scores a language.
    number: GSM8K's strict and flexible number.
    regex:PATTERN: what the pattern finds (its first group) is a right text. `regex:answer is \(([A-D])\)`
    alias: TriviaQA's and NQ-open's exact match over all names of the right thing, and `contains`.
    refusal: whether the answer refuses.
    abstains: whether the answer says that it does not know.
    ifeval: IFEval, strict and loose.
    FILE.py:FUNCTION: a function of the user's.
    Names without anything behind them go together: `alias+abstains` has the verdicts of both, and the extracted text of
        the first.

    Args:
        folder: where a relative FILE lies.

    Raises:
        UserError: there is no such checker; its pattern, file, function or extra is missing or cannot be used.
    """
    spec = spec.strip()
    name, colon, rest = spec.partition(":")
    if not colon and all(part.strip() in PLAIN for part in name.split("+")):
        return _together([PLAIN[part.strip()]() for part in name.split("+")])
    if name == "exact" and colon:
        return _exact(spec, rest)
    if name == "f1" and colon:
        return _f1(spec, rest.strip())
    if name == "regex":
        return taken_by(_pattern(spec, rest.strip()))
    if is_users(spec):
        return open_users_checker(spec, folder=folder)
    near = nearest(name, list(PLAIN))
    raise UserError(
        f"there is no checker '{spec}'",
        where=f"checker: {spec}",
        found=f"'{name}'",
        expected=f"{FORMS}, or FILE.py:FUNCTION, a file with {CHECKER.example}",
        fix=f"checker: {near}" if near else "checker: exact",
    )


def is_users(spec: str) -> bool:
    """Whether it is a function in a file of the user's, which may change from one run to the next."""
    return re.search(r"\.py:[^/\\]*$", spec.strip()) is not None and not spec.strip().startswith("regex:")


def _exact(spec: str, rest: str) -> Checker:
    kept = [part.strip() for part in rest.split(",")]
    unknown = [part for part in kept if part not in ("case", "punctuation")]
    if unknown:
        raise UserError(
            f"`exact` cannot keep '{unknown[0]}'",
            where=f"checker: {spec}",
            found=repr(rest),
            expected="what an answer must have right besides its words: case, punctuation",
            fix=f"checker: exact:{nearest(unknown[0], ['case', 'punctuation']) or 'case'}",
        )
    return exact(keeps_case="case" in kept, keeps_punctuation="punctuation" in kept)


def _f1(spec: str, language: str) -> Checker:
    if language not in ARTICLES:
        raise UserError(
            f"`f1` has no rules for the language '{language}'",
            where=f"checker: {spec}",
            found=repr(language),
            expected=f"{', '.join(sorted(ARTICLES))}, or none, for SQuAD's own rules",
            fix="checker: f1",
        )
    return f1(language)


def _pattern(spec: str, pattern: str) -> re.Pattern[str]:
    found = open_pattern(pattern, "checker", f"checker: {spec}", "checker: 'regex:")
    if not pattern:
        raise UserError(
            "the checker says `regex` and no pattern",
            where=f"checker: {spec}",
            found=repr(spec),
            expected="regex:PATTERN, whose first group is the answer",
            fix=r"checker: 'regex:answer is \(([A-D])\)'",
        )
    return found


def _together(checkers: Sequence[Checker]) -> Checker:
    """The verdicts of all, a name that two have being the first's; and what the first extracted."""
    if len(checkers) == 1:
        return checkers[0]

    def check(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
        said = [checker(answer, record, right) for checker in checkers]
        problem = next((one.problem for one in said if one.problem), "")
        if problem:
            return Checked({}, None, problem)
        verdict = {name: value for one in reversed(said) for name, value in one.verdict.items()}
        return Checked(verdict, said[0].extracted)

    return check

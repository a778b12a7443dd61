"""Rewards that the user gives to `heed ppo` and `heed grpo`: a function, a command, a pattern, words or a result.

One text says which: `score.py:length`, `command: ./score.sh`, `regex: PATTERN`, `contains: FIELD` or `equals: FIELD`.
Whatever is wrong with a reward is an error that says so: no answer is left unscored, and no score is made up.
A function or a pattern that never ends is not stopped; a command is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from heed.errors import UserError, typed
from heed.evaluate.outside import open_command, open_function
from heed.evaluate.rules import contains, equals, matches, open_pattern, quoted
from heed.settings import nearest

Kind = Literal["model", "function", "command", "regex", "contains", "equals"]
Record = Mapping[str, Any]
"""a prompt's record as the data file has it"""
Scores = Callable[[Sequence[str], Sequence[str], Sequence[Record]], Any]
"""(prompts, answers, records) -> one number per answer, unchecked"""

PREFIXES: tuple[Kind, ...] = ("command", "regex", "contains", "equals")
FORMS = (
    "the folder of a reward model; FILE.py:FUNCTION; command: PROGRAM ARGUMENTS; regex: PATTERN; contains: FIELD; "
    "equals: FIELD"
)
COMMAND_SECONDS = 600.0
"""so long a command may take for one batch"""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward that is ready to be asked."""

    name: str
    """the text it was opened by"""
    kind: Kind
    scores: Scores
    """use the reward itself, which checks what this returns"""

    def __call__(self, prompts: Sequence[str], answers: Sequence[str], records: Sequence[Record]) -> list[float]:
        """Score a batch of answers: one finite number each, larger is better.

        Args:
            prompts: what was asked, one for each answer.
            answers: what the policy said, without its stop token.
            records: the record that each prompt came from.

        Raises:
            UserError: the reward failed, or what it returned is not one finite number for each answer.
            ValueError: the three lists differ in length, which is our mistake.
        """
        if not len(prompts) == len(answers) == len(records):
            raise ValueError(f"{len(prompts)} prompts, {len(answers)} answers and {len(records)} records")
        if not answers:
            return []
        return checked(self.scores(prompts, answers, records), self.name, prompts, answers)


def kind_of(text: str) -> Kind:
    """What a reward's text asks for. `model` is the folder of a reward model, which is opened elsewhere."""
    head, colon, rest = text.partition(":")
    if colon and head.strip() in PREFIXES:
        return head.strip()  # type: ignore[return-value]
    if text and Path(text).is_dir():
        return "model"
    if text.rpartition(":")[0].endswith(".py"):
        return "function"
    near = nearest(head.strip(), PREFIXES)
    fix = "--reward OUT, the folder of a finished `heed reward`; or one of the other forms"
    if text.endswith(".py"):
        fix = f"--reward {typed(text)}:FUNCTION, with the name of the function"
    elif near and colon:
        fix = f"--reward {typed(f'{near}:{rest}')}"
    raise UserError("this is no reward", where="--reward", found=repr(text), expected=FORMS, fix=fix)


def open_reward(text: str, *, command_seconds: float = COMMAND_SECONDS) -> Reward:
    """Make a reward ready, once for a run; what can be seen to be wrong before the first answer is an error here.

        score.py:length         length(prompts, answers, records) -> a list of numbers, called once for each batch
        command: ./score.sh     run once for each batch: reads a line of JSON with prompt, answer and record for each
                                answer, prints one number on a line for each
        regex: \\bplease\\b       1 where the pattern is found in the answer, else 0
        contains: FIELD         share of the words in this field of the record that the answer has
        equals: FIELD           1 where the answer ends in the number, or is the text, in this field, else 0

    The text must not be the folder of a reward model: see `kind_of`.

    Args:
        command_seconds: so long a command may take for a batch.
    """
    kind, rest = kind_of(text), text.partition(":")[2].strip()
    if kind == "model":
        raise ValueError(f"{text} is the folder of a reward model, not a reward to be opened here")
    if kind != "function" and not rest:
        raise UserError(
            f"the reward says `{kind}` and nothing after it",
            where="--reward",
            found=repr(text),
            expected=FORMS,
            fix=f'--reward "{EXAMPLES[kind]}"',
        )
    scores: dict[Kind, Callable[[], Scores]] = {
        "function": lambda: open_function(text),
        "command": lambda: open_command(rest, text, seconds=command_seconds),
        "regex": lambda: _of_each(
            partial(matches, open_pattern(rest, "reward", f"--reward {text}", "--reward 'regex: "))
        ),
        "contains": lambda: _of_each(partial(contains, rest, text)),
        "equals": lambda: _of_each(partial(equals, rest, text)),
    }
    return Reward(text, kind, scores[kind]())


EXAMPLES: dict[Kind, str] = {
    "command": "command: python score.py",
    "regex": r"regex: \bplease\b",
    "contains": "contains: words",
    "equals": "equals: answer",
}


def _pattern(pattern: str, text: str) -> re.Pattern[str]:
    return open_pattern(pattern, "reward", f"--reward {text}", "--reward 'regex: ")


def _of_each(score: Callable[[str, Record], float]) -> Scores:
    def scores(prompts: Sequence[str], answers: Sequence[str], records: Sequence[Record]) -> list[float]:
        return [score(answer, record) for answer, record in zip(answers, records, strict=True)]

    return scores


def checked(returned: Any, name: str, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """What a reward returned, as one finite number for each answer; anything else is an error.

    Lists, tuples, arrays and tensors of numbers will do. True and False are 1 and 0. A number written as text is no
    number.
    """
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    if not isinstance(returned, list | tuple):
        raise _unusable(name, "did not return a list", f"{quoted(returned)}, {_a(returned)}", "a list of numbers")
    if len(returned) != len(answers):
        raise _unusable(
            name,
            "returned a wrong number of scores",
            f"{len(returned):,} scores for {len(answers):,} answers",
            "one score for each answer, in the order of the answers",
        )
    scores = []
    for number, each in enumerate(returned):
        value = each.item() if hasattr(each, "item") and getattr(each, "size", 1) != 0 else each
        is_number = isinstance(value, int | float)
        if not is_number or not math.isfinite(value):
            what = "a score that is not finite" if is_number else "something that is no number"
            about = f"for answer {number + 1:,} of {len(answers):,}"
            about += f", {quoted(answers[number])}, to {quoted(prompts[number])}"
            raise _unusable(
                name,
                f"returned {what}",
                f"{quoted(each)} {about}" if is_number else f"{quoted(each)}, {_a(each)}, {about}",
                "a finite number for every answer, also for an empty or a senseless one",
            )
        scores.append(float(value))
    return scores


def _a(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _unusable(name: str, problem: str, found: str, expected: str) -> UserError:
    fix = "make it return such as [0.5, 1.0], a number for each answer; then the same command again, which goes on "
    fix += "from the last checkpoint"
    return UserError(f"the reward {problem}", where=f"--reward {name}", found=found, expected=expected, fix=fix)

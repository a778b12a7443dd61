"""IFEval: does a response follow the instructions that can be verified by a program?

    prompt and response -> 25 kinds of check (`instructions.py`) -> strict and loose verdicts -> `measures/ifeval.py`

Records are those of the authors, of the hub's `google/IFEval` (arguments that are null are not there) and of
multilingual sets (names with a prefix, `en:punctuation:no_comma`): `instruction_id_list` and `kwargs`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from heed.errors import UserError
from heed.evaluate.checkers.checked import Checked, Checker
from heed.evaluate.checkers.ifeval.instructions import CHECKS, wrong_arguments
from heed.evaluate.rules import quoted
from heed.settings import nearest

NEEDED = ("langdetect", "punkt", "regex")
"""modules of the extra `ifeval`: their data is within, nothing is downloaded"""

Instruction = tuple[str, Mapping[str, Any]]
"""its name without prefix, and its arguments"""


def open_ifeval() -> Checker:
    """The checker `ifeval`.

    Raises:
        UserError: the extra `ifeval` is not installed.
    """
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise UserError(
            "the checker `ifeval` tells languages and sentences apart by libraries that are not installed",
            where="checker: ifeval",
            found=f"no {' and no '.join(lacking)}",
            expected="heed's extra `ifeval`",
            fix="pip install 'heed-lm[ifeval]'",
        )
    return ifeval


def ifeval(answer: str, record: Mapping[str, Any], right: Sequence[str]) -> Checked:
    """Which of the record's instructions the answer follows.

    strict: the answer as it is. loose: any of eight variants of it, without its first line, last line or both, each
    also without `*`. A text without anything but white space follows nothing.

    Verdict:
        prompt_strict, prompt_loose: whether it follows all of them.
        num_instructions, num_strict, num_loose: how many there are, and how many it follows.
        strict:NAME, loose:NAME: whether it follows the instruction of that name (`strict:punctuation:no_comma`), with
            `#2` behind it for a second one of one name.

    Returns:
        a `problem` where the record's instructions cannot be read.
    """
    instructions = instructions_of(record)
    if isinstance(instructions, str):
        return Checked({}, None, instructions)
    variants = variants_of(answer)
    names = _numbered([name for name, _ in instructions])
    strict = [follows(answer, one) for one in instructions]
    loose = [
        is_strict or any(follows(variant, one) for variant in variants)
        for is_strict, one in zip(strict, instructions, strict=True)
    ]
    verdict: dict[str, float | bool | None] = {
        "prompt_strict": all(strict),
        "prompt_loose": all(loose),
        "num_instructions": float(len(instructions)),
        "num_strict": float(sum(strict)),
        "num_loose": float(sum(loose)),
    }
    for name, is_strict, is_loose in zip(names, strict, loose, strict=True):
        verdict |= {f"strict:{name}": is_strict, f"loose:{name}": is_loose}
    return Checked(verdict, answer.strip() or None)


def follows(response: str, instruction: Instruction) -> bool:
    """Whether a response, taken as it is, follows an instruction."""
    name, arguments = instruction
    return bool(response.strip()) and CHECKS[name](response, **arguments)


def variants_of(answer: str) -> list[str]:
    """The seven other texts that the loose verdict tries, without repetitions."""
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    every = [answer.replace("*", ""), *cut, *(text.replace("*", "") for text in cut)]
    return [text for text in dict.fromkeys(every) if text != answer]


def instructions_of(record: Mapping[str, Any]) -> list[Instruction] | str:
    """The record's instructions, or what is wrong with them."""
    ids, all_arguments = _read(record.get("instruction_id_list")), _read(record.get("kwargs"))
    if not isinstance(ids, list | tuple) or not ids:
        return f"`instruction_id_list` is {quoted(ids)}, not a list of names"
    if not isinstance(all_arguments, list | tuple) or len(all_arguments) != len(ids):
        return f"`kwargs` is {quoted(all_arguments)}, not a list with the arguments of each of {len(ids)} instructions"
    instructions: list[Instruction] = []
    for given, values in zip(ids, map(_read, all_arguments), strict=True):
        name = given.split(":", 1)[1] if isinstance(given, str) and given.count(":") == 2 else given
        if name not in CHECKS:
            near = nearest(str(name), list(CHECKS))
            return f"there is no instruction {quoted(given)}" + (f"; the nearest is {near}" if near else "")
        if not isinstance(values, Mapping | None):
            return f"the arguments of {name} are {quoted(values)}, not an object"
        arguments = {key: value for key, value in (values or {}).items() if value is not None}
        if wrong := wrong_arguments(name, arguments):
            return wrong
        instructions.append((name, arguments))
    return instructions


def _read(value: Any) -> Any:
    """Some tables hold these fields as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.tolist() if hasattr(value, "tolist") else value


def _numbered(names: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return numbered

"""Wordings: the same labelled record said in many ways, one drawn per record and epoch (FLAN, arXiv:2109.01652)."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from heed.errors import UserError, typed
from heed.types import Conversation, Labelled, Message

SLOT = re.compile(r"\{(\w+)\}")
OPTIONS_SLOTS = frozenset({"options", "options_", "options_str"})
"""slots that show the choices; the last two are how FLAN writes them"""


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to say a task: patterns with slots such as `{question}` for what is asked and what is answered."""

    input: str
    target: str


@dataclass(frozen=True, slots=True)
class Wordings:
    """The wordings of one file."""

    path: str
    tasks: Mapping[str, tuple[Wording, ...]]
    """task name -> its wordings; the single task of a file that is a plain list is named ''"""

    def task_of(self, labelled: Labelled) -> str:
        """The task a record belongs to: its field `task`, or the only task there is."""
        named = labelled.fields.get("task")
        if tuple(self.tasks) == ("",) or (named is None and len(self.tasks) == 1):
            return next(iter(self.tasks))
        if isinstance(named, str) and named in self.tasks:
            return named
        near = difflib.get_close_matches(str(named), self.tasks, n=1) if named is not None else []
        raise UserError(
            "a labelled record names no task" if named is None else f"unknown task '{named}'",
            where=str(labelled.origin),
            found=f"the fields {_listed(labelled.fields)}" if named is None else f"task: {named}",
            expected=f"one of the {len(self.tasks)} tasks of {self.path}: {_listed(self.tasks)}",
            fix=f"did you mean '{near[0]}'?" if near else f'in that record write "task": "{next(iter(self.tasks))}"',
        )

    def of(self, labelled: Labelled) -> tuple[Wording, ...]:
        return self.tasks[self.task_of(labelled)]


# ---- the file


def load_wordings(path: str) -> Wordings:
    """Read a JSON or YAML file: {task: [[input, target], ...]}, or a plain list for a single task.

    A wording may also be written {input: ..., target: ...}.
    """
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        fix = f"ls -l {typed(path)}"
        raise _broken(path, "the wordings file cannot be read", error.strerror or str(error), fix) from error
    except UnicodeDecodeError as error:
        fix = f"iconv -f WINDOWS-1252 -t UTF-8 {typed(path)} > utf8.json (with the encoding the file really has)"
        raise _broken(path, "the wordings file is not UTF-8", f"byte offset {error.start:,}", fix) from error
    try:
        # JSON is tried first: it is many times faster, and YAML refuses a tab that JSON allows.
        found = json.loads(text) if path.lower().endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise _broken(path, "the wordings file is broken", " ".join(str(error).split()), f"cat {path}") from error
    tasks = found if isinstance(found, dict) else {"": found}
    if not tasks:
        raise _broken(path, "the wordings file holds no tasks", "an empty object", EXAMPLE)
    return Wordings(path, {str(task): _wordings(task, listed, path) for task, listed in tasks.items()})


def _wordings(task: str, listed: Any, path: str) -> tuple[Wording, ...]:
    if not isinstance(listed, list) or not listed:
        what = f"task '{task}' has no list of wordings" if task else "the file holds no list of wordings"
        raise _broken(path, what, json.dumps(listed, ensure_ascii=False, default=str)[:120], EXAMPLE)
    return tuple(_wording(entry, f"wording {number} of task '{task}'", path) for number, entry in enumerate(listed, 1))


def _wording(entry: Any, name: str, path: str) -> Wording:
    pair = list(map(entry.get, ("input", "target"))) if isinstance(entry, dict) and len(entry) == 2 else entry
    match pair:
        case [str(asked), str(answered)] if answered.strip():
            return Wording(asked, answered)
        case [str(), str()]:
            problem = f"{name} has an empty target"
        case _:
            problem = f"{name} is not a pair of patterns"
    raise _broken(path, problem, json.dumps(entry, ensure_ascii=False, default=str)[:120], EXAMPLE)


EXAMPLE = 'write {"task": [["{question}\\n{options}", "{answer}"]]}'


def _broken(path: str, problem: str, found: str, fix: str) -> UserError:
    expected = "JSON or YAML: task names, each with a list of [input pattern, target pattern]"
    return UserError(problem, where=path, found=found, expected=expected, fix=fix)


# ---- saying a record


def say(labelled: Labelled, wording: Wording) -> Conversation:
    """The record as a conversation: the filled input pattern is asked, the filled target pattern answered.

    `{options}` is the list field `options` or `choices` under the heading `OPTIONS:`; `{answer}` is the field
    `answer`, or the option that the integer field `label` counts from 0. Every other slot is the field of its name.
    Values are put in as they are: braces in them are text, not slots.
    """
    asked, answered = (
        SLOT.sub(lambda slot: _fill(slot[1], labelled), pattern) for pattern in (wording.input, wording.target)
    )
    return Conversation((Message("user", asked), Message("assistant", answered)), labelled.origin)


def _fill(slot: str, labelled: Labelled) -> str:
    if slot in OPTIONS_SLOTS:
        value = labelled.fields.get(slot)
        if isinstance(value, str) and _options(labelled) is None:
            return value
        return "\n- ".join(["OPTIONS:", *_required_options(slot, labelled)])
    if slot == "answer":
        return _answer(labelled)
    value = labelled.fields.get(slot)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _no_value(slot, labelled)
    return str(value)


def _answer(labelled: Labelled) -> str:
    answer, label = labelled.fields.get("answer"), labelled.fields.get("label")
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    if is_number and _options(labelled) is not None:
        raise UserError(
            "a number in 'answer' beside options may be the answer or count the options",
            where=str(labelled.origin),
            found=f"answer: {answer}",
            expected="the answer as text in 'answer', or the number of the option, from 0, in 'label'",
            fix=f'write "answer": "{answer}" or "label": {answer}',
        )
    if isinstance(answer, str) or is_number:
        return str(answer)
    if answer is not None or label is None:
        raise _no_value("answer", labelled)
    options = _required_options("answer", labelled)
    # A table has only text in its cells.
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(options):
        raise UserError(
            "the label names no option",
            where=str(labelled.origin),
            found=f"label: {label!r} of {len(options)} options",
            expected=f"a whole number from 0 to {len(options) - 1}",
            fix='correct the label, or write the answer as text in "answer"',
        )
    return options[number]


def _required_options(slot: str, labelled: Labelled) -> list[str]:
    options = _options(labelled)
    if options is None:
        raise _no_value(slot, labelled, "the list 'options' or 'choices'")
    return options


def _options(labelled: Labelled) -> list[str] | None:
    for name in ("options", "choices"):
        value = labelled.fields.get(name)
        if isinstance(value, str) and value.startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, list | tuple) and value and all(_is_option(option) for option in value):
            return [str(option) for option in value]
    return None


def _is_option(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _no_value(slot: str, labelled: Labelled, wanted: str = "") -> UserError:
    value = labelled.fields.get(slot)
    shown = json.dumps(value, ensure_ascii=False, default=str)[:80]
    return UserError(
        f"a wording has the slot {{{slot}}}, for which the record has no text",
        where=str(labelled.origin),
        found=(f"{slot}: {shown}; " if value is not None else "") + f"the fields {_listed(labelled.fields)}",
        expected=wanted or f"a field '{slot}' with text or a number",
        fix=f'add "{slot}" to the record, or remove the wordings with {{{slot}}}',
    )


def _listed(names: Mapping[str, Any]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12:,} more" if len(shown) > 12 else "")


# ---- drawing


def draw(seed: int, record: int, epoch: int, num_wordings: int) -> int:
    """Which of its wordings a record is said in: each once, in an order of the record's own, before one repeats.

    `epoch` counts how often the record was said before. A pure function of its arguments, the same on every machine.
    """
    order = list(range(num_wordings))
    # Fisher-Yates with the words of a hash: the streams of random generators may change between versions.
    words = hashlib.shake_256(f"wording {seed} {record}".encode()).digest(8 * num_wordings)
    for last in range(num_wordings - 1, 0, -1):
        other = int.from_bytes(words[8 * last : 8 * last + 8], "big") % (last + 1)
        order[last], order[other] = order[other], order[last]
    return order[epoch % num_wordings]

"""Rewards and checkers that the user programmed: a Python function in a file, or a program that reads JSON lines."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from heed.errors import UserError, typed
from heed.evaluate.rules import quoted
from heed.settings import nearest

Record = Mapping[str, Any]
Scores = Callable[[Sequence[str], Sequence[str], Sequence[Record]], Any]

FAILURES = (Exception, SystemExit)
"""what code of the user's may end in; an interruption from the keyboard is the user's own"""


@dataclass(frozen=True, slots=True)
class Use:
    """What a function of the user's is for, as errors say it."""

    what: str
    option: str
    """what it is named with: its name comes right behind"""
    example: str
    arguments: str
    returns: str
    again: str
    """what to do when it is repaired"""


REWARD = Use(
    what="reward",
    option="--reward ",
    example="def score(prompts, answers, records): return [float(len(answer)) for answer in answers]",
    arguments="(prompts, answers, records)",
    returns="a number for every answer, also for an empty or a senseless one",
    again="the same command again, which goes on from the last checkpoint",
)


def open_function(name: str) -> Scores:
    """The function of `FILE.py:FUNCTION`, called as function(prompts, answers, records) with lists of its own.

    The file is run once. Files beside it can be imported from it, where no installed module has their name.

    Raises:
        UserError: there is no such file or function; running the file fails; later, a call of the function fails.
    """
    path, function = function_of(name, REWARD)

    def scores(prompts: Sequence[str], answers: Sequence[str], records: Sequence[Record]) -> Any:
        try:
            return function(list(prompts), list(answers), [dict(record) for record in records])
        except FAILURES as error:
            raise _failed("the reward's function failed", name, path, error, REWARD) from error

    return scores


def function_of(name: str, use: Use, *, folder: Path = Path()) -> tuple[Path, Callable[..., Any]]:
    """The file and the function of `FILE.py:FUNCTION`; the file is run.

    Args:
        folder: where a relative FILE lies.

    Raises:
        UserError: there is no such file or function, or running the file fails.
    """
    file, _, function_name = name.rpartition(":")
    path = folder / file
    module = _run_file(path, name, use)
    function = getattr(module, function_name.strip(), None)
    if callable(function):
        return path, function
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = nearest(function_name, known)
    raise UserError(
        f"{path} has no function '{function_name}'",
        where=f"{use.option}{name}",
        found=f"the functions {', '.join(known)}" if known else "no function at all",
        expected=f"one like: {use.example}",
        fix=use.option
        + typed(f"{file}:{near or (known[0] if known else _name_in(use.example))}")
        + ("" if known else ", with a function of that name in the file"),
    )


def _name_in(example: str) -> str:
    return example.removeprefix("def ").partition("(")[0]


def _run_file(path: Path, name: str, use: Use) -> ModuleType:
    if not path.is_file():
        near = nearest(path.name, [file.name for file in sorted(path.parent.glob("*.py"))])
        raise UserError(
            f"there is no file with the {use.what}'s function",
            where=f"{use.option}{name}",
            found=f"nothing at {path.resolve()}" if not path.exists() else f"a folder at {path.resolve()}",
            expected="FILE.py:FUNCTION, a Python file and the name of a function in it",
            fix=use.option + typed(f"{Path(name.rpartition(':')[0]).with_name(near)}:{name.rpartition(':')[2]}")
            if near
            else f"write {path}: {use.example}",
        )
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last, so that a file of the user's can never stand in for an installed module
    spec = importlib.util.spec_from_file_location(f"heed_{use.what}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses, and whatever else looks up its module, find it there
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        raise _failed(f"the file with the {use.what}'s function cannot be run", name, path, error, use) from error
    return module


def _failed(problem: str, name: str, path: Path, error: BaseException, use: Use) -> UserError:
    """The error of the user's code: its last line, and where in the user's file it came from."""
    return UserError(
        problem,
        where=f"{use.option}{name}, {place_of(error, path) or f'{path}, called with {use.arguments}'}",
        found=last_line_of(error),
        expected=use.returns,
        fix=f"repair {path}, then {use.again}",
    )


def place_of(error: BaseException, path: Path) -> str:
    """Where code of the user's failed: the last line of theirs that ran; empty where none did."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    if mine or len(frames) > 1:
        frame = (mine or frames)[-1]
        return f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
    return ""


def last_line_of(error: BaseException) -> str:
    """The last line of its traceback: what it is and what it says."""
    return " ".join("".join(traceback.format_exception_only(error)[-1:]).split())


def open_command(command: str, name: str, *, seconds: float) -> Scores:
    """A program, run once for each batch, without a shell, in the folder that heed was started in.

    It reads one JSON object on a line for every answer, `{"prompt": ..., "answer": ..., "record": {...}}` in UTF-8,
    and prints one number on a line for every answer. What it writes to its standard error is shown if it fails.

    Raises:
        UserError: there is no such program; later, it fails, takes longer than `seconds`, or prints anything else.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise _wrong_command("the reward's command cannot be read", name, str(error), "quotes in pairs") from None
    if not words or shutil.which(words[0]) is None:
        file = Path(words[0]) if words else None
        found = "a file that may not be executed" if file and file.is_file() else f"no program '{words[0]}'"
        fix = (
            f"chmod +x {typed(words[0])}"
            if file and file.is_file()
            else "name a program on the PATH, or ./FILE for a file"
        )
        raise _wrong_command("the reward's command cannot be run", name, found, "a program that can be run", fix)

    def scores(prompts: Sequence[str], answers: Sequence[str], records: Sequence[Record]) -> list[float]:
        text = "".join(_as_lines(prompts, answers, records, name))
        return _numbers(_output_of(words, text, name, seconds), name, len(answers))

    return scores


def _as_lines(prompts: Sequence[str], answers: Sequence[str], records: Sequence[Record], name: str) -> list[str]:
    try:
        lines = [
            json.dumps({"prompt": prompt, "answer": answer, "record": record}, ensure_ascii=False, allow_nan=False)
            for prompt, answer, record in zip(prompts, answers, map(dict, records), strict=True)
        ]
        "".join(lines).encode()
    except (TypeError, ValueError) as error:
        raise _wrong_command(
            "a record cannot be written as JSON for the reward's command",
            name,
            str(error),
            "records of text, finite numbers, lists and objects",
            "remove that field from the data, or use a Python function: --reward FILE.py:FUNCTION",
        ) from error
    return [f"{line}\n" for line in lines]


def _output_of(words: list[str], text: str, name: str, seconds: float) -> bytes:
    """What the program prints; it and what it started are ended if it takes too long."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        expected, fix = "a program that can be run", "begin a script with a line such as #!/bin/sh, and chmod +x it"
        raise _wrong_command("the reward's command cannot be run", name, str(error), expected, fix) from error
    try:
        output, complaints = process.communicate(text.encode(), timeout=seconds)
    except BaseException as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise _wrong_command(
            "the reward's command does not end",
            name,
            f"still running after {seconds:g} seconds, at {text.count(chr(10)):,} answers",
            "a program that ends when it has read its input to the end",
        ) from None
    if process.returncode != 0:
        last = complaints.decode("utf-8", "replace").strip().splitlines()[-1:]
        how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise _wrong_command(
            "the reward's command failed", name, f"{how}; {quoted(last[0]) if last else 'no message'}", "exit status 0"
        )
    return output


def _numbers(output: bytes, name: str, count: int) -> list[float]:
    lines = output.decode("utf-8", "replace").splitlines()
    expected = f"{count:,} lines with one number on each, in the order of the answers"
    if len(lines) != count:
        beginning = f": {quoted(lines[0])} ..." if lines else ""
        found = f"{len(lines):,} lines{beginning}"
        raise _wrong_command("the reward's command printed a wrong number of lines", name, found, expected)
    numbers = []
    for at, line in enumerate(lines):
        try:
            numbers.append(float(line))
        except ValueError:
            problem = "the reward's command printed something that is no number"
            raise _wrong_command(problem, name, f"line {at + 1:,}: {quoted(line)}", expected) from None
    return numbers


def _wrong_command(problem: str, name: str, found: str, expected: str, fix: str | None = None) -> UserError:
    example = """echo '{"prompt": "a", "answer": "b", "record": {}}' |"""
    alone = f"{example} {name.partition(':')[2].strip()}   # until it prints one number; then the same heed command"
    return UserError(problem, where=f"--reward {name}", found=found, expected=expected, fix=fix or alone)

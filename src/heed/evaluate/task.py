"""A task as a file says it: where its records lie, how each becomes a question, and what is measured of the answers.

Built-in tasks are files of the same form, in `tasks/`: one of the user's own is written by copying one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.sandbox
from pydantic import Field, ValidationError

from heed.errors import UserError, typed
from heed.settings import PathText, Settings, Text, Whole, nearest

Kind = Literal["choice", "cloze", "text", "generation", "pairs"]
Written = str | int | tuple["str | int", ...]
"""a jinja text, or a list of them; one that is a single `{{ expression }}` stands for the expression's value"""

WHAT_KINDS_NEED: Mapping[Kind, tuple[tuple[str, ...], ...]] = {
    "choice": (("context", "options", "right"), ("contexts", "continuation", "right")),
    "cloze": (("context", "continuation"),),
    "text": (("text",),),
    "generation": (("context", "right"),),
    "pairs": (("sentences", "labels"), ("context", "options", "labels")),
}
"""what a shape must say, in one way or another"""

EXPRESSION = re.compile(r"\s*\{\{((?:(?!\}\}|\{%|\{\{).)*)\}\}\s*", re.DOTALL)


class Hub(Settings):
    """Where the hub has the task's data."""

    path: Text
    config: Text | None = None
    split: Text = "test"
    shots: Text | None = None
    """the split that few-shot examples come from; None: the measured one"""


class GenerationRules(Settings):
    """How an answer is asked for and read."""

    max_new_tokens: Whole = Field(256, ge=1)
    stop: tuple[Text, ...] = ()
    checker: Text = "exact"
    description: str = ""


class Shape(Settings):
    """One way in which a record of the task may be written; see WHAT_KINDS_NEED."""

    fields: tuple[Text, ...] = Field(min_length=1)
    """what such a record has; `choices.text` is inside another"""
    context: Written | None = None
    contexts: Written | None = None
    continuation: Written | None = None
    options: Written | None = None
    sentences: Written | None = None
    text: Written | None = None
    right: Written | None = None
    labels: Written | None = None
    unconditional: Written | None = None
    """the context of the unconditional score [default: none at all]"""


class Task(Settings):
    """A task file."""

    about: Text
    kind: Kind
    measures: tuple[Text, ...] = Field(min_length=1)
    """the first is the primary one"""
    shapes: tuple[Shape, ...] = Field(min_length=1)
    hub: Hub | None = None
    data: PathText | None = None
    """a file or folder of this machine; in a task of the user's own"""
    shots_from: PathText | None = None
    """where few-shot examples come from [default: the hub's split for them, or the data itself]"""
    num_shots: Whole = Field(0, ge=0)
    description: str = ""
    """what stands before everything: a jinja text, as a shape's are"""
    examples_share: Text | None = None
    """name of a group: an item's examples are of its own (a subject's questions before a question of that subject)"""
    separator: str = "\n\n"
    delimiter: str = " "
    stride: Whole | None = Field(None, ge=1)
    """of a text longer than the model: tokens that each window after the first scores, the rest of it being context
    [default: as many as the model reads, so that windows are disjoint]"""
    records: Text | None = None
    header: tuple[Text, ...] | None = None
    cluster: Written | None = None
    groups: dict[Text, Written] = Field({})
    generation: GenerationRules = GenerationRules()
    source: str = ""

    @property
    def primary(self) -> str:
        """The measure that stands for the task in an overview."""
        return self.measures[0]

    def shape_of(self, record: Mapping[str, Any]) -> Shape | None:
        """How this record is written; None: in no way that the task knows."""
        return next((shape for shape in self.shapes if all(has(record, path) for path in shape.fields)), None)


# ---- task files


def built_in_names() -> list[str]:
    """Names of the tasks that heed brings."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder_of_tasks().iterdir() if entry.name.endswith(".yaml")
    )


def built_in(name: str) -> Task:
    """A task that heed brings. Raises UserError: it has no such task."""
    known = built_in_names()
    if name not in known:
        near = nearest(name, known)
        raise UserError(
            f"there is no task '{name}'",
            where="--task",
            found=name,
            expected=f"one of {', '.join(known)}; or a task file of your own, MINE.yaml",
            fix=f"--task {near}=FILE" if near else "heed eval --list shows the tasks",
        )
    return read_task((folder_of_tasks() / f"{name}.yaml").read_text(encoding="utf-8"), f"the built-in task {name}")


def folder_of_tasks() -> Any:
    """Where the task files are that heed brings."""
    return resources.files("heed.evaluate") / "tasks"


def task_at(path: str) -> Task:
    """The task of a file of the user's; `data`, `shots_from` and a checker's file are seen from the file's folder."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the task file cannot be read",
            where=path,
            found=" ".join(str(error).split()),
            expected="a YAML file in UTF-8 that describes a task; heed eval --list shows those that heed brings",
            fix="check the name; a data file is given as --task NAME=FILE",
        ) from None
    task, folder = read_task(text, path), Path(path).parent
    beside: dict[str, object] = {
        key: str(folder / value)
        for key in ("data", "shots_from")
        if (value := getattr(task, key)) is not None and (folder / value).exists()
    }
    file, _, function = task.generation.checker.rpartition(":")
    if file.endswith(".py") and (folder / file).is_file():
        checker = f"{(folder / file).resolve()}:{function}"
        beside["generation"] = task.generation.model_copy(update={"checker": checker})
    return task.model_copy(update=beside)


def read_task(text: str, where: str) -> Task:
    """A task from its YAML. Raises UserError: it is not one."""
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _not_a_task(where, " ".join(str(error).split()), "YAML, one 'key: value' per line") from None
    if not isinstance(values, Mapping):
        raise _not_a_task(where, f"a {type(values).__name__}", "a mapping with about, kind, measures and shapes")
    try:
        task = Task.model_validate(values)
    except ValidationError as error:
        raise _explained(error, where) from None
    for number, shape in enumerate(task.shapes, 1):
        ways = WHAT_KINDS_NEED[task.kind]
        if not any(all(getattr(shape, name) is not None for name in way) for way in ways):
            written = [
                name for name in type(shape).model_fields if name != "fields" and getattr(shape, name) is not None
            ]
            raise _not_a_task(
                f"{where}, shapes, item {number}",
                f"a shape with {', '.join(written) or 'nothing'}",
                f"for kind {task.kind}: " + ", or ".join(" + ".join(way) for way in ways),
            )
        for written_as in (*(getattr(shape, name) for name in type(shape).model_fields if name != "fields"),):
            _refuse_syntax(written_as, f"{where}, shapes, item {number}")
    if task.examples_share is not None and task.examples_share not in task.groups:
        raise _not_a_task(
            f"{where}, examples_share",
            task.examples_share,
            f"one of its groups: {', '.join(task.groups) or 'it has none'}",
        )
    for written_as in (task.description, task.cluster, *task.groups.values()):
        _refuse_syntax(written_as, where)
    return task


def _refuse_syntax(written: Written | None, where: str) -> None:
    for text in written if isinstance(written, tuple) else (written,):
        try:
            if isinstance(text, str):
                _compiled(text)
        except jinja2.TemplateSyntaxError as error:
            raise _not_a_task(where, f"{text!r}: {error}", "a jinja text such as 'Question: {{ question }}'") from None


def _not_a_task(where: str, found: str, expected: str) -> UserError:
    return UserError(
        "this is not a task",
        where=where,
        found=found,
        expected=expected,
        fix="write it like one that heed brings: heed eval --list shows them and where they are",
    )


def _explained(error: ValidationError, where: str) -> UserError:
    # A misspelt key is missing under its right name, too; the misspelling is what to tell.
    details = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    path = [str(part) for part in details["loc"]]
    key, place = path[-1], ".".join(path[:-1])
    owners: dict[str, type[Settings]] = {"shapes": Shape, "hub": Hub, "generation": GenerationRules}
    owner = owners.get(path[0] if len(path) > 1 else "", Task)
    names = list(owner.model_fields)
    if details["type"] == "extra_forbidden":
        near = nearest(key, names)
        return UserError(
            f"unknown key '{key}' in a task",
            where=where + (f", {place}" if place else ""),
            found=key,
            expected=f"one of {', '.join(names)}",
            fix=f"did you mean '{near}'?" if near else "leave it out",
        )
    missing = details["type"] == "missing"
    return UserError(
        f"{'.'.join(path)} is missing" if missing else f"{'.'.join(path)} has a value it cannot have",
        where=where,
        found="nothing" if missing else repr(details["input"])[:200],
        expected=details["msg"],
        fix=f"write '{key}: ...' as the tasks that heed brings do: {typed('heed')} eval --list",
    )


# ---- what is written in a task, said of a record


def has(record: Mapping[str, Any], path: str) -> bool:
    """Whether a record has a field that is not null; `choices.text` is a field inside another."""
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            return False
        value = value[name]
    return True


def said(written: Written, record: Mapping[str, Any]) -> Any:
    """The value of what a task writes, for a record.

    Raises:
        jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError: it has none.
    """
    if isinstance(written, tuple):
        return [said(each, record) for each in written]
    if not isinstance(written, str):
        return written
    fields = {name: value for name, value in record.items() if isinstance(name, str)}
    value = _compiled(written)(**{**fields, "record": record})
    if isinstance(value, jinja2.Undefined):
        raise jinja2.UndefinedError(f"{written} is nothing that the record has")
    return value


FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""what saying something of a record may end in"""


@lru_cache(maxsize=512)
def _compiled(written: str) -> Any:
    if (single := EXPRESSION.fullmatch(written)) is not None:
        return _environment().compile_expression(single[1], undefined_to_none=False)
    return _environment().from_string(written).render


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {"split": _split, "capitalised": _capitalised, "preprocessed": _preprocessed}
    environment.filters["regex_replace"] = lambda text, pattern, by="": re.sub(pattern, by, text)
    environment.globals |= {"zip": zip, "len": len, "list": list, "ord": ord, "int": int, "str": str}
    return environment


def _split(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _preprocessed(text: str) -> str:
    """HellaSwag's clean-up of WikiHow artefacts, as lm-evaluation-harness does it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


# ---- where records lie inside a document


def records_in(value: Mapping[str, Any], path: str | None) -> Iterator[Mapping[str, Any]]:
    """The records inside a JSON document: `data[].paragraphs[].qas[]` are lists in lists, seen from the top.

    `*` is a field of any name: `data.*[]` are the records of all lists inside `data`. Of a text, `text[]` are its lines
    that are not blank. A record inherits the plain fields of what it lies in, its own coming first. A document that has
    no such list is a record itself, for the same data may come as lines.
    """
    steps = path.split(".") if path else []
    at = next((at for at, step in enumerate(steps) if _inner(value, step)), None)
    if at is None or (
        at and steps[at].startswith("*")
    ):  # where at > 0 the reader of the file has opened a list already
        yield value
    else:
        yield from _inside(value, steps[at:])


def _inside(value: Mapping[str, Any], steps: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    if not steps:
        yield value
        return
    above = {name: field for name, field in value.items() if not isinstance(field, list | Mapping)}
    for name in _inner(value, steps[0]):
        field = value[name]
        for each in field if isinstance(field, list) else field.splitlines() if isinstance(field, str) else [field]:
            if isinstance(each, Mapping):
                yield from _inside({**above, **each}, steps[1:])
            elif not isinstance(field, str) or each.strip():
                yield {**above, name: each}


def _inner(value: Mapping[str, Any], step: str) -> list[str]:
    """The fields that a step leads into: with `[]` a list or a text's lines, without it what lies in a field."""
    wanted, is_list = step.removesuffix("[]"), step.endswith("[]")
    return [
        name
        for name, field in value.items()
        if wanted in ("*", name)
        and (isinstance(field, list | str if wanted == name else list) if is_list else isinstance(field, Mapping))
    ]

"""What all settings share: a flat list of dotted keys, YAML in and out, and errors that say what to type.

A settings file and the command line both become one mapping of dotted keys (`optim.lr`), from which
`load_settings` makes a frozen object. `options` describes the same keys for the help and the docs.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUndefined

from heed.errors import UserError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails
    from yaml.nodes import Node


class Settings(BaseModel):
    """What all settings have in common: they never change, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    common: ClassVar[str] = ""
    """keys of the settings that the first screen of the help explains, with spaces between; empty: all of them"""
    renamed: ClassVar[Mapping[str, str]] = {}
    """former keys, which files and flags may still use, each with the present one"""
    former_switches: ClassVar[frozenset[str]] = frozenset()
    """those of them whose flags had no value: they still need none, and `--no-` before them still means false"""


AnySettings = TypeVar("AnySettings", bound=Settings)


def _not_a_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_not_a_truth_value)]
Number = Annotated[float, BeforeValidator(_not_a_truth_value)]
Text = Annotated[str, Field(min_length=1)]


def _from_home(path: str) -> str:
    """`~` and `~user` at the start of a path are the home folder, wherever a shell has not seen to it."""
    if path.startswith("~") and (expanded := os.path.expanduser(path)).startswith("~"):
        raise ValueError(f"a path; nobody here is called {expanded.partition('/')[0][1:]}")
    return os.path.expanduser(path)


PathText = Annotated[str, Field(min_length=1), AfterValidator(_from_home)]
"""a file or folder of this machine, or what a name of one may stand for: a hub name, a template's name"""


Kind = Literal["text", "whole", "number", "choice", "switch", "list", "pairs"]
"""what the value of an option is; `pairs` are written NAME=VALUE, one or several after the flag"""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting, as the command line, the help and the docs know it."""

    key: str
    """dotted, as in a YAML file: `optim.lr`"""
    section: str
    """title of the group it stands in"""
    help: str
    kind: Kind
    choices: tuple[str, ...]
    default: object
    required: bool

    @property
    def flag(self) -> str:
        return flag(self.key)


def flag(key: str) -> str:
    """What a dotted key is called on the command line."""
    return "--" + key.replace("_", "-")


def options(cls: type[Settings]) -> list[Option]:
    """Every leaf setting of `cls`, in the order they are written."""
    return list(_options(cls, prefix="", section="Options"))


def _options(cls: type[Settings], *, prefix: str, section: str) -> Iterator[Option]:
    # A field's title opens a group of the help that lasts until the next one.
    for name, field in cls.model_fields.items():
        key = prefix + (field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from _options(inner, prefix=f"{key}.", section=(inner.__doc__ or key).splitlines()[0])
        else:
            section = field.title or section
            kind, choices = _kind(field)
            default = None if field.default is PydanticUndefined else field.default
            yield Option(key, section, field.description or "", kind, choices, default, field.is_required())


def _kind(
    field: FieldInfo,
) -> tuple[Literal["text", "whole", "number", "choice", "switch", "list", "pairs"], tuple[str, ...]]:
    members = list(_members(field.annotation))
    choices = tuple(str(value) for member in members if get_origin(member) is Literal for value in get_args(member))
    if bool in members:
        return "switch", ()
    if float in members:
        return "number", choices
    if int in members:
        return "whole", choices
    if choices:
        return "choice", choices
    origins = {get_origin(member) for member in members}
    if dict in origins:
        return "pairs", ()
    return ("list", ()) if tuple in origins else ("text", ())


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, without their annotations; a type that is none is its own alternative."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (None, Literal, tuple, dict):
        yield annotation
    else:
        for member in get_args(annotation):
            yield from _members(member)


def dump(settings: Settings) -> str:
    """The settings as YAML text that `load_settings` reads back to an equal object."""
    import yaml

    values = settings.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)


def load_settings(cls: type[AnySettings], yaml_path: str | Path | None, overrides: Mapping[str, object]) -> AnySettings:
    """Settings from a YAML file, if there is one, with dotted keys from the command line put over them.

    A flag for `steps` takes the place of the file's `epochs`, and the other way round.
    """
    in_file = flat(cls, _read_yaml(Path(yaml_path)), str(yaml_path)) if yaml_path is not None else {}
    overrides = _as_called_now(cls, overrides, "command line")
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if overrides.get(one) is not None and other not in overrides:
            in_file.pop(other, None)
    places = {key: f"{yaml_path}, {key}" for key in in_file} | {key: f"command line, {flag(key)}" for key in overrides}
    values = {**in_file, **overrides}

    known = [option.key for option in options(cls)]
    for key, value in values.items():
        if key not in known:
            raise unknown_option(key, known, value=value, where=places[key])
    try:
        return cls.model_validate(_nested(values))
    except ValidationError as error:
        details = error.errors()[0]
        inner = details.get("ctx", {}).get("error")
        if isinstance(inner, UserError):
            raise inner from None
        place = "command line" if yaml_path is None else f"{yaml_path} and command line"
        raise _explained(cls, details, places, place) from None


def unknown_option(key: str, known: Sequence[str], *, value: object, where: str, as_flag: bool = False) -> UserError:
    """The error for a key that no setting has, with the nearest that one has."""
    spelt = flag if as_flag else str
    near = nearest(key, known)
    section = key.rpartition(".")[0] + "."
    closest = [name for name in known if name.startswith(section)] or known
    return UserError(
        f"unknown option '{spelt(key)}'",
        where=where,
        found=spelt(key) if value is None else f"{spelt(key)} with the value {value!r}",
        expected="one of " + ", ".join(spelt(name) for name in closest),
        fix=f"did you mean '{spelt(near)}'?" if near else "leave it out",
    )


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` is most likely a misspelling of; a dotted one also by its last part."""
    by_spelling = {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    plain = word.lstrip("-").replace("-", "_").lower()
    found = difflib.get_close_matches(plain, by_spelling, n=1, cutoff=0.6) or difflib.get_close_matches(
        plain.rpartition(".")[2], by_spelling, n=1, cutoff=0.6
    )
    return by_spelling[found[0]] if found else None


def _read_yaml(path: Path) -> Mapping[object, object]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.compose(text, Loader=yaml.SafeLoader)
        twice = _repeated_key(document) if document is not None else None
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            "the settings file cannot be read",
            where=str(path),
            found=" ".join(str(error).split()),
            expected="a YAML file in UTF-8, one 'key: value' per line",
            fix="check the name and that line; data files are given with --data",
        ) from None
    if twice is not None or not isinstance(values if values is not None else {}, Mapping):
        raise UserError(
            "the settings file is not a mapping with each key once",
            where=str(path),
            found=f"the key '{twice}' twice" if twice is not None else f"a {type(values).__name__}",
            expected="each key once, one 'key: value' per line",
            fix=f"remove one '{twice}'" if twice is not None else "write lines such as 'model: path/to/model'",
        )
    return values or {}


def _repeated_key(node: Node) -> str | None:
    """A key that stands twice in one mapping; the YAML reader would silently keep the last."""
    from yaml.nodes import MappingNode, SequenceNode

    children: list[Node] = []
    if isinstance(node, MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                return key
        children = [value for _, value in node.value]
    elif isinstance(node, SequenceNode):
        children = node.value
    return next((twice for child in children if (twice := _repeated_key(child)) is not None), None)


def flat(cls: type[Settings], values: Mapping[Any, object], path: str, *, prefix: str = "") -> dict[str, object]:
    """Nested sections as dotted keys; `optim.lr` itself may be written, too. `path` says where the values stand."""
    sections = {
        field.alias or name: field.annotation
        for name, field in cls.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    dotted: dict[str, object] = {}
    for key, value in values.items():
        inner = sections.get(str(key))
        if inner is None:
            found = {f"{prefix}{key}": value}
        elif isinstance(value, Mapping) or value is None:
            found = flat(inner, value or {}, path, prefix=f"{prefix}{key}.")
        else:
            names = [option.key for option in _options(inner, prefix="", section="")]
            raise UserError(
                f"'{key}' is a section, not a value",
                where=path,
                found=f"{key}: {value}",
                expected=f"below it one or more of {', '.join(names)}",
                fix=f"write '{prefix}{key}.{names[0]}: {value}' if that is what was meant",
            )
        for again in dotted.keys() & found.keys():
            raise UserError(
                f"'{again}' is given twice",
                where=path,
                found=f"{again} as {dotted[again]!r} and as {found[again]!r}",
                expected="each setting once",
                fix=f"remove one '{again}'",
            )
        dotted |= found
    return dotted if prefix else _as_called_now(cls, dotted, path)


def _as_called_now(cls: type[Settings], values: Mapping[str, object], where: str) -> dict[str, object]:
    """The same values, those of former keys under the present ones."""
    for former, present in cls.renamed.items():
        if former in values and present in values:
            raise UserError(
                f"'{present}' is given twice",
                where=where,
                found=f"{present}, and {former}, as it was called before",
                expected="each setting once",
                fix=f"remove '{former}'",
            )
    return {cls.renamed.get(key, key): value for key, value in values.items()}


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *above, name = key.split(".")
        inside = nested
        for part in above:
            inside = inside.setdefault(part, {})
        inside[name] = value
    return nested


def _explained(cls: type[Settings], details: ErrorDetails, places: Mapping[str, str], elsewhere: str) -> UserError:
    """What pydantic found, in the five parts of a `UserError`."""
    by_key = {option.key: option for option in options(cls)}
    path = [str(part) for part in details["loc"]]
    key = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in by_key), ".".join(path))
    option = by_key.get(key)
    where, help_text, name = places.get(key, elsewhere), option.help if option is not None else key, key
    item = path[len(key.split(".")) :]
    if item and item[0].isdigit():
        fields = _fields_of_items(cls, key)
        where += f", item {int(item[0]) + 1}"
        name = item[1] if len(item) > 1 else ""
        if details["type"] == "extra_forbidden":
            return unknown_option(name, list(fields), value=details["input"], where=where)
        where += f", {name}" if name else ""
        help_text = fields[name].description or name if name in fields else help_text
        fix = f"give {name or flag(key)} another value, or leave it out"
        if details["type"] == "literal_error" and not name:  # the first of the values that it can have
            fix = f"{flag(key)} " + str(details["ctx"]["expected"]).split("'")[1]
        if details["type"] == "missing":
            fix = f"write it as {name}: {name.upper()}"
    elif details["type"] == "missing":
        fix = f"add {flag(key)} {key.upper()}, or '{key}: {key.upper()}' in a settings file"
    else:
        default = None if option is None or option.required else option.default
        if default is None and details["type"] == "literal_error":  # the first of the values that it can have
            default = str(details["ctx"]["expected"]).split("'")[1]
        fix = f"{flag(key)} {default}" if default not in (None, (), {}, "") else f"give {flag(key)} another value"
    missing = details["type"] == "missing"
    told = TOLD.get(details["type"], details["msg"].removeprefix("Value error, ").removeprefix("Input should be "))
    return UserError(
        f"{key} is missing" if missing else f"{key} has a value it cannot have",
        where=where,
        found="nothing" if missing else repr(details["input"]),
        expected=f"{told} ({help_text})" if told else help_text,
        fix=fix,
    )


TOLD = {
    "missing": "",
    "string_pattern_mismatch": "",
    "too_short": "at least one",
    "tuple_type": "a path, a list of paths, or a list of mappings with path, weight, cap, wordings and columns",
    "model_type": "a path, or a mapping with path, weight, cap, wordings and columns",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "date_from_datetime_parsing": "a date",
}
"""what was expected, in plainer words than pydantic's, by its error type"""


def _fields_of_items(cls: type[Settings], key: str) -> dict[str, FieldInfo]:
    """Fields that the items of a list setting may have."""
    for name, field in cls.model_fields.items():
        for member in _members(field.annotation) if key == (field.alias or name) else ():
            item = get_args(member)[0] if get_origin(member) is tuple else None
            if isinstance(item, type) and issubclass(item, Settings):
                return dict(item.model_fields)
    return {}

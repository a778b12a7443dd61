"""Whether a command goes on with the run that it finds in its folder: a run is what it names.

What decides a run's result must be as it was: settings, and the content of what they name. What does not may change.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heed import files
from heed.errors import UserError, typed
from heed.settings import Settings

CONFIG, CONTENT, LOCK, STATE = "config.yaml", "content.json", ".lock", "state.json"
FREE = {
    "out": "exactly",
    "track": "exactly",
    "save_every": "exactly",
    "keep_checkpoints": "exactly",
    "keep_states": "exactly",
    "eval_every": "exactly",
    "eval_limit": "exactly",
    "trust_remote_code": "exactly",
    "activations": "up to rounding",
    "max_tokens": "up to rounding",
    "share_prefixes": "up to rounding",
    "device": "up to rounding",
    "parallel": "up to rounding",
    "offload": "up to rounding",
    "sequence_parallel": "up to rounding",
}
"""settings that may change when a run goes on, each with how well the result is kept"""
FREE_WITHIN = {"rollout": ("url", "start", "python", "words", "patience", "max_gap")}
"""settings in sections that may change, the result staying the same up to rounding"""
MEASURING = ("eval_every", "eval_limit")
CHOOSING = ("keep_best", "stop_early")
"""settings with which measurements decide on the result, so that those in `MEASURING` may not change"""
LENGTH = ("epochs", "steps")
NAMES = ("model", "data", "eval_data", "template", "reward", "ptx")
"""settings that name files"""

ReadConfig = Callable[[Path], str]
"""the settings of a `config.yaml`, as YAML in which every key of today stands"""


@dataclass(frozen=True, slots=True)
class Found:
    """What an existing run's settings say to a command that would go on with it."""

    is_run: bool
    notes: tuple[str, ...] = ()
    is_changed: bool = False
    """whether `config.yaml` is to be written anew"""


def settle(folder: Path, config_yaml: str, read: ReadConfig | None = None) -> Found:
    """Compare a command's settings with those of the run in its folder.

    Args:
        config_yaml: the command's.
        read: reads the run's, which may be of an older release; as they stand, where there is none.

    Raises:
        UserError: the folder is not absent, as good as empty, or a run that these settings go on with.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(
            "the output folder is a file",
            where=str(folder),
            found="a file",
            expected="a folder, or a name that is free",
            fix=f"--out {typed(free_name(folder))}",
        )
    as_written = read_config(folder)
    if as_written is None:
        _refuse_other_things(folder)
        return Found(is_run=False)
    theirs = as_written if read is None else yaml.safe_load(read(folder / CONFIG))
    ours = yaml.safe_load(config_yaml)
    there = Path(str(contents_of(folder).get("started_in", ".")))
    difference = first_difference(_deciding(ours), _deciding(theirs), there=there)
    if difference is not None:
        _refuse(folder, *difference)
    missing = {name: value for name, value in leaves(theirs).items() if name not in leaves(as_written)}
    notes = []
    if read is not None and missing:
        told = ", ".join(f"{name} {_told(value)}" for name, value in missing.items() if name not in FREE)
        notes += [f"settings that are newer than this run are at their defaults: {told}"] if told else []
    for name, how in FREE.items():
        ours_now, theirs_then = ours.get(name), theirs.get(name)
        if name != "out" and ours_now != theirs_then:
            notes.append(
                f"going on with {name} {_told(ours_now)} instead of {_told(theirs_then)}: the result is the same {how}"
            )
    return Found(True, tuple(notes), is_changed=ours != as_written)


def keep_content(folder: Path, content: Mapping[str, str]) -> None:
    """Write down the content of what a run's settings name, or compare with what was written.

    Args:
        content: a fingerprint by what it is of, such as `chat template`.

    Raises:
        UserError: something has another content than when the run began.
    """
    known = contents_of(folder)
    for name, mark in content.items():
        if known.get(name, mark) != mark:
            raise UserError(
                f"the {name} has changed since this run began",
                where=str(folder / CONTENT),
                found=f"content {mark[:12]}",
                expected=f"content {known[name][:12]}, as it was",
                fix=f"put the {name} back as it was, or start a new run: --out {typed(free_name(folder))}",
            )
    now = {"started_in": str(Path.cwd()), **content, **known}
    if now != known:
        files.write_json(folder / CONTENT, now)


def contents_of(folder: Path) -> dict[str, str]:
    """What `keep_content` has written so far."""
    path = folder / CONTENT
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def read_config(out: str | Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None where there is no run, as under a name that no folder can have."""
    path = Path(out) / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_settings(path, str(error).splitlines()[0]) from error
    if not isinstance(config, dict):
        raise _not_settings(path, f"a {type(config).__name__}")
    return config


def first_difference(ours: Any, theirs: Any, name: str = "", *, there: Path = Path()) -> tuple[str, Any, Any] | None:
    """The dotted name of the first setting in which two configurations differ, with both values.

    Args:
        there: the folder from which their relative paths are meant. Two names of one file are no difference.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        pairs = [
            (f"{name}.{key}".lstrip("."), ours.get(key, "(not set)"), theirs.get(key, "(not set)"))
            for key in dict.fromkeys([*ours, *theirs])
        ]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)
        return None if same or _is_one_file(ours, theirs, there) else (name, ours, theirs)
    found = (first_difference(a, b, key, there=there) for key, a, b in pairs)
    return next((each for each in found if each is not None), None)


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found |= inner
    return found


def free_name(folder: Path) -> Path:
    """A folder beside this one that does not exist yet."""
    folder = Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder
    number = 2
    while (free := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return free


def deciding(settings: Settings) -> str:
    """The settings that prepared data may depend on, as text; not the names of things, whose content decides."""
    config = _deciding(settings.model_dump(mode="json", by_alias=True))
    return json.dumps({name: value for name, value in config.items() if name not in NAMES}, sort_keys=True)


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    measurements_decide = any(config.get(name) for name in CHOOSING)
    decides = MEASURING if measurements_decide else ()
    kept = {name: value for name, value in config.items() if name not in FREE or name in decides}
    for section, free in FREE_WITHIN.items():
        if section in kept:
            kept[section] = {name: value for name, value in kept[section].items() if name not in free}
    return kept


def _is_one_file(ours: Any, theirs: Any, there: Path) -> bool:
    if not (isinstance(ours, str) and isinstance(theirs, str)):
        return False
    here, other = Path(ours).expanduser(), there / Path(theirs).expanduser()
    try:
        return here.exists() and other.exists() and here.samefile(other)
    except OSError:  # a text too long for a file's name
        return False


def _told(value: object) -> str:
    return "(not set)" if value is None else str(value)


def _refuse_other_things(folder: Path) -> None:
    foreign = sorted(p.name for p in folder.glob("*") if p.name != LOCK and not p.name.startswith(files.TEMPORARY))
    if foreign:
        raise UserError(
            "the output folder is not empty and is not a run",
            where=str(folder),
            found=", ".join(foreign[:5]) + (f" and {len(foreign) - 5:,} more" if len(foreign) > 5 else ""),
            expected=f"an empty folder, a new one, or a run (a folder with {CONFIG})",
            fix=f"--out {typed(free_name(folder))}",
        )


def _refuse(folder: Path, name: str, ours: Any, theirs: Any) -> None:
    if name in LENGTH and (folder / STATE).exists():
        raise UserError(
            "this run is finished, and its learning rate was planned for its length: it cannot be made longer",
            where=str(folder / CONFIG),
            found=f"{name} = {ours} in these settings",
            expected=f"{name} = {theirs}, as that run was started",
            fix=f"--model {typed(folder)} --out {typed(free_name(folder))} goes on from its model, as a new run",
        )
    raise UserError(
        "the output folder belongs to another run",
        where=str(folder / CONFIG),
        found=f"{name} = {ours} in these settings",
        expected=f"{name} = {theirs}, as that run was started",
        fix=f"--out {typed(free_name(folder))} for a new run, or that run's settings to go on with it",
    )


def _not_settings(path: Path, found: str) -> UserError:
    return UserError(
        "the settings of the run in the output folder cannot be read",
        where=str(path),
        found=found,
        expected="YAML of the form name: value",
        fix=f"--out {typed(free_name(path.parent))}",
    )

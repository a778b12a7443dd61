"""A run is a folder: settings, numbers, checkpoints, the tuned model. A killed run goes on from its last checkpoint.

out/config.yaml        the settings; they load back
out/environment.json   versions, threads, instruction set
out/metrics.jsonl      one line per step and phase
out/samples.jsonl      what the model said on the way
out/checkpoints/       step-000100/: the model's own files, training_state.pt, random_states.pt
out/state.json         written last, when the run is finished and the model's files are in `out`
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import yaml

from heed.dist.world import World
from heed.errors import UserError, typed
from heed.train import files, metrics
from heed.train.environment import random_states, set_random_states

ALONE = World()
CONFIG, ENVIRONMENT, METRICS, SAMPLES = "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl"
CHECKPOINTS, STATE, LOCK = "checkpoints", "state.json", ".lock"
OWN_NAMES = {CONFIG, ENVIRONMENT, METRICS, SAMPLES, CHECKPOINTS, STATE, LOCK}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""how network file systems say that they do not lock"""
TRAINING_STATE, RANDOM_STATES, CHECKPOINT_MARKER = "training_state.pt", "random_states.pt", "checkpoint.json"
SaveModel = Callable[[Path], None]
"""writes a model's files, as `from_pretrained` reads them, into an existing empty folder"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on the disk. Its folder holds the model's files."""

    step: int
    folder: Path

    def state(self, device: str | torch.device = "cpu") -> dict[str, Any]:
        """What `Run.checkpoint` was given."""
        state: dict[str, Any] = self._load(TRAINING_STATE, device)
        return state

    def restore_random_states(self, world: World = ALONE) -> None:
        """Put this process's random generators where they were. A process that was not there keeps its own."""
        states = self._load(RANDOM_STATES, "cpu")
        if world.rank < len(states):
            set_random_states(states[world.rank])

    def _load(self, name: str, device: str | torch.device) -> Any:
        path = self.folder / name
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise UserError(
                "a checkpoint cannot be read",
                where=str(path),
                found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                expected="the file that heed wrote",
                fix=f"rm -r {typed(self.folder)}, then start the same command again: it goes on from the one before",
            ) from error


@dataclass(slots=True, eq=False)
class Run:
    """An open run folder. Every process calls the same methods; only the first one writes.

    As a context manager it gives the lock back at the end. A run that is stopped by a `UserError` before anything
    was logged in a folder that was new leaves no folder behind.
    """

    folder: Path
    world: World
    keep_checkpoints: int
    finished: bool
    """whether the run had reached its end when it was opened; then there is nothing to do"""
    notes: tuple[str, ...]
    """lines the user should read: finished already, or resumed under other versions"""
    is_new: bool = True
    on_log: Callable[[int, str, Mapping[str, float]], None] | None = None
    """is told every line of numbers, on the first process, once it is in `metrics.jsonl`"""
    _lock: int | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        untouched = self.is_new and not any((self.folder / name).exists() for name in (METRICS, CHECKPOINTS))
        if isinstance(error, UserError) and untouched and self.world.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def log(self, step: int, phase: str, **numbers: float) -> None:
        """Add a line to `metrics.jsonl`: a step's numbers come before its checkpoint, or a resumed run lacks them."""
        if self.world.is_first:
            files.append_line(self.folder / METRICS, metrics.metrics_line(step, phase, numbers))
            if self.on_log is not None:
                self.on_log(step, phase, numbers)

    def log_sample(self, step: int, sample: Mapping[str, str | float]) -> None:
        """Add a line to `samples.jsonl`."""
        if self.world.is_first:
            line = json.dumps({"step": step, **sample}, ensure_ascii=False, allow_nan=False)
            files.append_line(self.folder / SAMPLES, line)

    def rewind(self, step: int) -> int:
        """Drop the lines of metrics and samples after a step (-1: all), and say how many lines of metrics that were."""

        def work() -> int:
            metrics.drop_lines_after(self.folder / SAMPLES, step)
            return metrics.drop_lines_after(self.folder / METRICS, step)

        return self.world.on_first(work)

    def checkpoint(self, step: int, save_model: SaveModel, state: dict[str, Any]) -> Checkpoint:
        """Write a checkpoint, whole or not at all, then remove all but the newest `keep_checkpoints`.

        Args:
            step: the last one taken.
            save_model: called on the first process.
            state: what training needs besides the model: tensors, numbers, strings, and lists and dicts of them.
                The random generators of every process are kept without being named.
        """
        states_of_ranks = self.world.gather_objects(random_states())
        folder = self.folder / CHECKPOINTS / f"step-{step:06d}"

        def work() -> None:
            with files.new_folder(folder) as unfinished:
                save_model(unfinished)
                _save(unfinished / TRAINING_STATE, state)
                _save(unfinished / RANDOM_STATES, states_of_ranks)
                sizes = {str(path.relative_to(unfinished)): path.stat().st_size for path in _files_in(unfinished)}
                files.write_json(unfinished / CHECKPOINT_MARKER, {"step": step, "sizes": sizes})
            self._prune()

        self.world.on_first(work)
        return Checkpoint(step, folder)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint. Those that a kill or a partial copy left incomplete are removed."""

        def work() -> Checkpoint | None:
            self._prune()
            return next(reversed(_checkpoints(self.folder)), None)

        return self.world.on_first(work)

    def _prune(self) -> None:
        """Keep the newest complete checkpoints and nothing else."""
        kept = [checkpoint.folder for checkpoint in _checkpoints(self.folder)[-self.keep_checkpoints :]]
        for folder in sorted((self.folder / CHECKPOINTS).glob("step-*")):
            if folder not in kept:
                files.remove_folder(folder)

    def finish(self, save_model: SaveModel) -> None:
        """Put the tuned model's files into the run folder itself, and then mark the run as finished."""

        def work() -> None:
            unfinished = self.folder / f"{files.TEMPORARY}model"
            with files.writing(self.folder):
                unfinished.mkdir()
                try:
                    save_model(unfinished)
                    files.sync_tree(unfinished)
                    produced = sorted(unfinished.iterdir())
                    if taken := OWN_NAMES & {path.name for path in produced}:
                        raise ValueError(f"save_model wrote {sorted(taken)}, names that belong to the run")
                    for path in produced:
                        files.remove_folder(self.folder / path.name)
                        path.replace(self.folder / path.name)
                finally:
                    files.remove(unfinished)
                files.sync_folder(self.folder)
            files.write_json(self.folder / STATE, {"finished": True})

        self.world.on_first(work)


def open_run(
    out: str | Path,
    config_yaml: str,
    environment: Mapping[str, Any],
    *,
    keep_checkpoints: int = 1,
    world: World = ALONE,
) -> Run:
    """Make a run folder, or open the one that is there if its settings are these.

    Args:
        out: the folder. A setting named `out` is not compared: a folder may be named in more than one way.
        config_yaml: all settings, resolved, as they are to stand in `config.yaml`.
        environment: from `environment()`. A change is allowed and said in `Run.notes`.
        keep_checkpoints: how many to keep, at least 1.
        world: every process opens the run; only the first writes.
    """
    folder = Path(out)
    if keep_checkpoints < 1:
        raise ValueError(f"keep_checkpoints is {keep_checkpoints}")
    lock: int | None = None

    def work() -> tuple[bool, bool, tuple[str, ...]]:
        nonlocal lock
        _refuse_other_run(folder, config_yaml)  # before anything is written, even the lock
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock, lock_notes = _take_lock(folder)
        is_new = not (folder / CONFIG).exists()
        _refuse_other_run(folder, config_yaml)  # again: another process may have started its run meanwhile
        files.remove_stale(folder)
        files.remove_stale(folder / CHECKPOINTS)
        if is_new:
            files.write_text(folder / CONFIG, config_yaml)
        finished = (folder / STATE).exists()
        notes = [f"{folder} is finished: there is nothing left to do"] if finished else []
        return is_new, finished, (*lock_notes, *notes, *_note_environment(folder, environment, finished=finished))

    try:
        is_new, finished, notes = world.on_first(work)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    return Run(folder, world, keep_checkpoints, finished, notes, is_new, _lock=lock)


def read_config(out: str | Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None where there is no run."""
    path = Path(out) / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_settings(path, str(error).splitlines()[0]) from error
    if not isinstance(config, dict):
        raise _not_settings(path, f"a {type(config).__name__}")
    return config


def first_difference(ours: Any, theirs: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The dotted name of the first setting in which two configurations differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        pairs = [
            (f"{name}.{key}".lstrip("."), ours.get(key, "(not set)"), theirs.get(key, "(not set)"))
            for key in dict.fromkeys([*ours, *theirs])
        ]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)
        return None if same else (name, ours, theirs)
    return next((found for key, a, b in pairs if (found := first_difference(a, b, key)) is not None), None)


def _refuse_other_run(folder: Path, config_yaml: str) -> None:
    """Raise unless the folder is absent, as good as empty, or a run with these settings."""
    if folder.exists() and not folder.is_dir():
        raise UserError(
            "the output folder is a file",
            where=str(folder),
            found="a file",
            expected="a folder, or a name that is free",
            fix=f"--out {typed(_free_name(folder))}",
        )
    theirs = read_config(folder)
    if theirs is None:
        foreign = sorted(p.name for p in folder.glob("*") if p.name != LOCK and not p.name.startswith(files.TEMPORARY))
        if foreign:
            raise UserError(
                "the output folder is not empty and is not a run",
                where=str(folder),
                found=", ".join(foreign[:5]) + (f" and {len(foreign) - 5:,} more" if len(foreign) > 5 else ""),
                expected=f"an empty folder, a new one, or a run (a folder with {CONFIG})",
                fix=f"--out {typed(_free_name(folder))}",
            )
        return
    ours: dict[str, Any] = yaml.safe_load(config_yaml)
    difference = first_difference(_without_out(ours), _without_out(theirs))
    if difference is not None:
        name, mine, its = difference
        raise UserError(
            "the output folder belongs to another run",
            where=str(folder / CONFIG),
            found=f"{name} = {mine} in these settings",
            expected=f"{name} = {its}, as that run was started",
            fix=f"--out {typed(_free_name(folder))} for a new run, or that run's settings to go on with it",
        )


def _without_out(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "out"}


def _free_name(folder: Path) -> Path:
    number = 2
    while (free := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return free


def _not_settings(path: Path, found: str) -> UserError:
    return UserError(
        "the settings of the run in the output folder cannot be read",
        where=str(path),
        found=found,
        expected="YAML of the form name: value",
        fix=f"--out {typed(_free_name(path.parent))}",
    )


def _take_lock(folder: Path) -> tuple[int, list[str]]:
    """Hold the folder until this process ends or closes what is returned, so that two never write one run."""
    notes = []
    fcntl: Any = importlib.import_module("fcntl")  # not on every system, and the module is to be importable there
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 100).decode(errors="replace").strip()
        os.close(descriptor)
        raise UserError(
            "another process is writing this run",
            where=str(folder),
            found=f"process {holder} holds {folder / LOCK}",
            expected="one process at a time",
            fix=f"wait for it, or stop it (kill {holder}), or write elsewhere: --out {typed(_free_name(folder))}",
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        notes = [f"the file system of {folder} has no locks: do not start a second process on this run"]
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor, notes


def _note_environment(folder: Path, environment: Mapping[str, Any], *, finished: bool) -> list[str]:
    """Keep the first environment; add to it, and say in one line, what has changed since."""
    path = folder / ENVIRONMENT
    if not path.exists():
        files.write_json(path, dict(environment))
        return []
    first = json.loads(path.read_text(encoding="utf-8"))
    changes = {key: [first.get(key), value] for key, value in environment.items() if first.get(key) != value}
    if finished or not changes:
        return []
    resumed = first.setdefault("resumed", [])
    now = {key: value for key, (_, value) in changes.items()}
    if now not in resumed:
        resumed.append(now)
        files.write_json(path, first)
    told = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in changes.items())
    return [f"resumed where {told}: the weights may differ in their last bits from those of a run in one piece"]


def _save(path: Path, value: Any) -> None:
    """torch.save through a Python file: given a name, it says of a full disk only that a position is unexpected."""
    with path.open("wb") as file:
        torch.save(value, file)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _checkpoints(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first."""
    named = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in (run / CHECKPOINTS).glob("step-*")]
    found = [Checkpoint(int(match[1]), path) for match, path in named if match and _is_complete(path)]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file is there in the size it was written in."""
    try:
        marker = json.loads((checkpoint / CHECKPOINT_MARKER).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in marker["sizes"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, AttributeError):
        return False

"""A run is a folder: settings, numbers, checkpoints, the tuned model. A killed run goes on from its last checkpoint.

out/config.yaml        the settings; they load back
out/environment.json   versions, threads, instruction set
out/metrics.jsonl      one line per step and phase
out/samples.jsonl      what the model said on the way
out/checkpoints/       step-000100/: see checkpoint.py
out/state.json         written last, when the run is finished and the model's files are in `out`
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from heed import files
from heed.dist.shards import save_shards, take_out
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.train import metrics
from heed.train.checkpoint import (
    ALONE,
    CHECKPOINTS,
    RANDOM_STATES,
    SHARDS,
    TRAINING_STATE,
    Checkpoint,
    damage_of,
    mark,
    named_checkpoints,
    save_value,
)
from heed.train.environment import random_states
from heed.train.same_run import CONFIG, CONTENT, LOCK, STATE, ReadConfig, free_name, keep_content, settle

ENVIRONMENT, METRICS, SAMPLES = "environment.json", "metrics.jsonl", "samples.jsonl"
OWN_NAMES = {CONFIG, CONTENT, ENVIRONMENT, METRICS, SAMPLES, CHECKPOINTS, STATE, LOCK}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""how network file systems say that they do not lock"""
SaveModel = Callable[[Path], None]
"""writes a model's files, as `from_pretrained` reads them, into an existing empty folder"""


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
    keep_states: bool = True
    """whether checkpoints keep what only training needs once the run is finished"""
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
            state: what training needs besides the model: tensors, numbers, strings, and lists and dicts of them. Of
                tensors that are divided among processes each writes its own part.
                The random generators of every process are kept without being named.
        """
        states_of_ranks = self.world.gather_objects(random_states())
        folder = self.folder / CHECKPOINTS / f"step-{step:06d}"

        rest, divided = take_out(state)
        with ExitStack() as stack:  # which on the first process holds the folder, and removes it after an error
            unfinished = self.world.on_first(lambda: stack.enter_context(files.new_folder(folder)))
            if divided:
                save_shards(self.world, unfinished / SHARDS, divided)

            def work() -> None:
                with files.writing(folder):
                    save_model(unfinished)
                    save_value(unfinished / TRAINING_STATE, rest)
                    save_value(unfinished / RANDOM_STATES, states_of_ranks)
                    mark(unfinished, step)
                    stack.close()
                self._prune()

            self.world.on_first(work)
        return Checkpoint(step, folder)

    def keep_content(self, content: Mapping[str, str]) -> None:
        """Hold the run to the content of what its settings name; see `same_run.keep_content`."""
        self.world.on_first(lambda: keep_content(self.folder, content))

    def latest(self, say: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
        """The newest checkpoint that is whole, byte for byte. Damaged ones are left for the one before, and said."""

        def work() -> tuple[Checkpoint | None, list[str]]:
            notes, found = [], None
            for checkpoint in reversed(named_checkpoints(self.folder)):
                damage = damage_of(checkpoint.folder, found is None)
                if damage is None:
                    found = found or checkpoint
                else:
                    notes.append(f"{checkpoint.folder} is damaged and is left: {damage}")
                    files.remove_folder(checkpoint.folder)
            if notes and found is None:
                notes.append("no whole checkpoint is left: the run starts from its beginning")
            self._prune()
            return found, notes

        found, notes = self.world.on_first(work)
        for note in notes:
            say(note)
        return found

    def _prune(self) -> None:
        """Keep the newest complete checkpoints and nothing else."""
        whole = [each.folder for each in named_checkpoints(self.folder) if damage_of(each.folder, False) is None]
        for folder in sorted((self.folder / CHECKPOINTS).glob("step-*")):
            if folder not in whole[-self.keep_checkpoints :]:
                files.remove_folder(folder)

    def finish(self, save_model: SaveModel) -> int:
        """Put the tuned model's files into the run folder itself, and then mark the run as finished.

        Returns:
            bytes of training states that were dropped from the checkpoints; their models stay.
        """

        def work() -> int:
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
            return 0 if self.keep_states else self._drop_states()

        return self.world.on_first(work)

    def _drop_states(self) -> int:
        """Remove what only training needs from the checkpoints, and say how many bytes that were."""
        dropped = 0
        for checkpoint in named_checkpoints(self.folder):
            shards = sorted((checkpoint.folder / SHARDS).glob("*"))
            for path in (checkpoint.folder / TRAINING_STATE, checkpoint.folder / RANDOM_STATES, *shards):
                if path.exists():
                    dropped += path.stat().st_size
                    path.unlink()
            files.remove_folder(checkpoint.folder / SHARDS)
        return dropped


def open_run(
    out: str | Path,
    config_yaml: str,
    environment: Mapping[str, Any],
    *,
    keep_checkpoints: int = 1,
    keep_states: bool = True,
    world: World = ALONE,
    read: ReadConfig | None = None,
) -> Run:
    """Make a run folder, or open the one that is there if its settings are these.

    Args:
        out: the folder.
        config_yaml: all settings, resolved, as they are to stand in `config.yaml`. Those in `same_run.FREE` may differ
            from the run's own, and take their place.
        environment: from `environment()`. A change is allowed and said in `Run.notes`.
        keep_checkpoints: how many to keep, at least 1.
        keep_states: whether checkpoints keep what only training needs once the run is finished.
        world: every process opens the run; only the first writes.
        read: see `settle`.
    """
    folder = Path(out)
    if keep_checkpoints < 1:
        raise ValueError(f"keep_checkpoints is {keep_checkpoints}")
    lock: int | None = None

    def work() -> tuple[bool, bool, tuple[str, ...]]:
        nonlocal lock
        with files.writing(folder):
            settle(folder, config_yaml, read)  # before anything is written, even the lock
            files.make_folder(folder)
            lock, lock_notes = _take_lock(folder)
        found = settle(folder, config_yaml, read)  # again: another process may have started its run meanwhile
        files.remove_stale(folder)
        finished = (folder / STATE).exists()
        if not finished and (found.is_changed or not found.is_run):
            files.write_text(folder / CONFIG, config_yaml)
        notes = [f"{folder} is finished: there is nothing left to do"] if finished else found.notes
        told = (*lock_notes, *notes, *_note_environment(folder, environment, finished=finished))
        return not found.is_run, finished, told

    try:
        is_new, finished, notes = world.on_first(work)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    return Run(folder, world, keep_checkpoints, finished, notes, is_new, keep_states=keep_states, _lock=lock)


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
            fix=f"wait for it, or stop it (kill {holder}), or write elsewhere: --out {typed(free_name(folder))}",
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

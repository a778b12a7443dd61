"""What every run that trains has in common: its folder, its way back after a stop, and the order of its steps."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from heed.config import dump
from heed.dist.world import World
from heed.models.load import choose_device
from heed.models.writing import store_as
from heed.recipes.training.best import BestSoFar
from heed.recipes.training.dividing import refuse_dividing_alone
from heed.recipes.training.memory import memory_told
from heed.recipes.training.sharing import in_groups
from heed.report.page import write_report
from heed.settings import Settings, flat, load_settings
from heed.train.checkpoint import Checkpoint
from heed.train.environment import environment
from heed.train.interrupt import Interruption
from heed.train.progress import Progress
from heed.train.ranks import refuse_separate_folders, refuse_unequal
from heed.train.run import Run, SaveModel, open_run
from heed.train.same_run import read_config
from heed.train.track import Tracker

KEPT_CHECKPOINTS = 2
"""the newest, so that one that is damaged later is not the only one"""


class RunSettings(Protocol):
    """What the settings of every run tell of its folder and machine."""

    @property
    def out(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def track(self) -> str: ...
    @property
    def keep_states(self) -> bool: ...
    @property
    def date(self) -> datetime.date | None: ...


AnyRun = TypeVar("AnyRun", bound=Settings)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a run happens."""

    folder: Run
    device: torch.device
    world: World
    speaker: Progress
    """says lines to the user; on the first process alone"""


@dataclass(frozen=True, eq=False)
class Loop:
    """The steps of a run, as functions of its recipe."""

    title: str
    """what the progress bar calls it"""
    total_steps: int
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    eval_every: int
    """steps between measurements; 0 measures at start and end only"""
    take_step: Callable[[int], dict[str, float]]
    """takes the step of this number (from 1) and returns its numbers for `metrics.jsonl`"""
    measure: Callable[[int, Progress], float | None]
    """measures and logs after this many steps; gives the number by which models are compared, less being better"""
    to_save: Callable[[], SaveModel]
    """called on every process; what it gives writes the model's files, on the first process alone"""
    state: Callable[[], dict[str, Any]]
    """what a checkpoint holds besides the model's files and the random states"""
    restore: Callable[[Checkpoint], None]
    """puts a checkpoint's model and state back"""
    shown: tuple[str, ...] = ("loss", "tokens_per_second")
    """the step's numbers that the progress bar shows"""
    is_over: Callable[[], bool] = lambda: False
    """whether the run ends before its last step; called after each"""
    final_dtype: torch.dtype = torch.float32
    """of the weights of a whole model that the run leaves; checkpoints keep those that are trained"""
    keep_best: bool = False
    """whether the run leaves the model of its best measurement, and not the last one"""
    stop_early: int | None = None
    """measurements without a better one after which the run ends; None for never"""


def in_run_folder(
    settings: AnyRun, work: Callable[[AnyRun, Place], None], *, keep_checkpoints: int = KEPT_CHECKPOINTS
) -> None:
    """Open or resume the run folder of `settings`, and do the work in it unless it is done already.

    Ctrl-C says how to go on; what the last checkpoint holds is not lost.
    """
    run: RunSettings = settings  # type: ignore[assignment]
    device_kind = "cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu"
    with World.from_environment(device_kind) as world:
        refuse_dividing_alone(settings, world)
        world = in_groups(settings, world)
        device = choose_device(run.device, world.local_rank)
        surroundings = environment(device, world)
        refuse_unequal(world, surroundings, dump(settings))
        date = run.date or world.on_first(lambda: date_of_run(run.out))
        settings = settings.model_copy(update={"date": date})
        with open_run(
            run.out,
            dump(settings),
            surroundings,
            keep_checkpoints=keep_checkpoints,
            keep_states=run.keep_states,
            world=world,
            read=lambda config: dump(load_settings(type(settings), config, {})),
        ) as folder:
            refuse_separate_folders(world, folder.folder)
            speaker = Progress("", shown=world.is_first)
            for note in folder.notes:
                speaker.say(note)
            if not folder.finished:
                with tracked(settings, folder, speaker), memory_told(settings, device), world.computing():
                    work(settings, Place(folder, device, world, speaker))


@contextmanager
def tracked(settings: Settings, folder: Run, speaker: Progress) -> Iterator[None]:
    """Show what is logged in a tracker, too, if the settings name one; on the first process alone."""
    run: RunSettings = settings  # type: ignore[assignment]
    if run.track == "none" or not folder.world.is_first:
        yield
        return
    plain = flat(type(settings), settings.model_dump(mode="json", by_alias=True), "settings")
    tracker = Tracker(run.track, folder.folder, plain, speaker.say)
    folder.on_log = tracker.log
    try:
        yield
    finally:
        tracker.close()


def date_of_run(out: str) -> datetime.date:
    """The date that templates print: the day on which the run was first started."""
    started = (read_config(out) or {}).get("date")
    return datetime.date.fromisoformat(str(started)) if started else datetime.datetime.now().date()


def go_through(loop: Loop, place: Place) -> None:
    """Take the steps from where the run stopped, measuring and saving on the way; leave the model in the folder."""
    folder, world = place.folder, place.world
    start = 0
    best = BestSoFar(folder, loop.keep_best, loop.stop_early)
    if (checkpoint := folder.latest(place.speaker.say)) is not None:
        loop.restore(checkpoint)
        best.restore(checkpoint)
        checkpoint.restore_random_states(world)
        start = checkpoint.step
        place.speaker.say(f"going on after step {start:,}, from {checkpoint.folder}")
    folder.rewind(start if checkpoint is not None else -1)
    if checkpoint is None:
        best.note(0, loop.measure(0, place.speaker), loop.to_save)
    with (
        Progress(loop.title, total=loop.total_steps, start=start, shown=world.is_first) as progress,
        Interruption(lambda: progress.say("saving after this step; Ctrl-C again stops at once")) as interruption,
    ):
        over = start > 0 and (loop.is_over() or best.is_over)
        step = start
        while step < loop.total_steps and not over:
            step += 1
            numbers = loop.take_step(step)
            folder.log(step, "train", **numbers)
            progress.update(step, **{name: numbers[name] for name in loop.shown if name in numbers})
            over = loop.is_over()
            last = over or step == loop.total_steps
            if last or (loop.eval_every and step % loop.eval_every == 0):
                best.note(step, loop.measure(step, progress), loop.to_save)
                over = over or best.is_over
                last = last or over
            stopped = max(world.gather_objects(interruption.asked))
            if last or stopped or (loop.save_every and step % loop.save_every == 0):
                folder.checkpoint(step, best.with_state(loop.to_save()), loop.state())
                best.prune()
            if stopped and not last:
                raise KeyboardInterrupt if stopped == signal.SIGINT else SystemExit(128 + stopped)
    best.close(step, loop.total_steps, place.speaker)
    leave = best.to_leave(step, loop.to_save)

    def leave_rounded(to: Path) -> None:
        leave(to)
        if loop.final_dtype != torch.float32:
            store_as(to, loop.final_dtype)

    dropped = folder.finish(leave_rounded)
    best.drop()
    if dropped:
        told = f"{dropped / 1e6:,.1f} MB of optimiser states are dropped; --keep-states keeps them"
        place.speaker.say(f"the run is finished, and its checkpoints keep the model alone: {told}")
    if world.is_first:
        write_report([folder.folder])

"""Which of a run's measurements was the best: its model is kept if that is wanted, and a run without better ones ends.

    checkpoints/best-000150/   the model of the best measurement, while the run goes on
    best.json                  of a finished run: which step's model is in the folder, and what was measured of it

The state travels with every checkpoint, so a run that is resumed decides as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from heed import files
from heed.errors import UserError
from heed.train.checkpoint import CHECKPOINTS, Checkpoint
from heed.train.progress import Progress
from heed.train.run import Run, SaveModel

BEST = "best.json"
"""in a checkpoint, the state below; in a finished run, what came of it"""


@dataclass(eq=False)
class BestSoFar:
    """The best of a run's measurements; less is better."""

    folder: Run
    keeps: bool
    """whether the model of the best measurement is what the run leaves"""
    patience: int | None
    """measurements without a better one after which the run ends; None for never"""
    step: int = 0
    value: float | None = None
    num_measured: int = 0
    num_since: int = 0
    """measurements since the best one"""

    @property
    def is_wanted(self) -> bool:
        """Whether anything depends on the measurements."""
        return self.keeps or self.patience is not None

    @property
    def is_over(self) -> bool:
        """Whether the run has gone on for long enough without a better measurement."""
        return self.patience is not None and self.num_since >= self.patience

    def note(self, step: int, value: float | None, to_save: Callable[[], SaveModel]) -> None:
        """Take in a measurement; keep the model if it is the best one so far. Called on every process.

        Raises:
            UserError: nothing was measured.
        """
        if not self.is_wanted:
            return
        if value is None:
            raise UserError(
                "there is nothing to choose the best model by",
                where="--keep-best" if self.keeps else "--stop-early",
                found="no held-out records",
                expected="held-out data to measure the model on",
                fix="a larger share of the data, --held-out-share 0.2, or --eval-data FILE",
            )
        value = self.folder.world.broadcast_object(value)
        self.num_measured += 1
        self.num_since += 1
        if not math.isfinite(value) or (self.value is not None and value >= self.value):
            return
        self.step, self.value, self.num_since = step, value, 0
        if self.keeps:
            save = to_save()
            self.folder.world.on_first(lambda: self._write(save))

    def _write(self, save: SaveModel) -> None:
        with files.new_folder(self._model_of(self.step)) as unfinished:
            save(unfinished)

    def with_state(self, save: SaveModel) -> SaveModel:
        """Write a checkpoint's model, and the state beside it."""
        if not self.is_wanted:
            return save
        state = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in OF_THE_SETTINGS}

        def write(to: Path) -> None:
            save(to)
            files.write_json(to / BEST, state)

        return write

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint's state.

        Raises:
            UserError: the best model that the checkpoint knows is gone.
        """
        if not self.is_wanted:
            return
        state = self.folder.world.on_first(lambda: _read(checkpoint.folder / BEST))
        for name, value in state.items():
            setattr(self, name, value)
        if self.keeps and self.value is not None and not self._model_of(self.step).is_dir():
            raise UserError(
                "the best model so far is gone",
                where=str(self._model_of(self.step)),
                found="no such folder",
                expected=f"the model after step {self.step:,}, the best of {self.num_measured:,} measurements",
                fix=f"rm -r {self.folder.folder}, then start the same command again: it starts anew",
            )

    def prune(self) -> None:
        """After a checkpoint: remove the models that neither it nor an older checkpoint calls the best."""
        if not self.keeps:
            return

        def work() -> None:
            checkpoints = self.folder.folder / CHECKPOINTS
            kept = {_read(path)["step"] for path in checkpoints.glob(f"step-*/{BEST}")} | {self.step}
            for folder in checkpoints.glob("best-*"):
                if folder not in {self._model_of(step) for step in kept}:
                    files.remove_folder(folder)

        self.folder.world.on_first(work)

    def to_leave(self, last: int, to_save: Callable[[], SaveModel]) -> SaveModel:
        """What a run that ended after step `last` leaves: the best model, or the last one. Called on every process."""
        if not self.keeps or self.step == last:
            return to_save()

        def copy(to: Path) -> None:
            shutil.copytree(self._model_of(self.step), to, dirs_exist_ok=True)

        return copy

    def close(self, last: int, total: int, speaker: Progress) -> None:
        """Say and write down what came of it."""
        if not self.is_wanted:
            return
        if last < total:
            speaker.say(f"ended early after step {last:,}: {self.num_since:,} measurements brought nothing better")
        if self.keeps:
            speaker.say(
                f"kept is the model after step {self.step:,}, whose held-out measure of {self.value:.4f} is the least "
                f"of {self.num_measured:,}"
            )
        outcome = {
            "kept_step": self.step if self.keeps else last,
            "best_step": self.step,
            "best_measure": self.value,
            "num_measurements": self.num_measured,
            "ended_after": last,
            "of_steps": total,
        }
        self.folder.world.on_first(lambda: files.write_json(self.folder.folder / BEST, outcome))

    def drop(self) -> None:
        """When the run has left its model: remove what was kept for it on the way."""

        def work() -> None:
            for folder in (self.folder.folder / CHECKPOINTS).glob("best-*"):
                files.remove_folder(folder)

        if self.keeps:
            self.folder.world.on_first(work)

    def _model_of(self, step: int) -> Path:
        return self.folder.folder / CHECKPOINTS / f"best-{step:06d}"


OF_THE_SETTINGS = ("folder", "keeps", "patience")


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state

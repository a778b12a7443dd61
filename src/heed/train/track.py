"""Show a run's numbers in a tracker, too: TensorBoard, Weights & Biases, MLflow or Trackio.

`metrics.jsonl` stays the truth; a tracker gets copies. It is opened and fed in a thread of its own, so that one that is
slow, waits for a network or fails costs the run one line of text and no time.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heed import files

Numbers = Mapping[str, float]
Send = Callable[[int, Numbers], None]
"""takes a step and its numbers, `train/loss` for the loss of phase `train`"""
Opened = tuple[Send, Callable[[], None]]
"""a tracker's run: how a line is sent to it, and how it is closed"""

PROJECT = "heed"
"""of the run, where the tracker's own environment variable names no other"""
STATE = "track.json"
"""in the run's folder: what the tracker calls this run, so that a resumed run is the same there"""
PATIENCE_SECONDS = 30.0
"""for a tracker to take its last lines at the end"""


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run when it is opened."""

    folder: Path
    settings: Mapping[str, Any]
    """flat, by dotted keys"""
    first_step: int
    """of what will be sent; later ones that a killed run sent are void"""


def tensorboard(run: Tracked) -> Opened:
    """Event files in the run's folder: `tensorboard --logdir RUN/tensorboard`."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step)
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in run.settings.items()), run.first_step)

    def send(step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return send, writer.close


def wandb(run: Tracked) -> Opened:
    """A run of Weights & Biases; its own environment variables (WANDB_PROJECT, WANDB_MODE...) hold."""
    module: Any = importlib.import_module("wandb")
    known = _known(run.folder, "wandb")
    given = {} if "WANDB_PROJECT" in os.environ else {"project": PROJECT}
    opened = module.init(**given, name=run.folder.name, id=known, resume="allow", config=dict(run.settings))
    _remember(run.folder, "wandb", opened.id)
    opened.define_metric("step")
    opened.define_metric("*", step_metric="step")  # its own count of steps only grows, and a resumed run goes back
    return lambda step, numbers: opened.log({"step": step, **numbers}), opened.finish


def mlflow(run: Tracked) -> Opened:
    """A run of MLflow, where MLFLOW_TRACKING_URI says, or in the folder that the command is given in."""
    module: Any = importlib.import_module("mlflow")
    known = _known(run.folder, "mlflow")
    if known is None and "MLFLOW_EXPERIMENT_NAME" not in os.environ:
        module.set_experiment(PROJECT)
    opened = module.start_run(run_id=known, run_name=None if known else run.folder.name)
    _remember(run.folder, "mlflow", opened.info.run_id)
    if known is None:
        module.log_params({key: str(value)[:500] for key, value in run.settings.items()})

    def send(step: int, numbers: Numbers) -> None:
        # Its names hold letters, digits and a few signs.
        module.log_metrics({re.sub(r"[^\w\-. /]", "_", name): value for name, value in numbers.items()}, step=step)

    return send, module.end_run


def trackio(run: Tracked) -> Opened:
    """A run of Trackio, in its folder on this machine unless its environment variables say otherwise."""
    module: Any = importlib.import_module("trackio")
    name = _known(run.folder, "trackio") or run.folder.name
    opened = module.init(project=PROJECT, name=name, resume="allow", config=dict(run.settings))
    _remember(run.folder, "trackio", name)
    return lambda step, numbers: opened.log({"step": step, **numbers}), opened.finish


TRACKERS: dict[str, Callable[[Tracked], Opened]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
}


@dataclass(eq=False)
class Tracker:
    """Copies lines of `metrics.jsonl` to a tracker. Nothing that goes wrong there reaches the run."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    say: Callable[[str], None]
    """tells the user a line"""
    _lines: queue.SimpleQueue[tuple[int, Numbers] | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def log(self, step: int, phase: str, numbers: Mapping[str, float]) -> None:
        """Take over one line; returns at once. The first one opens the tracker."""
        finite = {f"{phase}/{name}": float(value) for name, value in numbers.items() if math.isfinite(value)}
        self._lines.put((step, finite))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(step,), name="track", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the last lines be taken, for as long as patience lasts."""
        if self._thread is None:
            return
        self._lines.put(None)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._tell(f"it has not taken all numbers after {PATIENCE_SECONDS:.0f} seconds")

    def _work(self, first_step: int) -> None:
        try:
            send, finish = TRACKERS[self.name](Tracked(self.folder, self.settings, first_step))
            while (line := self._lines.get()) is not None:
                send(*line)
            finish()
        except ModuleNotFoundError as error:
            self._tell(f"the package {error.name} is not installed (pip install {self.name})")
        except Exception as error:  # whatever a tracker raises, the run goes on
            says = str(error).strip().splitlines()
            self._tell(f"{type(error).__name__}{f': {says[0][:200]}' if says else ''}")

    def _tell(self, what: str) -> None:
        self.say(
            f"--track {self.name}: {what}; the run does without, and all numbers are in {self.folder}/metrics.jsonl"
        )


def _known(folder: Path, tracker: str) -> str | None:
    """What a tracker calls the run in this folder; None where it does not know it yet."""
    try:
        names = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return str(names[tracker]) if isinstance(names, dict) and tracker in names else None


def _remember(folder: Path, tracker: str, name: str) -> None:
    if _known(folder, tracker) != name:
        files.write_json(folder / STATE, {tracker: str(name)})

"""A run folder's records, read into nouns. Files that are not there yet are named, not missed."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml

from heed.errors import UserError, typed
from heed.report.eval_results import EvalResults, eval_results
from heed.report.measurements import Measurements, RewardMeasurements, measurements, number, reward_measurements

T = TypeVar("T")
CONFIG, ENVIRONMENT, DATA, METRICS = "config.yaml", "environment.json", "data.json", "metrics.jsonl"
SAMPLES, STATE, MEASUREMENTS = "samples.jsonl", "state.json", "measurements.json"
REWARD_MEASUREMENTS, BEST, RESULTS = "reward_measurements.json", "best.json", "results.json"
MARKS_OF_A_RUN = (CONFIG, METRICS, MEASUREMENTS, RESULTS)
"""a folder that has none of these files is no run"""

ASKED = "*/*/asked.json"
"""files that `heed eval` begins with"""

Kind = Literal["imitation", "reward", "pairs", "policy"]
"""what a run learned: answers to imitate, a reward from rankings, a policy from pairs, a policy from its own samples"""
EXPECTED_OF: Mapping[Kind, tuple[str, ...]] = {
    "imitation": (CONFIG, ENVIRONMENT, DATA, METRICS, SAMPLES),
    "reward": (CONFIG, ENVIRONMENT, DATA, METRICS, REWARD_MEASUREMENTS),
    "pairs": (CONFIG, ENVIRONMENT, DATA, METRICS),
    "policy": (CONFIG, ENVIRONMENT, DATA, METRICS, SAMPLES),
}
"""files that a finished run of each kind has"""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A number over optimiser steps."""

    steps: np.ndarray
    """(P,) int64"""
    values: np.ndarray
    """(P,) float64; NaN where the number was not finite"""

    def finite(self) -> Curve:
        """The points that are numbers."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many sequences have a length in `[edges[i], edges[i + 1])`, in tokens."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataSet:
    """What became of a data set's records."""

    path: str
    counts: Mapping[str, int]
    """`num_records`, `num_kept` and the others of `data.json`"""
    lengths: Mapping[str, Histogram]
    """of prompts (`prompt`) and of responses (`response`), if the run counted them"""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer on the way."""

    step: int
    data_set: str
    prompt: str
    answer: str
    stopped: bool
    """whether the model ended its answer itself"""
    score: float = math.nan
    kl: float = math.nan
    """log-probability of the answer above the reference's, in nats; NaN where it was not asked"""


@dataclass(frozen=True, slots=True, eq=False)
class RunRecords:
    """All that a run folder tells. What is absent is empty or None, and named in `notes`."""

    name: str
    folder: Path
    finished: bool
    is_training: bool
    """whether steps were taken in this folder, or are going to be; else it holds what was measured of others"""
    settings: Mapping[str, Any] | None = None
    settings_text: str = ""
    environment: Mapping[str, Any] | None = None
    data: tuple[DataSet, ...] = ()
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    """by phase (`train`, `held_out`), then by the number's name"""
    samples: tuple[Sample, ...] = ()
    measurements: Measurements | None = None
    reward: RewardMeasurements | None = None
    evaluation: EvalResults | None = None
    """what `heed eval` found"""
    notes: tuple[str, ...] = ()
    place: int = 0
    """among the runs that are read together; it gives the run its colour"""

    @property
    def kind(self) -> Kind:
        """What the run learned, told by the numbers it kept."""
        return kind_of(self.curves, has_reward=self.reward is not None)

    @property
    def last_step(self) -> int:
        """The last optimiser step that was written down."""
        steps = [int(curve.steps[-1]) for phase in self.curves.values() for curve in phase.values()]
        return max(steps, default=0)


def read_runs(folders: Sequence[Path]) -> tuple[RunRecords, ...]:
    """The runs in these folders, each followed by the runs in its own sub-folders.

    Raises:
        UserError: a folder holds no run, or a record in it cannot be read.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        inside = sorted(path for path in folder.iterdir() if is_run(path)) if folder.is_dir() else []
        if not is_run(folder) and not inside:
            raise UserError(
                "this folder is no run",
                where=str(folder),
                found="no such folder" if not folder.is_dir() else f"none of {', '.join(MARKS_OF_A_RUN)}",
                expected="a folder that a training command of heed, heed demo or heed eval has written",
                fix="heed report FOLDER, with the folder that was given as --out",
            )
        for path in ([folder] if is_run(folder) else []) + inside:
            found.setdefault(path.resolve(), path)
    names = short_names(list(found))
    runs = [read_run(path, name) for path, name in zip(found.values(), names, strict=True)]
    places = itertools.count()
    return tuple(replace(run, place=next(places)) if run.is_training else run for run in runs)


def is_run(folder: Path) -> bool:
    """Whether something of a run has been written here."""
    return not folder.name.startswith(".tmp-") and any((folder / name).is_file() for name in MARKS_OF_A_RUN)


def short_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    for length in range(1, max((len(folder.parts) for folder in folders), default=1) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_run(folder: Path, name: str) -> RunRecords:
    """Everything in one run folder."""
    notes: list[str] = []
    measured = _json(folder / MEASUREMENTS)
    results = _json(folder / RESULTS)
    if results is not None and "format" not in results:  # other programs call a file so, too
        notes.append(f"{RESULTS} is not of heed and is left out")
        results = None
    found = _parsed(folder / RESULTS, eval_results, results)
    is_evaluation = found is not None or next(folder.glob(ASKED), None) is not None
    is_around_others = is_evaluation or measured is not None or any(map(is_run, folder.iterdir()))
    is_training = (folder / METRICS).is_file() or not is_around_others
    has_settings = (folder / CONFIG).is_file()
    finished = bool((_json(folder / STATE) or {}).get("finished", False)) if is_training or has_settings else True
    finished = found is not None if is_evaluation else finished
    metrics, is_torn = _lines(folder / METRICS)
    if is_torn:
        notes.append(f"the last line of {METRICS} was cut short and is left out")
    curves = _parsed(folder / METRICS, curves_of, metrics) or {}
    reward = _parsed(folder / REWARD_MEASUREMENTS, reward_measurements, _json(folder / REWARD_MEASUREMENTS))
    expected = EXPECTED_OF[kind_of(curves, has_reward=reward is not None)] if is_training else ()
    if absent := [each for each in expected if not (folder / each).is_file()]:
        notes.insert(0, f"not in the folder, so not on this page: {', '.join(absent)}")
    notes += _parsed(folder / BEST, best_notes, _json(folder / BEST)) or []
    settings_text = _text(folder / CONFIG) if has_settings else ""
    return RunRecords(
        name=name,
        folder=folder,
        finished=finished,
        is_training=is_training,
        settings=_settings(folder / CONFIG, settings_text) if settings_text else None,
        settings_text=settings_text,
        environment=_json(folder / ENVIRONMENT),
        data=_parsed(folder / DATA, lambda value: tuple(map(_data_set, value)), _json(folder / DATA, list)) or (),
        curves=curves,
        samples=_parsed(folder / SAMPLES, lambda lines: tuple(map(_sample, lines)), _lines(folder / SAMPLES)[0]) or (),
        measurements=_parsed(folder / MEASUREMENTS, measurements, measured),
        reward=reward,
        evaluation=found,
        notes=tuple(notes),
    )


def kind_of(curves: Mapping[str, Mapping[str, Curve]], *, has_reward: bool) -> Kind:
    """What a run with these numbers learned; one that has kept none yet is taken for imitation."""
    names = {name for phase in curves.values() for name in phase}
    if has_reward:
        return "reward"
    if "kl_per_sequence" in names:
        return "policy"
    # Before comparisons are looked for: policies learned from pairs count theirs too.
    if names & {"chosen_logp", "rejected_logp", "chosen_reward", "rejected_reward"}:
        return "pairs"
    return "reward" if "num_comparisons" in names or {"accuracy", "margin"} <= names else "imitation"


def best_notes(best: Mapping[str, Any]) -> list[str]:
    """Which model a run left that chose by its measurements, and whether it ended before its last step."""
    kept, last, steps = int(best["kept_step"]), int(best["ended_after"]), int(best["of_steps"])
    notes = []
    if kept != last:
        notes.append(
            f"the model in the folder is that after step {kept:,}: its held-out measure of "
            f"{number(best['best_measure']):.4f} was the best of {int(best['num_measurements']):,}"
        )
    if last < steps:
        notes.append(f"ended early after step {last:,} of {steps:,}, since nothing better was measured")
    return notes


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Lines of `metrics.jsonl` as curves, by phase and name."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        step, phase = int(line["step"]), str(line["phase"])
        for name, value in line.items():
            if name not in ("step", "phase"):
                points[phase][name].append((step, number(value)))
    return {
        phase: {
            name: Curve(
                np.array([step for step, _ in column], dtype=np.int64),
                np.array([value for _, value in column], dtype=np.float64),
            )
            for name, column in columns.items()
        }
        for phase, columns in points.items()
    }


def _data_set(value: Mapping[str, Any]) -> DataSet:
    lengths = value.get("lengths") or {}
    return DataSet(
        path=str(value["path"]),
        counts={key: int(count) for key, count in {**value, **lengths}.items() if key.startswith("num_")},
        lengths={name: _histogram(lengths[name]) for name in ("prompt", "response") if name in lengths},
    )


def _histogram(value: Mapping[str, Any]) -> Histogram:
    edges, counts = tuple(map(float, value["edges"])), tuple(map(int, value["counts"]))
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(edges)} edges for {len(counts)} counts")
    return Histogram(edges, counts)


def _sample(value: Mapping[str, Any]) -> Sample:
    return Sample(
        step=int(value["step"]),
        data_set=str(value.get("data_set", "")),
        prompt=str(value["prompt"]),
        answer=str(value["answer"]),
        stopped=str(value.get("stopped", "true")).lower() == "true",
        score=number(value.get("score")),
        kl=number(value.get("kl")),
    )


def _parsed(path: Path, parse: Callable[[Any], T], value: Any) -> T | None:
    """`parse(value)`, or None where there is nothing; what does not fit is told with the file's name."""
    if value is None:
        return None
    try:
        return parse(value)
    except KeyError as error:
        raise unreadable(path, f"nothing called {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, f"{type(error).__name__}: {error}") from error


def _json(path: Path, kind: type = dict) -> Any:
    """The file's value, which must be of a kind; None where there is no file."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unreadable(path, str(error)) from error
    if not isinstance(value, kind):
        raise unreadable(path, f"{type(value).__name__}, not {kind.__name__}")
    return value


def _lines(path: Path) -> tuple[list[Mapping[str, Any]] | None, bool]:
    """The objects of a file of JSON lines, and whether a kill cut its last line short."""
    if not path.is_file():
        return None, False
    *lines, torn = path.read_bytes().split(b"\n")
    return list(_objects(path, lines)), bool(torn)


def _objects(path: Path, lines: Sequence[bytes]) -> Iterator[Mapping[str, Any]]:
    for count, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise unreadable(path, f"line {count:,}: {error}") from error
        if not isinstance(value, dict):
            raise unreadable(path, f"line {count:,}: {type(value).__name__}, not an object")
        yield value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(path, str(error)) from error


def _settings(path: Path, text: str) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise unreadable(path, str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise unreadable(path, f"{type(value).__name__}, not a mapping")
    return value


def unreadable(path: Path, found: str) -> UserError:
    """The five parts of a file that is not what heed wrote."""
    return UserError(
        "a record of the run cannot be read",
        where=str(path),
        found=found,
        expected="the file as heed wrote it",
        fix=f"mv {typed(path)} {typed(f'{path}.broken')}; heed report {typed(path.parent)} makes the page without it",
    )

"""Trackers get copies of what is logged, and whatever they do, the run goes on."""

import json
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heed.train import track
from heed.train.track import Tracker

STAND_IN = '''
"""Takes the calls that heed makes of the real package, and writes them down."""
import json, os
from pathlib import Path
from types import SimpleNamespace

RAISES = os.environ.get("STAND_IN_RAISES", "")

def note(what, **how):
    if what in RAISES.split(","):
        raise ConnectionError("no network here\\nsecond line")
    with (Path(__file__).parent / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"what": what, **how}) + "\\n")
'''
PACKAGES = {
    "wandb": """
class Run:
    id = "abc123"
    def define_metric(self, name, step_metric=None): note("define", name=name)
    def log(self, data): note("log", **data)
    def finish(self): note("finish")

def init(*, name, id, resume, config, project=None):
    note("init", known=id, resume=resume, name=name, project=project, seed=config["seed"])
    return Run()
""",
    "trackio": """
class Run:
    def log(self, data): note("log", **data)
    def finish(self): note("finish")

def init(*, project, name, resume, config):
    note("init", known=name, resume=resume, name=name, project=project, seed=config["seed"])
    return Run()
""",
    "mlflow": """
def set_experiment(name): note("experiment", name=name)
def start_run(*, run_id, run_name):
    note("init", known=run_id, name=run_name)
    return SimpleNamespace(info=SimpleNamespace(run_id="abc123"))
def log_params(params): note("params", **params)
def log_metrics(metrics, *, step): note("log", step=step, **metrics)
def end_run(): note("finish")
""",
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a package of a tracker's name where Python looks first, and read what it was called with."""

    def put(name):
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(STAND_IN + PACKAGES[name])
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)

        def calls(what=None):
            monkeypatch.delitem(sys.modules, name, raising=False)
            path = folder / "calls.jsonl"
            found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            return [call for call in found if what in (None, call["what"])]

        return calls

    return put


def tracked(folder, name, lines, said=None):
    folder.mkdir(exist_ok=True)
    tracker = Tracker(name, folder, {"seed": 3, "optim.lr": "auto"}, (said if said is not None else []).append)
    for step, phase, numbers in lines:
        tracker.log(step, phase, numbers)
    tracker.close()
    return tracker


LINES = [(0, "held_out", {"loss": 3.5}), (1, "train", {"loss": 3.25, "count": 7}), (2, "train", {"loss": 3.0})]


def scalars(folder: Path, tag):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_shows_what_was_logged(tmp_path):
    said = []
    tracked(tmp_path / "run", "tensorboard", LINES, said)
    assert said == []
    assert scalars(tmp_path / "run", "train/loss") == [(1, 3.25), (2, 3.0)]
    assert scalars(tmp_path / "run", "held_out/loss") == [(0, 3.5)]
    assert scalars(tmp_path / "run", "train/count") == [(1, 7.0)]


def test_a_resumed_run_goes_on_in_tensorboard_and_takes_back_what_it_does_again(tmp_path):
    tracked(tmp_path / "run", "tensorboard", LINES)
    time.sleep(1.1)  # event files are told apart by the second they were begun in
    tracked(tmp_path / "run", "tensorboard", [(2, "train", {"loss": 2.5}), (3, "train", {"loss": 2.0})])
    assert scalars(tmp_path / "run", "train/loss") == [(1, 3.25), (2, 2.5), (3, 2.0)]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_tracker_is_told_settings_and_numbers_and_closed(tmp_path, stand_in, name):
    calls = stand_in(name)
    said = []
    tracked(tmp_path / "run", name, LINES, said)
    assert said == []
    assert [call["step"] for call in calls("log")] == [0, 1, 2]
    assert calls("log")[1]["train/loss"] == 3.25
    assert calls()[-1]["what"] == "finish"
    assert str((calls("params") or calls("init"))[0]["seed"]) == "3"


@pytest.mark.parametrize(("name", "known"), [("wandb", "abc123"), ("mlflow", "abc123"), ("trackio", "run")])
def test_a_resumed_run_is_the_same_run_in_the_tracker(tmp_path, stand_in, name, known):
    calls = stand_in(name)
    for _ in range(2):
        tracked(tmp_path / "run", name, LINES)
    first, second = calls("init")
    assert first["known"] in (None, "run")
    assert second["known"] == known
    assert len(calls("params")) == (1 if name == "mlflow" else 0)


def test_a_number_that_is_not_finite_is_left_out(tmp_path, stand_in):
    calls = stand_in("wandb")
    tracked(tmp_path / "run", "wandb", [(1, "train", {"loss": float("nan"), "right": 1.0})])
    (call,) = calls("log")
    assert (call["train/right"], "train/loss" in call) == (1.0, False)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("at", ["init", "log", "finish"])
def test_a_tracker_that_raises_costs_one_line(tmp_path, stand_in, monkeypatch, name, at):
    stand_in(name)
    monkeypatch.setenv("STAND_IN_RAISES", at)
    said = []
    tracked(tmp_path / "run", name, LINES, said)
    (line,) = said
    assert f"--track {name}" in line
    assert "no network here" in line
    assert "metrics.jsonl" in line
    assert "\n" not in line


def test_a_tracker_that_is_not_installed_costs_one_line_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    said = []
    tracked(tmp_path / "run", "trackio", LINES, said)
    (line,) = said
    assert "pip install trackio" in line


def test_a_tracker_that_never_answers_costs_no_more_than_patience_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setitem(track.TRACKERS, "wandb", lambda run: time.sleep(30))
    said = []
    began = time.perf_counter()
    tracked(tmp_path / "run", "wandb", LINES, said)
    assert time.perf_counter() - began < 10
    assert len(said) == 1

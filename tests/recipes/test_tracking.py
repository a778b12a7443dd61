"""`--track` through the command line: the tracker's numbers are the run's, and the run does not depend on it."""

import pytest
import tastes
from safetensors.torch import load_file
from tastes import heed, lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from heed.train import track

SFT = {"steps": 4, "batch_size": 4, "optim_lr": 1e-2, "eval_every": 2, "held_out_share": 0.2}


@pytest.fixture
def data(tmp_path):
    return tastes.write(tmp_path / "data.jsonl", tastes.any_colour())


def test_tensorboard_shows_the_numbers_of_metrics_jsonl_and_changes_no_weight(tmp_path, instruct, data):
    for out, options in (("with", {"track": "tensorboard"}), ("without", {})):
        assert heed("sft", model=instruct, data=data, out=tmp_path / out, **SFT, **options) == 0
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    for phase, tag in (("train", "loss"), ("train", "learning_rate"), ("held_out", "nll_per_token")):
        logged = [(line["step"], line[tag]) for line in lines(tmp_path / "with" / "metrics.jsonl", phase)]
        shown = [(event.step, event.value) for event in events.Scalars(f"{phase}/{tag}")]
        assert [step for step, _ in shown] == [step for step, _ in logged]
        assert [value for _, value in shown] == pytest.approx([value for _, value in logged], rel=1e-6)
    weights = [load_file(tmp_path / out / "model.safetensors") for out in ("with", "without")]
    assert all(weights[0][name].equal(weight) for name, weight in weights[1].items())
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_a_tracker_that_fails_in_the_middle_costs_the_run_one_line(tmp_path, instruct, data, monkeypatch, capsys):
    def fails(run):
        def send(step, numbers):
            if step == 2:
                raise ConnectionError("gone")

        return send, lambda: None

    monkeypatch.setitem(track.TRACKERS, "wandb", fails)
    assert heed("sft", model=instruct, data=data, out=tmp_path / "run", track="wandb", **SFT) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "--track" in line]
    assert len(told) == 1
    assert "gone" in told[0]
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl", "train")] == [1, 2, 3, 4]

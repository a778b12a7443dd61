"""A run folder's records as nouns: whole, unfinished, damaged, or no run at all."""

import json
import math

import pytest
from made_up import measurements, write_run

from heed.errors import UserError
from heed.report.read import curves_of, read_runs, short_names


def test_a_finished_run_is_read_whole(tmp_path):
    write_run(tmp_path / "run", steps=3)
    (run,) = read_runs([tmp_path / "run"])
    assert (run.name, run.finished, run.notes, run.last_step) == ("run", True, (), 3)
    assert run.curves["train"]["loss"].steps.tolist() == [1, 2, 3]
    assert run.curves["held_out"]["nll_per_token"].values.tolist() == [4.5, 2.25]
    assert run.settings is not None
    assert run.settings["optim"] == {"lr": 0.001}
    assert run.data[0].counts["num_trained_tokens"] == 400
    assert run.data[0].lengths["prompt"].counts == (10, 80, 10)
    assert [sample.stopped for sample in run.samples] == [False, True]


@pytest.mark.parametrize(
    "absent", ["config.yaml", "environment.json", "data.json", "metrics.jsonl", "samples.jsonl", "state.json"]
)
def test_a_file_that_is_not_there_yet_is_named(tmp_path, absent):
    write_run(tmp_path / "run")
    (tmp_path / "run" / absent).unlink()
    (run,) = read_runs([tmp_path / "run"])
    if absent == "state.json":
        assert not run.finished
    else:
        assert run.notes == (f"not in the folder, so not on this page: {absent}",)


def test_a_line_cut_short_by_a_kill_is_left_out_and_said(tmp_path):
    write_run(tmp_path / "run", steps=3)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "phase": "tr')
    (run,) = read_runs([tmp_path / "run"])
    assert run.last_step == 3
    assert run.notes == ("the last line of metrics.jsonl was cut short and is left out",)


def test_null_is_a_number_that_was_not_finite():
    curve = curves_of([{"step": 1, "phase": "train", "loss": 2.0}, {"step": 2, "phase": "train", "loss": None}])
    values = curve["train"]["loss"].values.tolist()
    assert values[0] == 2.0
    assert math.isnan(values[1])
    assert curve["train"]["loss"].finite().steps.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metrics.jsonl", '{"step": 1}\n', "nothing called 'phase'"),
        ("metrics.jsonl", "[1]\n", "line 1: list, not an object"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n', "line 1: "),
        ("data.json", "{}", "dict, not list"),
        ("environment.json", "[]", "list, not dict"),
        ("data.json", '[{"path": "a", "lengths": {"prompt": {"edges": [0, 1], "counts": [1, 2]}}}]', "2 edges for 2"),
        ("samples.jsonl", '{"step": 0}\n', "nothing called 'prompt'"),
        ("environment.json", "{", "Expecting property name"),
        ("config.yaml", "a: [", "while parsing"),
        ("config.yaml", "just words", "str, not a mapping"),
        ("measurements.json", '{"splits": {"unseen_items": {"base": {}}}}', "nothing called 'rate'"),
        ("measurements.json", '{"splits": [1]}', "AttributeError"),
    ],
)
def test_a_damaged_record_is_the_users_to_see(tmp_path, name, content, says):
    write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(UserError, match="a record of the run cannot be read") as error:
        read_runs([tmp_path / "run"])
    assert error.value.where == str(tmp_path / "run" / name)
    assert says in error.value.found
    assert error.value.fix.startswith("mv ")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_a_folder_that_is_no_run_is_refused(tmp_path, make):
    make(tmp_path / "what")
    with pytest.raises(UserError, match="this folder is no run"):
        read_runs([tmp_path / "what"])


def test_runs_in_sub_folders_follow_their_folder_and_unfinished_writing_does_not(tmp_path):
    write_run(tmp_path / "demo" / "sft")
    write_run(tmp_path / "demo" / ".tmp-sft-12")
    (tmp_path / "demo" / "measurements.json").write_text(json.dumps(measurements()))
    demo, sft = read_runs([tmp_path / "demo"])
    assert (demo.name, sft.name) == ("demo", "sft")
    assert demo.measurements is not None
    assert demo.measurements.splits["unseen_items"]["sft"].value == 0.83
    assert demo.measurements.honesty["sft"].knowledge["untold"]["declined"].count == 120
    assert demo.finished
    assert not demo.is_training


def test_a_demonstration_on_its_way_is_not_taken_for_a_training_run(tmp_path):
    write_run(tmp_path / "demo" / "sft")
    (tmp_path / "demo" / "config.yaml").write_text("examples: 100\n")
    demo, sft = read_runs([tmp_path / "demo"])
    assert (demo.is_training, demo.finished, demo.notes) == (False, False, ())
    assert sft.is_training


def test_a_folder_given_twice_is_one_run(tmp_path):
    write_run(tmp_path / "run")
    assert len(read_runs([tmp_path / "run", tmp_path / "run" / ".." / "run"])) == 1


def test_names_are_as_short_as_tells_runs_apart(tmp_path):
    assert short_names([tmp_path / "a" / "sft", tmp_path / "b" / "sft"]) == ["a/sft", "b/sft"]
    assert short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_parts_that_were_not_measured_are_empty(tmp_path):
    (tmp_path / "measurements.json").write_text('{"splits": {"unseen_items": {"sft": {"accuracy": null}}}}')
    (run,) = read_runs([tmp_path])
    assert run.measurements is not None
    assert run.measurements.stages == ("sft",)
    assert math.isnan(run.measurements.splits["unseen_items"]["sft"].value)
    assert (run.measurements.honesty, run.measurements.cost, run.measurements.examples) == ({}, (), ())


def test_settings_that_are_not_text_are_the_users_to_see(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="a record of the run cannot be read"):
        read_runs([tmp_path])

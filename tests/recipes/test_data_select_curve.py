"""Whether choosing helps: curves that go on from where they were, and one against truth in the lab."""

import json

import pytest

from heed.cli.main import main
from heed.lab.base_model import BASE_MODEL
from heed.lab.tasks.splits import training_tasks
from heed.lab.world import make_world
from heed.recipes.demo import as_record
from heed.recipes.workshop import curve


def test_a_curve_that_was_stopped_goes_on_and_tunes_nothing_twice(base, colours, write, tmp_path, monkeypatch, capsys):
    out = tmp_path / "curve"
    words = ["data", "select", str(write(colours)), "--model", str(base), "--by", "random", "--curve", "--steps", "2"]
    words += ["--budgets", "2,4", "--seeds", "2", "--device", "cpu", "--out", str(out)]
    words += ["--eval-data", str(write([*colours[:5], colours[20]], "held.jsonl"))]
    tune, num_tuned = curve.sft.run, []

    def tunes(settings):
        if len(num_tuned) == 3:
            num_tuned.append(settings.out)
            raise KeyboardInterrupt
        num_tuned.append(settings.out)
        tune(settings)

    monkeypatch.setattr(curve.sft, "run", tunes)
    assert main(words) == 130
    chosen = {path.name: path.read_text(encoding="utf-8").splitlines() for path in (out / "chosen").iterdir()}
    assert set(chosen["random-2-1.jsonl"]) < set(chosen["random-4-1.jsonl"])
    assert set(chosen["random-4-0.jsonl"]) != set(chosen["random-4-1.jsonl"])
    assert {len(lines) for name, lines in chosen.items() if "-4" in name} == {4}
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert sorted(set(num_tuned)) == sorted(str(out / "runs" / f"{way}-{size}-{seed}") for way in ("random", "longest")
                                            for size in (2, 4) for seed in (0, 1))  # fmt: skip
    assert len(num_tuned) == 9  # eight, of which the one that was stopped is counted twice
    assert json.loads((out / "curve.json").read_text(encoding="utf-8")) == drawn
    assert drawn["measure"] == "loss"
    assert drawn["num_held_out"] == 6
    assert [(point["way"], point["num_records"]) for point in drawn["points"]] == [
        ("random", 2),
        ("longest", 2),
        ("random", 4),
        ("longest", 4),
    ]
    for chance, point in zip(drawn["points"][::2], drawn["points"][1::2], strict=True):
        assert point["difference"] == pytest.approx(chance["value"] - point["value"])
        assert (point["verdict"] == "not better than random") == (point["low"] <= 0 <= point["high"])
        assert any(f"longest: {point['verdict']} at" in note for note in drawn["notes"])

    assert main(words) == 0
    assert len(num_tuned) == 9
    told = capsys.readouterr().out
    assert "random" in told
    assert "about one in 20 misses by chance" in told
    assert main([*words, "--seed", "7"]) == 2
    too_many = ["2,99" if word == "2,4" else str(tmp_path / "new") if word == str(out) else word for word in words]
    assert main(too_many) == 2
    assert "fix:      --budgets 24" in capsys.readouterr().err
    empty = write([*colours[:3], {"prompt": "A?", "completion": " "}], "empty.jsonl")
    new = [str(tmp_path / "new") if word == str(out) else word for word in words]
    assert main([*new[:-1], str(empty)]) == 2  # before anything is tuned
    assert "empty response" in capsys.readouterr().err
    assert len(num_tuned) == 9
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_in_the_lab_a_curve_is_against_truth(write, tmp_path):
    tasks = [as_record(task) for task in training_tasks(make_world(), seed=0, count=140)]
    out = tmp_path / "curve"
    words = ["data", "select", str(write(tasks[:100])), "--model", str(BASE_MODEL), "--by", "ifd", "--curve"]
    words += ["--steps", "6", "--budgets", "10,40", "--seeds", "2", "--device", "cpu"]
    assert main([*words, "--eval-data", str(write(tasks[100:], "held.jsonl")), "--out", str(out)]) == 0
    drawn = json.loads((out / "curve.json").read_text(encoding="utf-8"))
    assert drawn["measure"] == "accuracy"
    assert drawn["num_held_out"] == 40
    assert len(drawn["points"]) == 6
    for point in drawn["points"]:
        assert 0 <= point["value"] <= 1
    assert len(list((out / "points").iterdir())) == 12
    assert any("not better than random" in note for note in drawn["notes"])

"""--keep-best and --stop-early: the model of the best measurement is what a run leaves, however it was disturbed."""

import json
import math
from pathlib import Path

import pytest
import tastes
from tastes import heed, lines

from heed.recipes import dpo, reward, sft

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

MEASURE = {"sft": "nll_per_token", "reward": "loss", "dpo": "loss"}
RECIPES = {"sft": sft, "reward": reward, "dpo": dpo}
RATE = {"sft": 3e-2, "reward": 1e-3, "dpo": 3e-3}
"""at which what was learned is soon lost again"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, tuned, instruct) -> dict[str, Path]:
    """What is measured wants other colours than what is trained on: it soon gets worse."""
    folder = tmp_path_factory.mktemp("best")
    others = [colour for colour in tastes.COLOURS if colour != "green"]
    ranked = [
        {"prompt": question, "chosen": tastes.answer(chosen), "rejected": tastes.answer(rejected)}
        for i, question in enumerate(tastes.QUESTIONS)
        for chosen, rejected in [("green", others[i % 2]) if i % 4 else (others[i % 2], "green")]
    ]
    records = {"ranked": tastes.liking_green()[:12], "held": ranked}
    for colour in ("green", "red"):
        records[colour] = [{"instruction": q, "output": tastes.answer(colour)} for q in tastes.QUESTIONS]
    found = {name: tastes.write(folder / f"{name}.jsonl", each) for name, each in records.items()}
    return found | {"tuned": tuned, "untuned": instruct}


def options_of(command: str, files: dict[str, Path], **more: object) -> dict[str, object]:
    model, data, held = ("untuned", "green", "red") if command == "sft" else ("tuned", "ranked", "held")
    return {
        "model": files[model], "data": files[data], "eval_data": files[held], "steps": 12, "batch_size": 6,
        "optim_lr": RATE[command], "optim_schedule": "constant", "eval_every": 2, "save_every": 3, **more,
    }  # fmt: skip


def measured(run: Path, command: str) -> dict[int, float]:
    return {line["step"]: line[MEASURE[command]] for line in lines(run / "metrics.jsonl", "held_out")}


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def interrupted(monkeypatch, command: str, at: int, **options: object) -> None:
    """A run that is killed as it takes a step: what it did since its checkpoint is lost."""
    real = RECIPES[command].take_step

    def stops(training, step, *rest):
        if step == at:
            raise RuntimeError("the power is cut")
        return real(training, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RECIPES[command], "take_step", stops)
        with pytest.raises(RuntimeError, match="the power is cut"):
            heed(command, **options)


@pytest.mark.parametrize("command", ["sft", "reward", "dpo"])
def test_a_run_leaves_the_model_of_its_best_measurement(tmp_path, files, monkeypatch, command, capsys):
    run, plain = tmp_path / "run", tmp_path / "plain"
    assert heed(command, out=run, keep_best=True, **options_of(command, files)) == 0
    told = capsys.readouterr().err
    found = measured(run, command)
    best = min(found, key=found.get)
    assert best not in (0, 12), found  # or this shows nothing
    outcome = json.loads((run / "best.json").read_text())
    assert (outcome["kept_step"], outcome["num_measurements"], outcome["ended_after"]) == (best, 7, 12)
    assert outcome["best_measure"] == found[best]
    assert f"the model after step {best}" in told
    assert f"the model in the folder is that after step {best}" in (run / "report.html").read_text(encoding="utf-8")
    # A run of as many steps, which keeps all its checkpoints, has the same model there.
    options = options_of(command, files, steps=best)
    assert heed(command, out=plain, **options) == 0
    assert weights(run) == weights(plain)
    if command == "reward":
        of_run, of_plain = ((each / "reward_measurements.json").read_text() for each in (run, plain))
        assert of_run == of_plain
        assert (run / "reward.json").read_text() == (plain / "reward.json").read_text()


@pytest.mark.parametrize("command", ["sft", "dpo"])
def test_a_run_without_better_measurements_ends_and_one_that_was_killed_ends_alike(
    tmp_path, files, monkeypatch, command, capsys
):
    options = options_of(command, files, keep_best=True, stop_early=2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert heed(command, out=whole, **options) == 0
    found = measured(whole, command)
    best, last = min(found, key=found.get), max(found)
    assert last == best + 4 < 12
    assert f"ended early after step {last}" in capsys.readouterr().err
    # Killed after the best measurement and before the next checkpoint, and again while it waits for a better one.
    interrupted(monkeypatch, command, best + 1, out=run, **options)
    interrupted(monkeypatch, command, last, out=run, **options)
    assert heed(command, out=run, **options) == 0
    assert weights(run) == weights(whole)
    assert measured(run, command) == found
    assert (run / "best.json").read_text() == (whole / "best.json").read_text()


def test_no_more_models_are_kept_than_checkpoints_name(tmp_path, files, monkeypatch):
    options = options_of("dpo", files, save_every=1)
    interrupted(monkeypatch, "dpo", 12, out=tmp_path / "run", keep_best=True, **options)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert len(list(checkpoints.glob("best-*"))) == 1
    assert heed("dpo", out=tmp_path / "run", keep_best=True, **options) == 0
    assert not list(checkpoints.glob("best-*"))


@pytest.mark.parametrize("option", [{"keep_best": True}, {"stop_early": 3}])
def test_what_is_not_measured_has_no_best(tmp_path, files, option, capsys):
    options = {"model": files["tuned"], "data": files["ranked"], "held_out_share": 0, "batch_size": 6}
    assert heed("dpo", out=tmp_path / "run", **options, **option) == 2
    message = capsys.readouterr().err
    assert "no held-out records" in message
    assert "--held-out-share" in message
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_never_measured_on_its_way_cannot_end_early(files, tmp_path, capsys):
    options = options_of("dpo", files, stop_early=3, eval_every=0)
    assert heed("dpo", out=tmp_path / "run", **options) == 2
    assert "--eval-every" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_steps_may_be_given_in_place_of_epochs(tmp_path, files, command, capsys):
    options = {"model": files["tuned"], "data": files["ranked"], "batch_size": 5, "held_out_share": 0}
    assert heed(command, out=tmp_path / "run", steps=4, **options) == 0
    steps = lines(tmp_path / "run" / "metrics.jsonl", "train")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert heed(command, out=tmp_path / "other", steps=4, epochs=1, **options) == 2
    assert "steps and epochs are both given" in capsys.readouterr().err


def test_a_supervised_term_holds_the_better_answers_up(tmp_path, files):
    """DPO alone makes both answers rarer here; with the term the better ones stay likelier."""
    options = {"model": files["tuned"], "data": files["ranked"], "held_out_share": 0.4, "batch_size": 6, "steps": 8}
    ends = {}
    for weight in (0, 1):
        out = tmp_path / f"run-{weight}"
        assert heed("dpo", out=out, optim_lr=1e-2, **options, **({"sft_weight": weight} if weight else {})) == 0
        ends[weight] = lines(out / "metrics.jsonl", "held_out")[-1]
    assert ends[1]["chosen_logp"] > ends[0]["chosen_logp"] + 0.1
    assert math.isfinite(ends[1]["chosen_nll_per_token"])
    assert "chosen_nll_per_token" not in ends[0]


def test_kto_has_no_better_answer_to_imitate(tmp_path, files, capsys):
    data = tastes.write(tmp_path / "judged.jsonl", tastes.judged())
    options = {"model": files["tuned"], "data": data, "objective": "kto", "sft_weight": 1}
    assert heed("dpo", out=tmp_path / "run", **options) == 2
    assert "--sft.weight" in capsys.readouterr().err

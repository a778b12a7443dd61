"""A run of `heed reward`, `dpo`, `ppo` or `grpo` that was stopped and started again ends as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tastes
import torch
from tastes import heed, lines

from heed.recipes import dpo, grpo, ppo, reward
from heed.train.checkpoint import Checkpoint
from heed.train.run import Run

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

POLICY = {"keep_states": True, "steps": 5, "batch_size": 8, "max_new_tokens": 10, "lr": 1e-2, "save_every": 2}
PAIRS = {
    "keep_states": True,
    "epochs": 1,
    "batch_size": 6,
    "optim_lr": 5e-3,
    "save_every": 2,
    "eval_every": 2,
    "held_out_share": 0.1,
}
COMMANDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "reward": ("reward", "ranked", {**PAIRS, "lora_rank": 4}),
    "reward, all parameters": ("reward", "ranked", PAIRS),
    "dpo": ("dpo", "ranked", PAIRS),
    "kto": ("dpo", "judged", {**PAIRS, "objective": "kto", "batch_size": 18, "lora_rank": 4}),
    "ppo": ("ppo", "prompts", {**POLICY, "reward": "model", "rank": 4, "kl_target": 0.5, "kl_beta": 0.1}),
    "ppo, all parameters": ("ppo", "prompts", {**POLICY, "reward": "contains: wanted", "rank": 0, "ptx_data": "any"}),
    "grpo": ("grpo", "prompts", {**POLICY, "reward": "contains: wanted", "rank": 4, "group_size": 4}),
}
STEPS = {
    "reward": (reward, "take_step"),
    "dpo": (dpo, "take_step"),
    "ppo": (ppo, "take_phase"),
    "grpo": (grpo, "take_phase"),
}
TIMES = ("seconds_sampling", "seconds_learning", "tokens_per_second")


@pytest.fixture(autouse=True)
def as_python_starts():
    """However the tests were started: in the background of a shell, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def files(tmp_path_factory, tuned, green_reward) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    made = {
        "ranked": tastes.liking_green(),
        "judged": tastes.judged(),
        "prompts": tastes.prompts(),
        "any": tastes.any_colour(),
    }
    found = {name: tastes.write(folder / f"{name}.jsonl", records) for name, records in made.items()}
    return found | {"model": green_reward, "tuned": tuned}


def options_of(kind: str, files: dict[str, Path]) -> tuple[str, dict[str, Any]]:
    command, data, options = COMMANDS[kind]
    named = {name: files.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    return command, {"model": files["tuned"], "data": files[data], **named}


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory, files):
    """The folder of a run that nothing disturbs."""
    known: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in known:
            command, options = options_of(kind, files)
            known[kind] = tmp_path_factory.mktemp("whole") / "run"
            assert heed(command, out=known[kind], **options) == 0
        return known[kind]

    return run


def numbers_of(out: Path) -> list[dict[str, Any]]:
    return [{name: n for name, n in line.items() if name not in TIMES} for line in lines(out / "metrics.jsonl")]


def weights_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


def state_of(out: Path) -> dict[str, Any]:
    """What the last checkpoint holds besides the model: optimisers, values, beta."""
    folder = max((out / "checkpoints").iterdir())
    step = int(folder.name.rpartition("-")[2])
    return Checkpoint(step, folder).state()


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def check(out: Path, whole: Path) -> None:
    assert weights_of(out)
    assert weights_of(out) == weights_of(whole)
    assert numbers_of(out) == numbers_of(whole)
    assert same(state_of(out), state_of(whole))
    if (whole / "samples.jsonl").exists():
        assert (out / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    for name in ("reward.json", "reward_measurements.json"):
        if (whole / name).exists():
            assert (out / name).read_text() == (whole / name).read_text()
    assert not list(out.rglob(".tmp-*"))


def disturbed(monkeypatch, command: str, at: int, disturb) -> None:
    """Do something in the middle of a step."""
    module, name = STEPS[command]
    real = getattr(module, name)

    def step(training, number, *more):
        numbers = real(training, number, *more)
        if number == at:
            disturb()
        return numbers

    monkeypatch.setattr(module, name, step)


def power_cut():
    raise RuntimeError("the power is cut")


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def some_slow(kinds, quick):
    return [pytest.param(kind, marks=[] if kind in quick else [pytest.mark.slow]) for kind in kinds]


@pytest.mark.parametrize("kind", some_slow(COMMANDS, ("reward", "dpo", "kto", "ppo", "grpo")))
def test_a_run_that_broke_off_ends_bit_identical(tmp_path, files, in_one_piece, monkeypatch, capsys, kind):
    command, options = options_of(kind, files)
    out = tmp_path / "run"
    # The third step is taken, and all that it has changed is lost: the checkpoint is of the second.
    disturbed(monkeypatch, command, 3, power_cut)
    with pytest.raises(RuntimeError, match="the power is cut"):
        heed(command, out=out, **options)
    assert not (out / "state.json").exists()
    monkeypatch.undo()
    capsys.readouterr()
    assert heed(command, out=out, **options) == 0
    assert "going on after step 2, from " in capsys.readouterr().err
    check(out, in_one_piece(kind))


@pytest.mark.parametrize("kind", some_slow(["reward", "dpo", "ppo", "grpo"], ("reward", "ppo")))
def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(tmp_path, files, in_one_piece, monkeypatch, capsys, kind):
    command, options = options_of(kind, files)
    out = tmp_path / "run"
    disturbed(monkeypatch, command, 3, press_ctrl_c)
    assert heed(command, out=out, **options) == 130
    told = capsys.readouterr().err
    assert "saving after this step; Ctrl-C again stops at once" in told
    assert told.endswith("\nstopped; the same command goes on from the last checkpoint\n")
    assert [line["step"] for line in lines(out / "metrics.jsonl", "train")] == [1, 2, 3]
    assert (out / "checkpoints" / "step-000003").is_dir()
    monkeypatch.undo()
    assert heed(command, out=out, **options) == 0
    assert "going on after step 3, from " in capsys.readouterr().err
    check(out, in_one_piece(kind))


@pytest.mark.slow
def test_a_broken_start_leaves_nothing_that_a_second_start_stumbles_over(
    tmp_path, files, in_one_piece, monkeypatch, capsys
):
    command, options = options_of("ppo", files)
    out = tmp_path / "run"
    disturbed(monkeypatch, command, 1, power_cut)  # before the first checkpoint, after the first answers were kept
    with pytest.raises(RuntimeError, match="the power is cut"):
        heed(command, out=out, **options)
    monkeypatch.undo()
    assert heed(command, out=out, **options) == 0
    check(out, in_one_piece("ppo"))


def test_a_run_that_ended_early_stays_ended_when_its_last_act_is_repeated(tmp_path, files, monkeypatch, capsys):
    command, options = options_of("grpo", files)
    out = tmp_path / "run"
    monkeypatch.setattr(Run, "finish", lambda *_: power_cut())  # between the last checkpoint and the end
    with pytest.raises(RuntimeError, match="the power is cut"):
        heed(command, out=out, **options, kl_budget=0.01)
    monkeypatch.undo()
    steps = [line["step"] for line in lines(out / "metrics.jsonl", "train")]
    assert len(steps) < 5
    assert heed(command, out=out, **options, kl_budget=0.01) == 0
    assert [line["step"] for line in lines(out / "metrics.jsonl", "train")] == steps
    assert "ended early" in capsys.readouterr().err


def test_beta_goes_on_from_where_it_was(files, in_one_piece):
    whole = in_one_piece("ppo")
    betas = [line["beta"] for line in lines(whole / "metrics.jsonl", "train")]
    assert len(set(betas)) == 5
    assert state_of(whole)["beta"] not in betas, "the next phase would have one of its own"


def test_what_is_drawn_for_a_prompt_differs_from_phase_to_phase(in_one_piece):
    samples = lines(in_one_piece("grpo") / "samples.jsonl")
    assert len(samples) == 5 * 8
    drawn = [tuple(each["answer"] for each in samples if each["step"] == step) for step in range(1, 6)]
    assert len(set(drawn)) == 5

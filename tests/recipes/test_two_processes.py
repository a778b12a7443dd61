"""Two processes against one, from the command line to the saved model, for every recipe that trains.

Both in float64, the float32 casts inside the models widened, so that what remains between them is the order of sums.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tastes
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["heed.recipes.ppo", "heed.recipes.grpo", "heed.recipes.dpo", "heed.recipes.reward"])
SECONDS_AT_MOST = 300
SECONDS_AFTER_A_DEATH = 60

TUNING = {"batch_size": 6, "optim_lr": 5e-3, "eval_every": 2, "save_every": 2, "held_out_share": 0.1, "max_tokens": 64}
POLICY = {"steps": 3, "batch_size": 8, "max_new_tokens": 10, "lr": 1e-2, "save_every": 2, "max_tokens": 64}
RULE = "contains: wanted"
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("sft", "any", {**TUNING, "steps": 4, "lora_rank": 4, "template": "chatml"}),
    "sft, four bits": ("sft", "any", {**TUNING, "steps": 4, "lora_rank": 4, "template": "chatml", "quantise": "nf4"}),
    "grpo, four bits": (
        "grpo",
        "prompts",
        {**POLICY, "reward": RULE, "lora_rank": 4, "group_size": 4, "quantise": "nf4"},
    ),
    "sft, all parameters": ("sft", "any", {**TUNING, "steps": 4, "template": "chatml"}),
    "reward": ("reward", "ranked", {**TUNING, "epochs": 1, "lora_rank": 4}),
    "reward, all parameters": ("reward", "ranked", {**TUNING, "epochs": 1}),
    "dpo": ("dpo", "ranked", {**TUNING, "epochs": 1}),
    "kto": ("dpo", "judged", {**TUNING, "epochs": 1, "batch_size": 24, "objective": "kto", "lora_rank": 4}),
    "ppo": ("ppo", "prompts", {**POLICY, "reward": RULE, "lora_rank": 4, "kl_target": 0.5}),
    "ppo, a reward model": ("ppo", "prompts", {**POLICY, "reward": "model", "lora_rank": 4}),
    "ppo, all parameters": ("ppo", "prompts", {**POLICY, "reward": RULE, "lora_rank": 0, "ptx_data": "any"}),
    "grpo": ("grpo", "prompts", {**POLICY, "reward": RULE, "lora_rank": 4, "group_size": 4}),
}
IN_FLOAT32 = ("ppo, a reward model", "sft, four bits", "grpo, four bits")
"""a reward model's adapter knows its base by its weights, to the bit; and float64 is nothing that is packed"""
QUICK = ("reward", "kto", "grpo")
"""what the default suite runs; sft with all parameters is in test_resume.py"""
QUICK_TO_KILL = ("reward",)


def some_slow(quick):
    return [pytest.param(kind, marks=[] if kind in quick else [pytest.mark.slow]) for kind in KINDS]


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


def words_of(kind: str, files: dict[str, Path], out: Path, **more: object) -> list[str]:
    command, data, options = KINDS[kind]
    named = {name: files.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    options = {"model": files["tuned"], "data": files[data], "out": out, "device": "cpu", **named, **more}
    return [command, *tastes.words_of(**options)]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Of a process's part, what all of them have; every process asks."""
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def heed_watched(words: list[str], folder: Path, variables: dict[str, str], dtype: torch.dtype) -> None:
    """What a process does: the command line, and the first gradient that every optimiser is given."""
    from test_equivalence import CastsToFloat64

    from heed.cli.main import main
    from heed.recipes.training import setup

    os.environ.update(variables)
    rank = variables.get("RANK", "0")
    sys.stderr = open(folder / f"told-{rank}", "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (open until the end)
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    real = setup.load_with_tokenizer

    def load(*given: Any, **named: Any) -> Any:
        loaded = real(*given, **named)
        loaded.model.to(dtype)
        return loaded

    setup.load_with_tokenizer = load
    gradients: dict[int, list[torch.Tensor | None]] = {}

    def keep(optimiser, *_):
        if id(optimiser) not in gradients:
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            gradients[id(optimiser)] = [None if p.grad is None else whole(p.grad).clone() for p in parameters]
            torch.save(list(gradients.values()), folder / f"gradients-{rank}.pt")

    register_optimizer_step_pre_hook(keep)
    with CastsToFloat64() if dtype == torch.float64 else contextlib.nullcontext():
        sys.exit(main(words))


def meeting(processes: int, on_a_machine: int | None = None) -> list[dict[str, str]]:
    """The environment variables of each process, as torchrun sets them; none for a process on its own."""
    if processes == 1:
        return [{}]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    together["LOCAL_WORLD_SIZE"] = str(on_a_machine or processes)
    return [{**together, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]


def start(
    words: list[str], folder: Path, processes: int, dtype: torch.dtype, *, on_a_machine: int | None = None
) -> list[Any]:
    folder.mkdir()
    variables = meeting(processes, on_a_machine)
    started = [SERVER.Process(target=heed_watched, args=(words, folder, each, dtype)) for each in variables]
    for process in started:
        process.start()
    return started


def ended(
    words: list[str], folder: Path, processes: int, dtype: torch.dtype, *, on_a_machine: int | None = None
) -> None:
    """Run to the end."""
    started = start(words, folder, processes, dtype, on_a_machine=on_a_machine)
    try:
        for process in started:
            process.join(SECONDS_AT_MOST)
        told = "\n".join(path.read_text() for path in sorted(folder.glob("told-*")))
        assert [process.exitcode for process in started] == [0] * processes, told
    finally:
        for process in started:
            process.kill()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {name: each.double() for path in sorted(out.glob("*.safetensors")) for name, each in load_file(path).items()}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all weights, relative to their norm."""
    assert ours.keys() == theirs.keys()
    difference = math.sqrt(sum(float((ours[name] - theirs[name]).square().sum()) for name in theirs))
    return difference / math.sqrt(sum(float(each.square().sum()) for each in theirs.values()))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_learnt_alike(alone: Path, together: Path, processes: int, tolerance: float) -> None:
    """That first gradients, weights at the end and the numbers of every step are those of one process."""
    expected = torch.load(alone / "gradients-0.pt")
    for rank in range(processes):
        found = torch.load(together / f"gradients-{rank}.pt")
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            size = max(float(each.abs().max()) for each in theirs if each is not None)
            assert size > 0
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * size)
    assert weights(together / "run")
    assert distance(weights(together / "run"), weights(alone / "run")) < 1e-5
    ours, theirs = lines(together / "run"), lines(alone / "run")
    assert [(line["step"], line["phase"]) for line in ours] == [(line["step"], line["phase"]) for line in theirs]
    for here, there in zip(ours, theirs, strict=True):
        for name in here.keys() & {"loss", "score", "kl_per_sequence", "policy_loss", "num_tokens", "grad_norm"}:
            assert here[name] == pytest.approx(there[name], rel=1e-5, abs=1e-5), (name, here["step"])


@pytest.mark.parametrize("kind", some_slow(QUICK))
def test_two_processes_learn_what_one_does(tmp_path, files, kind):
    alone, together = tmp_path / "alone", tmp_path / "together"
    dtype, tolerance = (torch.float32, 1e-5) if kind in IN_FLOAT32 else (torch.float64, 1e-9)
    for folder, processes in ((alone, 1), (together, 2)):
        ended(words_of(kind, files, folder / "run"), folder, processes, dtype)
    assert_learnt_alike(alone, together, 2, tolerance)
    assert "going on" not in (together / "told-0").read_text()
    assert not (together / "told-1").read_text(), "the first process alone speaks"


@pytest.mark.parametrize("kind", some_slow(QUICK_TO_KILL))
def test_when_one_of_two_is_killed_in_training_the_other_ends_and_says_so(tmp_path, files, kind):
    assert_the_other_ends(kind, files, tmp_path / "both")


def assert_the_other_ends(kind: str, files: dict[str, Path], folder: Path, **more: object) -> None:
    """That a process whose partner is killed in training ends, and says so in five parts."""
    long = {"steps": 10_000} if "steps" in KINDS[kind][2] else {"epochs": 10_000}
    first, second = start(words_of(kind, files, folder / "run", **long, **more), folder, 2, torch.float32)
    try:
        give_up = time.monotonic() + SECONDS_AT_MOST
        while not (folder / "run" / "metrics.jsonl").exists() or lines(folder / "run")[-1]["step"] < 1:
            assert time.monotonic() < give_up
            assert first.is_alive(), (folder / "told-0").read_text()
            time.sleep(0.05)
        second.kill()
        first.join(SECONDS_AFTER_A_DEATH)
        assert first.exitcode == 2
        told = (folder / "told-0").read_text()
        assert "error: a process of this run has ended" in told
        assert "rank 1" in told
        assert "Traceback" not in told
        second.join(SECONDS_AT_MOST)
        assert second.exitcode == -signal.SIGKILL
    finally:
        first.kill()
        second.kill()

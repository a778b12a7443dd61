"""A run that is killed on two processes goes on, on any number of them, as if nothing had happened.

On as many as before the bits are those of the run in one piece; on others the order of sums differs, no more.
In float64, the float32 casts inside the models widened, as in test_two_processes.py.
"""

import functools
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from test_two_processes import SECONDS_AT_MOST, SERVER, distance, ended, files, lines, meeting, weights, words_of

__all__ = ["files"]

KILLED_AFTER = 3
"""steps, of which the first two are in a checkpoint"""
CLOCK = {"tokens_per_second", "seconds_sampling", "seconds_learning", "imbalance"}
"""numbers of the processes and their speed, and not of what is learnt"""
QUICK = ("reward",)
TRIED = ("sft", "dpo", "reward", "ppo", "grpo")
SLOW = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in TRIED]


def heed_killed(words: list[str], folder: Path, variables: dict[str, str], dtype: torch.dtype) -> None:
    """A process that is killed, as all others are, when the numbers of a step have been logged."""
    from test_two_processes import heed_watched

    from heed.train.run import Run

    log = Run.log

    def log_and_die(run: Run, step: int, phase: str, **numbers: float) -> None:
        log(run, step, phase, **numbers)
        if (step, phase) == (KILLED_AFTER, "train"):
            os.kill(os.getpid(), signal.SIGKILL)

    Run.log = log_and_die
    heed_watched(words, folder, variables, dtype)


def killed_on_two(words: list[str], folder: Path, dtype: torch.dtype = torch.float64) -> None:
    folder.mkdir()
    started = [SERVER.Process(target=heed_killed, args=(words, folder, each, dtype)) for each in meeting(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS_AT_MOST)
    assert -signal.SIGKILL in [process.exitcode for process in started], (folder / "told-0").read_text()
    assert 0 not in [process.exitcode for process in started]


def numbers_of(out: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines(out)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, files):
    """By kind: words of the command, the folder in which it was killed on two processes, and a run in one piece."""

    @functools.cache
    def of(kind: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("killed")
        killed_on_two(words_of(kind, files, folder / "killed" / "run"), folder / "killed")
        ended(words_of(kind, files, folder / "whole" / "run"), folder / "whole", 2, torch.float64)
        return folder / "killed", folder / "whole"

    return of


def gone_on(
    kind: str,
    files: dict[str, Path],
    killed: Path,
    folder: Path,
    processes: int,
    dtype: torch.dtype = torch.float64,
    **more: object,
) -> Path:
    """The finished run, gone on from a copy of the one that was killed."""
    shutil.copytree(killed / "run", folder.with_suffix(".run"))
    out = folder.with_suffix(".run")
    ended(words_of(kind, files, out, **more), folder, processes, dtype)
    told = (folder / "told-0").read_text()
    assert "going on after step 2" in told
    assert ("processes 2 -> " in told) == (processes != 2)
    return out


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_killed_on_two_processes_goes_on_on_another_number(tmp_path, files, killed, kind, processes):
    stopped, whole = killed(kind)
    out = gone_on(kind, files, stopped, tmp_path / "resumed", processes)
    assert_same_run(out, whole / "run")


def assert_same_run(out: Path, whole: Path) -> None:
    assert distance(weights(out), weights(whole)) < 1e-5
    ours, theirs = numbers_of(out), numbers_of(whole)
    assert [(line["step"], line["phase"]) for line in ours] == [(line["step"], line["phase"]) for line in theirs]
    for here, there in zip(ours, theirs, strict=True):
        for name in here.keys() | there.keys():
            if name != "phase" and name != "num_computed_tokens" and not name.startswith("sampler_gap"):
                assert here[name] == pytest.approx(there[name], rel=1e-5, abs=1e-5), (name, here["step"])


@pytest.mark.parametrize("kind", SLOW)
def test_a_run_killed_on_two_processes_and_gone_on_on_two_has_the_same_bits(tmp_path, files, killed, kind):
    stopped, whole = killed(kind)
    out = gone_on(kind, files, stopped, tmp_path / "resumed", 2)
    assert_same_bits(out, whole / "run")


def assert_same_bits(out: Path, whole: Path) -> None:
    files = [path.name for path in whole.glob("*.safetensors")]
    assert files
    for name in files:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert numbers_of(out) == numbers_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reward, all parameters", "dpo", "kto", "ppo, all parameters", "grpo"])
def test_a_divided_run_that_is_killed_goes_on_on_any_number_of_processes(tmp_path, files, kind):
    """Runs that do not need one another run beside each other. A reward model is read as float32 when a run goes on."""
    stopped, whole = tmp_path / "killed", tmp_path / "whole"
    shards, dtype = {"parallel": "fsdp"}, torch.float32 if kind.startswith("reward") else torch.float64
    with ThreadPoolExecutor() as beside:
        at_once = beside.submit(ended, words_of(kind, files, whole / "run", **shards), whole, 2, dtype)
        killed_on_two(words_of(kind, files, stopped / "run", **shards), stopped, dtype)
        at_once.result()
        goes_on = [
            beside.submit(gone_on, kind, files, stopped, tmp_path / f"on-{n}", n, dtype, **(shards if n > 1 else {}))
            for n in (1, 2, 3)
        ]
        on_one, on_two, on_three = (run.result() for run in goes_on)
    assert "a process holds" in (stopped / "told-0").read_text()
    assert_same_bits(on_two, whole / "run")
    assert_same_run(on_one, whole / "run")
    assert_same_run(on_three, whole / "run")

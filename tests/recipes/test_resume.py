"""A run that is killed and started again with the same command ends as if nothing had happened.

The processes are forked from a server that has imported everything once, so that a dozen of them take seconds.
"""

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tastes
import torch
from safetensors.torch import load_file

from heed.cli.main import main
from heed.recipes import sft
from heed.train.same_run import FREE

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["heed.recipes.sft", "heed.cli.main"])
SECONDS_AT_MOST = 300


def heed_sft(words: list[str], told: str, variables: dict[str, str]) -> None:
    """What a process does: the command line, its standard error in a file."""
    os.environ.update(variables)
    os.nice(10)  # so that who is to kill it at some moment does not come too late
    torch.set_num_threads(1)
    sys.stderr = open(told, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (open until the process dies)
    from heed.cli.main import main

    sys.exit(main(["sft", *words]))


class Command:
    """`heed sft` with fixed options, to be started again and again."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.out = folder / "run"
        self.told = folder / "told.txt"
        self.words = ["--out", str(self.out), "--device", "cpu", "--save-every", "5"]
        for name, value in options.items():
            self.words += [
                "--" + name.replace("lora_", "lora.").replace("optim_", "optim.").replace("_", "-"),
                str(value),
            ]

    def start(self, **variables: str) -> multiprocessing.Process:
        process = SERVER.Process(target=heed_sft, args=(self.words, str(self.told), variables))
        process.start()
        return process

    def to_the_end(self) -> int:
        process = self.start()
        process.join(SECONDS_AT_MOST)
        return process.exitcode

    def killed_when(self, it_is_time: Callable[[Path], bool]) -> bool:
        """Start, and kill at that moment; whether the moment came before the end."""
        process = self.start()
        give_up = time.monotonic() + SECONDS_AT_MOST
        while process.is_alive() and not it_is_time(self.out):
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        process.kill()
        process.join(SECONDS_AT_MOST)
        return process.exitcode == -signal.SIGKILL

    def steps_logged(self) -> list[int]:
        """Steps of the training lines, a last one that was cut short left out."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line["step"] for line in found if line["phase"] == "train"]

    def steps_gone_on_after(self) -> list[int]:
        """For each start that found a checkpoint, the step it went on after."""
        told = self.told.read_text().splitlines()
        return [int(line.split()[4].rstrip(",")) for line in told if line.startswith("going on after step ")]


def exists(name: str) -> Callable[[Path], bool]:
    return lambda out: any(out.glob(name))


def logged(step: int, phase: str = "train") -> Callable[[Path], bool]:
    text = f'"step": {step}, "phase": "{phase}"'
    return lambda out: (out / "metrics.jsonl").exists() and text in (out / "metrics.jsonl").read_text()


MOMENTS = {
    "the folder is made": Path.is_dir,
    "the settings are written": exists("config.yaml"),
    "data is prepared": exists("data/.tmp-train-0"),
    "data is prepared, but its account is not": exists("data/train-0"),
    "the account is written": exists("data/train-0/account.json"),
    "the start is measured": logged(0, "held_out"),
    "the first step is done": logged(1),
    "the fifth step is done": logged(5),
    "the first checkpoint is being written": exists("checkpoints/.tmp-step-000005*"),
    "the first checkpoint is there": exists("checkpoints/step-000005"),
    "the eighth step is done": logged(8),
    "the second checkpoint is being written": exists("checkpoints/.tmp-step-000010*/*.safetensors"),
    "the second checkpoint is there": exists("checkpoints/step-000010"),
    "the twelfth step is done": logged(12),
    "the last step is done": logged(13),
    "the end is measured": logged(13, "held_out"),
    "the last checkpoint is there": exists("checkpoints/step-000013"),
    "the model is being written": exists(".tmp-model"),
    "the model's files are being put in place": exists("config.json"),
}

KINDS = {
    "all parameters": {},
    "an adapter": {"lora_rank": 2},
    "an adapter and new tokens": {"lora_rank": 2, "template": "chatml"},
}

ALWAYS = (
    "the first checkpoint is being written",
    "the twelfth step is done",
)
"""the moments that the default suite tries one by one; the first test of this file goes through all of them"""


def some_slow(names: Iterable[str], always: Sequence[str]) -> list[Any]:
    """Parameters of a test of which only some run in the default suite."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def records(tmp_path_factory, colours) -> Path:
    """600 records, so that reading them takes long enough to be killed in."""
    path = tmp_path_factory.mktemp("records") / "data.jsonl"
    path.write_text(
        "".join(json.dumps({**r, "output": f"{r['output']} {i}"}) + "\n" for i, r in enumerate(colours * 25))
    )
    return path


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory, instruct, records):
    """The weights, as bytes, and the numbers of a run that nothing disturbs."""
    known: dict[str, tuple[bytes, list]] = {}

    def result(kind: str) -> tuple[bytes, list]:
        if kind not in known:
            command = Command(tmp_path_factory.mktemp("whole"), **options_of(kind, instruct, records))
            assert command.to_the_end() == 0
            known[kind] = (weights_of(command.out), numbers_of(command.out))
        return known[kind]

    return result


def options_of(kind: str, model: Path, data: Path) -> dict[str, object]:
    return {"model": model, "data": data, "steps": 13, "batch_size": 6, "eval_every": 4, **KINDS[kind]}


def weights_of(out: Path) -> bytes:
    (path,) = out.glob("*.safetensors")
    return path.read_bytes()


def numbers_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


@pytest.mark.parametrize("kind", some_slow(KINDS, ("all parameters", "an adapter and new tokens")))
def test_a_run_killed_again_and_again_ends_bit_identical(tmp_path, instruct, records, in_one_piece, kind):
    command = Command(tmp_path, **options_of(kind, instruct, records))
    num_killed = 0
    for it_is_time in MOMENTS.values():
        num_killed += command.killed_when(it_is_time)
    assert command.to_the_end() == 0
    # On a busy machine the run may come to its end between two looks at it; most kills find it at work.
    assert num_killed >= len(MOMENTS) // 2
    weights, numbers = in_one_piece(kind)
    assert weights_of(command.out) == weights
    assert numbers_of(command.out) == numbers
    assert not list(command.out.rglob(".tmp-*"))


@pytest.mark.parametrize("moment", some_slow(MOMENTS, ALWAYS))
def test_a_run_killed_once_repeats_five_steps_at_most(tmp_path, instruct, records, in_one_piece, moment):
    command = Command(tmp_path, **options_of("all parameters", instruct, records))
    command.killed_when(MOMENTS[moment])
    last, was_done = max(command.steps_logged(), default=0), (command.out / "state.json").exists()
    assert command.to_the_end() == 0
    if not was_done:
        assert last - max(command.steps_gone_on_after(), default=0) <= 5
    weights, numbers = in_one_piece("all parameters")
    assert weights_of(command.out) == weights
    assert numbers_of(command.out) == numbers
    assert command.steps_logged() == list(range(1, 14))


@pytest.mark.slow
def test_the_command_itself_survives_a_kill(tmp_path, instruct, records, in_one_piece):
    command = Command(tmp_path, **options_of("all parameters", instruct, records))
    typed = [sys.executable, "-m", "heed.cli.main", "sft", *command.words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(typed, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not logged(7)(command.out):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(typed, env=environment, capture_output=True, text=True, check=True)
    assert "going on after step 5, from " in done.stderr
    assert weights_of(command.out) == in_one_piece("all parameters")[0]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_run_of_a_release_with_gradient_checkpointing_goes_on(
    tmp_path, instruct, colours, write, tune, monkeypatch, capsys
):
    options = {"model": instruct, "data": write(colours), "steps": 4, "batch_size": 12, "save_every": 2}
    options["activations"] = "recompute"
    assert tune(**options, out=tmp_path / "whole") == 0
    broken_off(monkeypatch, lambda: tune(**options, out=tmp_path / "run"), after=3)
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    assert "activations: recompute\n" in text
    config.write_text(text.replace("activations: recompute\n", "gradient_checkpointing: true\n"))
    capsys.readouterr()
    assert tune(**options, out=tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert "going on after step 2, from " in told
    assert "going on with activations" not in told
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole"))
    assert all(torch.equal(ours[each], theirs[each]) for each in theirs)
    assert "gradient_checkpointing" not in config.read_text()


FREE_TO_CHANGE = {
    "save_every": 3,
    "keep_checkpoints": 1,
    "eval_every": 2,
    "eval_limit": 1,
    "keep_states": True,
    "max_tokens": 64,
    "activations": "selective",
    "share_prefixes": False,
    "device": "auto",
}
"""each with a value that the run was not started with"""


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", FREE_TO_CHANGE)
def test_a_run_goes_on_with_another_setting_that_is_free_and_ends_the_same(
    tmp_path, instruct, colours, write, tune, monkeypatch, capsys, name
):
    options = {"model": instruct, "data": write(colours), "steps": 4, "batch_size": 12, "save_every": 2}
    assert tune(**options, out=tmp_path / "whole") == 0
    broken_off(monkeypatch, lambda: tune(**options, out=tmp_path / "run"), after=3)
    capsys.readouterr()
    changed = {"device": "cpu", **options, name: FREE_TO_CHANGE[name], "out": f"{tmp_path}/./run"}
    assert main(["sft", *tastes.words_of(**changed)]) == 0
    told = capsys.readouterr().err
    assert "going on after step 2, from " in told
    assert f"going on with {name} {FREE_TO_CHANGE[name]} instead of " in told
    assert "read again" not in told
    ours, theirs = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole"))
    if FREE[name] == "exactly":
        assert all(torch.equal(ours[each], theirs[each]) for each in theirs)
    else:
        difference = math.sqrt(sum(float((ours[n] - theirs[n]).double().square().sum()) for n in theirs))
        assert difference / math.sqrt(sum(float(t.double().square().sum()) for t in theirs.values())) < 1e-5


def test_every_free_setting_is_tried():
    # The first is tried with each; trackers are programs of others; no model here brings code; and parts of a model
    # and sequences that are shared need several processes (test_sharded.py and test_shared_sequences.py go on with them
    # on another number).
    others = {"out", "track", "trust_remote_code", "parallel", "offload", "sequence_parallel"}
    assert FREE_TO_CHANGE.keys() | others >= FREE.keys()


def broken_off(monkeypatch, start: Callable[[], int], after: int) -> None:
    """Start a run whose process fails in the middle of the step after this one."""
    real = sft.take_step

    def step(tuning, number):
        if number == after + 1:
            raise RuntimeError("the power is cut")
        return real(tuning, number)

    monkeypatch.setattr(sft, "take_step", step)
    with pytest.raises(RuntimeError, match="the power is cut"):
        start()
    monkeypatch.undo()


def test_a_template_that_was_edited_is_refused_and_nothing_is_learnt_with_it(
    tmp_path, base, colours, write, tune, monkeypatch, capsys
):
    template = tmp_path / "template.jinja"
    text = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    template.write_text(text)
    options = {"model": base, "data": write(colours), "template": template, "steps": 4, "batch_size": 2}
    broken_off(monkeypatch, lambda: tune(**options, out=tmp_path / "run", save_every=2), after=3)
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    template.write_text(text.replace("[", "<").replace("]", ">"))
    capsys.readouterr()
    assert tune(**options, out=tmp_path / "run", save_every=2) == 2
    assert "error: the chat template has changed since this run began" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()} == before
    template.write_text(text)
    assert tune(**options, out=tmp_path / "run", save_every=2) == 0


def test_data_that_changed_is_refused_and_data_that_moved_back_goes_on(
    tmp_path, instruct, colours, write, tune, monkeypatch, capsys
):
    data = write(colours)
    options = {"model": instruct, "data": data, "out": tmp_path / "run", "steps": 4, "batch_size": 2, "save_every": 2}
    broken_off(monkeypatch, lambda: tune(**options), after=3)
    text = data.read_text()
    data.write_text(text.replace("blue", "grey"))
    capsys.readouterr()
    assert tune(**options) == 2
    told = capsys.readouterr().err
    assert "error: the data has changed since this run began" in told
    assert data.name in told
    data.write_text(text)  # the same content, written later
    assert tune(**options) == 0
    assert "read again" not in capsys.readouterr().err


def test_sigterm_saves_the_step_ends_with_143_and_the_same_command_goes_on(tmp_path, instruct, records, in_one_piece):
    command = Command(tmp_path, **options_of("all parameters", instruct, records))
    process = command.start()
    while process.is_alive() and not logged(2)(command.out):
        time.sleep(0.001)
    process.terminate()
    process.join(SECONDS_AT_MOST)
    assert process.exitcode == 143
    assert "the same command goes on" in command.told.read_text()
    last = max(command.steps_logged())
    assert (command.out / "checkpoints" / f"step-{last:06d}").is_dir()
    assert command.to_the_end() == 0
    assert command.steps_gone_on_after() == [last]
    assert weights_of(command.out) == in_one_piece("all parameters")[0]


def test_other_settings_are_refused_and_nothing_changes(tmp_path, instruct, colours, write, tune, capsys):
    options = {"model": instruct, "data": write(colours), "out": tmp_path / "run", "steps": 2, "batch_size": 2}
    assert tune(**options) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert tune(**options, seed=1) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the output folder belongs to another run\n")
    assert "seed = 1 in these settings" in told
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_second_process_on_one_folder_is_refused(tmp_path, instruct, records):
    command = Command(tmp_path, **{**options_of("all parameters", instruct, records), "steps": 100_000})
    first = command.start()
    try:
        while first.is_alive() and not logged(1)(command.out):
            time.sleep(0.001)
        command.told = tmp_path / "second.txt"
        assert command.to_the_end() == 2
        assert f"error: another process is writing this run\n  where:    {command.out}\n" in command.told.read_text()
        assert f"process {first.pid} holds" in command.told.read_text()
        assert first.is_alive()
    finally:
        first.kill()
        first.join(SECONDS_AT_MOST)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_two_processes_train_what_one_does(tmp_path, instruct, records):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    # Few tokens to a forward, so that there is work for both.
    alone, together = (Command(f, model=instruct, data=records, steps=5, batch_size=12, max_tokens=64) for f in folders)
    assert alone.to_the_end() == 0
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [together.start(RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in range(2)]
    for process in processes:
        process.join(SECONDS_AT_MOST)
    assert [process.exitcode for process in processes] == [0, 0]
    ours, theirs = (load_file(command.out / "model.safetensors") for command in (together, alone))
    difference = math.sqrt(sum(float((ours[n] - theirs[n]).double().square().sum()) for n in theirs))
    assert difference / math.sqrt(sum(float(t.double().square().sum()) for t in theirs.values())) < 1e-5
    lines = [[line for line in numbers_of(c.out) if line["phase"] == "train"] for c in (together, alone)]
    for here, there in zip(*lines, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
        assert here["num_trained_tokens"] == there["num_trained_tokens"]
        assert here["num_tokens"] == there["num_tokens"]

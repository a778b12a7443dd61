"""The reference's pass over the data: on disk, block by block, only what is needed, and whole after any death."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import tastes
import torch
from tastes import heed

from heed.data.mixture import DatasetShare
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.preference.reference import AT_A_TIME, KEPT, ROW_SIZE, reference_logp
from heed.recipes.training.data_sets import Draws
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching
from heed.train.progress import Progress
from heed.train.run import open_run
from heed.types import Tokens

NUM_GROUPS = 3 * AT_A_TIME + 9
BLOCK_SIZE = 2 * AT_A_TIME * ROW_SIZE


def group(number):
    """Two answers to a prompt, of lengths that differ."""
    prompt = [number % 50, number // 50]
    weight = np.array([0, 0, 1, 1, 1], dtype=np.float32)
    return tuple(Tokens(np.array([*prompt, 60, 61 + i, 63], dtype=np.int32), weight) for i in (0, 1))


def groups(count=NUM_GROUPS):
    return (group(number) for number in range(count))


class Model:
    """log p that depends on the forest's tokens and, as rounding does, on what else is in the forest."""

    def __init__(self, wrong=0.0):
        self.num_sequences, self.wrong = 0, wrong

    def __call__(self, forest):
        self.num_sequences += forest.num_sequences
        return -forest.ids[forest.source].double().add(1).log() - 1e-9 * forest.num_tokens + self.wrong


@pytest.fixture
def place(tmp_path):
    with open_run(tmp_path / "run", "seed: 0\n", {}) as folder:
        yield Place(folder, torch.device("cpu"), World(), Progress("", shown=False))


def passed(place, model=None, of=None, count=NUM_GROUPS):
    batching = MicroBatching(64, True, place.world)
    return reference_logp(of or groups(), model or Model(), place, batching, num_groups=count)


def test_every_sequence_has_the_sum_over_its_trained_tokens(place):
    model = Model()
    reference = passed(place, model)
    assert model.num_sequences == 2 * NUM_GROUPS
    # Behind the prompt, 60 comes from the second token of the prompt, and so on.
    expected = [-sum(np.log1p(tokens.ids[1:4])) for tokens in group(77)]
    assert reference(group(77)) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(KeyError):
        reference(group(NUM_GROUPS + 1))


def test_the_pass_holds_a_block_in_memory_and_not_the_data(place):
    alive, most = weakref.WeakValueDictionary(), 0

    def watched():
        nonlocal most
        for number in range(NUM_GROUPS):
            made = group(number)
            alive[number] = made[0].ids
            most = max(most, len(alive))
            yield made

    passed(place, of=watched())
    assert most <= 2 * AT_A_TIME + 2


@pytest.mark.parametrize("cut", [0, 1, ROW_SIZE, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE, None])
def test_a_pass_that_was_cut_anywhere_goes_on_and_ends_bit_for_bit_the_same(place, cut):
    path = place.folder.folder / KEPT
    passed(place)
    whole = path.read_bytes()
    assert len(whole) == 2 * NUM_GROUPS * ROW_SIZE
    path.write_bytes(whole[:cut])
    model = Model()
    passed(place, model)
    assert path.read_bytes() == whole
    num_kept = len(whole) if cut is None else cut // BLOCK_SIZE * BLOCK_SIZE
    assert model.num_sequences == (len(whole) - num_kept) // ROW_SIZE


def test_a_row_that_a_power_cut_left_in_zeros_is_computed_again(place):
    path = place.folder.folder / KEPT
    passed(place)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    at = 200 * ROW_SIZE
    damaged[at + 16 : at + 24] = bytes(8)  # a log-probability of 0
    path.write_bytes(damaged)
    passed(place)
    assert path.read_bytes() == whole


def test_what_was_computed_of_other_data_is_not_taken_for_these(place):
    passed(place)
    passed(place, of=(group(number) for number in range(5, 80)), count=75)
    assert (place.folder.folder / KEPT).stat().st_size == 2 * 75 * ROW_SIZE


def test_a_reference_that_overflows_is_refused(place):
    with pytest.raises(UserError, match="finite"):
        passed(place, Model(wrong=float("nan")))


def test_draws_name_each_record_that_a_run_comes_to():
    draws = Draws((DatasetShare(10, 1.0, None), DatasetShare(50, 1.0, 5)), 3)
    for num_draws in (1, 4, 15, 31, 400):
        drawn = {(dataset, record) for dataset, record, _ in draws.of_step(1, num_draws, num_draws)}
        found = {(dataset, int(at)) for dataset, places in enumerate(draws.drawn(num_draws)) for at in places}
        assert found == drawn


def test_only_what_is_drawn_or_measured_is_computed(tmp_path, tuned):
    data = tastes.write(tmp_path / "ranked.jsonl", [r for r in tastes.liking_green() if "chosen" in r])
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {{path: {data}, cap: 6}}\n", encoding="utf-8")
    options = ["--batch-size", "3", "--held-out-share", "0.2"]
    words = ["--model", str(tuned), "--out", str(tmp_path / "run"), "--device", "cpu", *options]
    assert tastes.main(["dpo", str(config), *words]) == 0
    numbers = tastes.lines(tmp_path / "run" / "metrics.jsonl", "held_out")[0]
    size = (tmp_path / "run" / KEPT).stat().st_size
    assert size == 2 * (6 + numbers["num_prompts"]) * ROW_SIZE


def test_an_objective_without_a_reference_asks_none(tmp_path, tuned):
    data = tastes.write(tmp_path / "ranked.jsonl", tastes.liking_green())
    assert heed("dpo", model=tuned, data=data, out=tmp_path / "run", objective="simpo", batch_size=15) == 0
    assert not (tmp_path / "run" / KEPT).exists()


def started(out: Path, data: Path, model: Path) -> subprocess.Popen:
    words = ["dpo", "--model", model, "--data", data, "--out", out, "--batch-size", "64", "--device", "cpu"]
    words += ["--held-out-share", "0", "--max-tokens", "200"]
    return subprocess.Popen([sys.executable, "-m", "heed.cli.main", *map(str, words)], stderr=subprocess.DEVNULL)


def test_a_run_killed_in_the_pass_goes_on_with_it(tmp_path, tuned):
    records = [
        {"prompt": f"{question} {i}", "chosen": "It is green.", "rejected": "It is red."}
        for i in range(10)
        for question in tastes.QUESTIONS
    ]
    data = tastes.write(tmp_path / "pairs.jsonl", records)
    assert started(tmp_path / "whole", data, tuned).wait() == 0
    killed = started(tmp_path / "run", data, tuned)
    path = tmp_path / "run" / KEPT
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() != 0
    assert path.stat().st_size < (tmp_path / "whole" / KEPT).stat().st_size
    assert started(tmp_path / "run", data, tuned).wait() == 0
    assert path.read_bytes() == (tmp_path / "whole" / KEPT).read_bytes()
    weights = "model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()

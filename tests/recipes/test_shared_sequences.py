"""Groups of processes that share each forest's tokens against one process, for every recipe that trains."""

import json
import shutil

import pytest
import torch
from test_two_processes import (
    SECONDS_AT_MOST,
    assert_learnt_alike,
    assert_the_other_ends,
    distance,
    ended,
    files,
    start,
    weights,
    words_of,
)

from heed.dist.together import Together
from heed.dist.world import World
from heed.errors import UserError
from heed.models.score import BY_ROWS
from heed.models.self_check import ChosenScore
from heed.recipes.training import sharing

__all__ = ["files"]  # a fixture

WAYS = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "recomputed": {"parallel": "fsdp", "activations": "recompute"},
}
CASES = [
    ("sft, all parameters", "ddp", 2),
    ("sft, all parameters", "fsdp", 4),
    ("sft", "recomputed", 4),
    ("reward, all parameters", "fsdp", 2),
    ("dpo", "ddp", 4),
    ("kto", "fsdp", 2),
    ("ppo, all parameters", "fsdp", 2),
    ("grpo", "ddp", 4),
]
QUICK = [("sft, all parameters", "ddp", 2)]


@pytest.mark.parametrize(
    ("kind", "way", "processes"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_groups_that_share_sequences_learn_what_one_process_does(tmp_path, files, kind, way, processes):
    alone, together = tmp_path / "alone", tmp_path / "together"
    ended(words_of(kind, files, alone / "run"), alone, 1, torch.float64)
    words = words_of(kind, files, together / "run", **WAYS[way], sequence_parallel=2)
    ended(words, together, processes, torch.float64)
    assert_learnt_alike(alone, together, processes, 1e-9)
    counted = [json.loads(line) for line in (together / "run" / "metrics.jsonl").read_text().splitlines()]
    alone_counted = [json.loads(line) for line in (alone / "run" / "metrics.jsonl").read_text().splitlines()]
    for here, there in zip(counted, alone_counted, strict=True):  # counts of a group are counted once
        for name in {name for name in here if name.startswith("num_")} - {"num_computed_tokens"}:
            assert here[name] == there[name], name
    assert "groups of 2 processes share each forward's tokens" in (together / "told-0").read_text()


@pytest.mark.slow
def test_in_float32_the_weights_after_five_steps_are_those_of_one_process(tmp_path, files, shared):
    """Of a real model, its table embedding and head at once, its 4 heads of keys for 8 of queries."""
    more = {"model": shared / "models" / "stories260K", "lora_rank": 0, "template": "alpaca", "steps": 5}
    alone, together = tmp_path / "alone", tmp_path / "together"
    ended(words_of("sft", files, alone / "run", **more), alone, 1, torch.float32)
    words = words_of("sft", files, together / "run", **more, sequence_parallel=2, parallel="fsdp")
    ended(words, together, 4, torch.float32)
    assert distance(weights(together / "run"), weights(alone / "run")) < 1e-5


@pytest.mark.slow
def test_a_run_of_groups_goes_on_on_one_process(tmp_path, files):
    whole, groups = tmp_path / "whole", tmp_path / "groups"
    kind = "sft, all parameters"
    ended(words_of(kind, files, whole / "run"), whole, 1, torch.float64)
    run, again = groups / "run", tmp_path / "again"
    ended(words_of(kind, files, run, keep_states=True, sequence_parallel=2), groups, 2, torch.float64)
    shutil.rmtree(sorted((run / "checkpoints").glob("step-*"))[-1])  # as a kill before it leaves the run
    (run / "state.json").unlink()
    ended(words_of(kind, files, run, keep_states=True), again, 1, torch.float64)
    assert "going on after step 2" in (again / "told-0").read_text()
    assert distance(weights(run), weights(whole / "run")) < 1e-5


@pytest.mark.slow
def test_when_one_of_a_group_is_killed_the_other_ends_and_says_so(tmp_path, files):
    assert_the_other_ends("sft, all parameters", files, tmp_path / "both", sequence_parallel=2)


@pytest.mark.parametrize(
    ("processes", "size", "found", "fix"),
    [
        pytest.param(1, 2, "one process", "torchrun --nproc-per-node 2", marks=pytest.mark.slow),
        pytest.param(3, 2, "3 processes", "--sequence-parallel 1", marks=pytest.mark.slow),
        (3, 3, "4 attention heads", "--sequence-parallel 1"),
    ],
)
def test_groups_that_cannot_be_are_refused_once_and_all_processes_end(tmp_path, files, processes, size, found, fix):
    folder = tmp_path / "some"
    words = words_of("sft, all parameters", files, folder / "run", sequence_parallel=size)
    started = start(words, folder, processes, torch.float32)
    for process in started:
        process.join(SECONDS_AT_MOST)
    assert [process.exitcode for process in started] == [2] * processes
    told = "".join(path.read_text() for path in folder.glob("told-*"))
    assert "Traceback" not in told
    assert told.count("error:") == 1
    lines = told[told.index("error:") :].splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "where", "found", "expected", "fix"]
    assert f"--sequence-parallel {size}" in lines[1]
    assert found in lines[2]
    assert fix in lines[4]


def test_a_model_whose_attention_cannot_be_replaced_is_refused():
    world = World(0, 2, together=Together(0, 2, None))
    with pytest.raises(UserError, match="only where heed computes its attention") as caught:
        sharing.shared(ChosenScore(None, BY_ROWS, False, "chunked attention cannot be replaced"), world, print, "model")
    assert caught.value.found == "chunked attention cannot be replaced"
    assert caught.value.fix == "--sequence-parallel 1"

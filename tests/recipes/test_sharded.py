"""Processes that each hold a part of the model against one that holds it all, for every recipe that trains."""

import json
import shutil

import pytest
import torch
from test_two_processes import (
    IN_FLOAT32,
    assert_learnt_alike,
    assert_the_other_ends,
    distance,
    ended,
    files,
    weights,
    words_of,
)

from heed.files import TEMPORARY

__all__ = ["files"]  # a fixture

WAYS = {
    "fsdp": {"parallel": "fsdp"},
    "hsdp": {"parallel": "hsdp"},
    "products kept": {"parallel": "fsdp", "activations": "selective"},
    "recomputed": {"parallel": "fsdp", "activations": "recompute", "offload": "parameters,optimiser"},
}
CASES = [
    ("sft, all parameters", "fsdp", 2),
    ("sft", "recomputed", 2),
    ("sft, all parameters", "recomputed", 3),
    ("sft, all parameters", "hsdp", 4),
    ("sft, all parameters", "products kept", 2),
    ("sft, four bits", "fsdp", 2),
    ("reward", "fsdp", 2),
    ("reward, all parameters", "fsdp", 3),
    ("dpo", "fsdp", 2),
    ("kto", "fsdp", 2),
    ("ppo", "fsdp", 2),
    ("ppo, a reward model", "fsdp", 2),
    ("ppo, all parameters", "fsdp", 2),
    ("grpo", "fsdp", 3),
]
QUICK = [("sft, all parameters", "fsdp", 2)]


@pytest.mark.parametrize(
    ("kind", "way", "processes"),
    [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_processes_that_hold_parts_learn_what_one_does_that_holds_all(tmp_path, files, kind, way, processes):
    alone, together = tmp_path / "alone", tmp_path / "together"
    dtype, tolerance = (torch.float32, 1e-5) if kind in IN_FLOAT32 else (torch.float64, 1e-9)
    ended(words_of(kind, files, alone / "run"), alone, 1, dtype)
    words = words_of(kind, files, together / "run", **WAYS[way])
    ended(words, together, processes, dtype, on_a_machine=2 if way == "hsdp" else None)
    assert_learnt_alike(alone, together, processes, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_a_divided_run_goes_on_on_another_number_of_processes(tmp_path, files, processes):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    kind = "sft, all parameters"
    ended(words_of(kind, files, whole / "run"), whole, 1, torch.float64)
    ended(words_of(kind, files, parts / "run", **WAYS["fsdp"], keep_states=True), parts, 2, torch.float64)
    run, again = parts / "run", tmp_path / "again"
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)  # as a kill before it leaves the run
    (run / "state.json").unlink()
    more = WAYS["fsdp"] | {"offload": "optimiser"} if processes > 1 else {}
    ended(words_of(kind, files, run, keep_states=True, **more), again, processes, torch.float64)
    assert "going on after step 2" in (again / "told-0").read_text()
    assert distance(weights(run), weights(whole / "run")) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_table_that_is_embedding_and_head_at_once_is_divided_once(tmp_path, files, shared, rank):
    more = {"model": shared / "models" / "stories260K", "lora_rank": rank, "template": "alpaca"}
    alone, together = tmp_path / "alone", tmp_path / "together"
    ended(words_of("sft, all parameters", files, alone / "run", **more), alone, 1, torch.float64)
    ended(words_of("sft, all parameters", files, together / "run", **more, **WAYS["fsdp"]), together, 2, torch.float64)
    assert distance(weights(together / "run"), weights(alone / "run")) < 1e-5


def test_a_divided_run_that_keeps_its_best_model_leaves_nothing_beside_it(tmp_path, files):
    """A learning rate at which it gets worse, so that the best model is not the last."""
    worse = {"keep_best": True, "optim_lr": 0.5, "eval_every": 1, **WAYS["fsdp"]}
    ended(
        words_of("sft, all parameters", files, tmp_path / "both" / "run", **worse), tmp_path / "both", 2, torch.float32
    )
    run = tmp_path / "both" / "run"
    assert json.loads((run / "best.json").read_text())["kept_step"] < 4
    assert [path.name for path in run.rglob("*") if path.name.startswith(TEMPORARY)] == []


@pytest.mark.slow
def test_when_one_of_two_that_hold_parts_is_killed_the_other_ends_and_says_so(tmp_path, files):
    assert_the_other_ends("sft, all parameters", files, tmp_path / "both", **WAYS["fsdp"])

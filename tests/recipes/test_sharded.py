"""Processes that each hold a part of the model against one that holds it all, for every recipe that trains."""

import shutil

import pytest
import torch
from test_two_processes import IN_FLOAT32, KINDS, TUNING, distance, ended, files, lines, weights, words_of

__all__ = ["files"]  # a fixture

KINDS["sft, all parameters"] = ("sft", "any", {**TUNING, "steps": 4, "template": "chatml"})
WAYS = {
    "fsdp": {"parallel": "fsdp"},
    "hsdp": {"parallel": "hsdp"},
    "recomputed": {"parallel": "fsdp", "gradient_checkpointing": True, "offload": "parameters,optimiser"},
}
CASES = [
    ("sft, all parameters", "fsdp", 2),
    ("sft", "recomputed", 2),
    ("sft, all parameters", "recomputed", 3),
    ("sft, all parameters", "hsdp", 4),
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
    more = WAYS["fsdp"] if processes > 1 else {}
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

"""Groups of processes that share each forest's tokens against one process, for every recipe that trains."""

import pytest
import torch
from test_two_processes import assert_learnt_alike, ended, files, words_of

__all__ = ["files"]  # a fixture

WAYS = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "recomputed": {"parallel": "fsdp", "gradient_checkpointing": True},
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
    assert "groups of 2 processes share each forward's tokens" in (together / "told-0").read_text()

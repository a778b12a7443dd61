"""The bench's own parts: the same records and tokens for both sides. TRL is not needed."""

import importlib
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import Tokenizer

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("workload")


def records_of_lengths(lengths: range) -> list[dict]:
    return [{"prompt_ids": [1] * (n - n // 2), "response_ids": [2] * (n // 2)} for n in lengths]


def test_both_orders_hold_the_same_records_after_the_same_warmup(workload: ModuleType) -> None:
    records = records_of_lengths(range(10, 410))
    orders = workload.draw_orders(records, warmup=2, steps=4, batch_size=16, seed=0)
    shuffled, grouped = orders["shuffled"], orders["grouped"]
    assert shuffled[:2] == grouped[:2]
    assert sorted(chain(*shuffled[2:])) == sorted(chain(*grouped[2:]))
    assert len(set(chain(*shuffled))) == 6 * 16


def test_grouped_steps_are_as_even_as_in_the_whole_data_set(workload: ModuleType) -> None:
    records = records_of_lengths(range(10, 1610))
    grouped = workload.draw_orders(records, warmup=1, steps=4, batch_size=16, seed=0)["grouped"][1:]
    spread = max(
        max(workload.length(records[i]) for i in step) - min(workload.length(records[i]) for i in step)
        for step in grouped
    )
    assert spread < 1600 / 10


def test_padding_is_counted_in_positions(workload: ModuleType) -> None:
    records = records_of_lengths(range(2, 6))
    assert workload.padded_share(records, [[0, 3, 1, 2]], 1) == 0
    assert workload.padded_share(records, [[0, 3, 1, 2]], 2) == pytest.approx(1 - 14 / 18)
    assert workload.padded_share(records, [[0, 3, 1, 2]], 4) == pytest.approx(1 - 14 / 20)


def test_records_that_the_two_sides_would_cut_differently_are_left_out(workload: ModuleType, shared: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared / "tokenizers/gpt2/tokenizer.json"))
    texts = [("Say yes.\n", "yes"), ("Answer: ", "yes"), ("long " * 50, "yes")]
    records = [{"prompt": prompt, "completion": completion} for prompt, completion in texts]
    kept, left_out = workload.with_ids(records, tokenizer, max_length=40)
    assert [record["prompt"] for record in kept] == ["Say yes.\n"]
    assert left_out == {"too_long": 1, "token_across_the_edge": 1}
    assert tokenizer.decode(kept[0]["response_ids"], skip_special_tokens=False) == "yes<|endoftext|>"


def test_heed_alone_gives_one_json_line(shared: Path) -> None:
    small = ["--layers", "1", "--width", "64", "--pool", "64", "--steps", "1", "--search-steps", "1", "--repeats", "1"]
    command = [sys.executable, str(BENCH / "sft.py"), "--shared", str(shared), "--threads", "1", *small, "--settings"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["heed"]["cpu_seconds"] > 0
    assert result["heed"]["peak_memory_bytes"] > 2**20
    assert result["cpu_ratio_vs_trl_best"] is None


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_heed_alone_on_pairs_gives_one_json_line(kind: str, shared: Path) -> None:
    small = ["--layers", "1", "--width", "64", "--pool", "64", "--steps", "1", "--repeats", "1", "--threads", "1"]
    command = [sys.executable, str(BENCH / f"{kind}.py"), "--shared", str(shared), *small, "--rows"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["heed"]["cpu_seconds"] > 0
    assert (result["heed"]["reference_cpu_seconds"] > 0) == (kind == "dpo")
    assert result["heed"]["peak_memory_bytes"] > 2**20
    assert result["cpu_ratio"] is result["memory_ratio"] is None


def test_adapters_need_no_more_memory_than_separate_models(shared: Path) -> None:
    small = ["--layers", "2", "--width", "256", "--prompts", "2", "--new-tokens", "2", "--threads", "1"]
    command = [sys.executable, str(BENCH / "ppo_memory.py"), "--shared", str(shared), "--max-prompt-length", "64"]
    done = subprocess.run([*command, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert 0.1 < json.loads(line)["memory_ratio"] < 1


@pytest.fixture
def pairs(workload: ModuleType) -> ModuleType:
    return importlib.import_module("pairs")


def test_steps_of_pairs_take_none_twice_and_are_sorted_by_length(pairs: ModuleType) -> None:
    some = [{"prompt_ids": [1] * (n % 97), "chosen_ids": [2] * (n % 31 + 1), "rejected_ids": [3]} for n in range(100)]
    steps = pairs.draw_steps(some, warmup=1, steps=3, batch_size=8, seed=0)
    assert [len(step) for step in steps] == [8] * 4
    assert len(set(chain(*steps))) == 4 * 8
    for step in steps:
        lengths = [pairs.padded_length(some[i]) for i in step]
        assert lengths == sorted(lengths)


def test_pairs_that_the_two_sides_would_cut_differently_are_left_out(pairs: ModuleType, shared: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared / "tokenizers/gpt2/tokenizer.json"))
    texts = [("Say yes.", " yes", " no"), ("Answer: ", "yes", "no"), ("long " * 50 + "words", " yes", " no")]
    given = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in texts]
    kept, left_out = pairs.with_ids(given, tokenizer, max_length=40)
    assert [pair["prompt"] for pair in kept] == ["Say yes."]
    assert left_out == {"too_long": 1, "token_across_the_edge": 1}
    assert tokenizer.decode(kept[0]["chosen_ids"], skip_special_tokens=False) == " yes<|endoftext|>"


@pytest.mark.slow
def test_heed_alone_under_lm_eval_gives_one_json_line(shared: Path) -> None:
    if not (shared / "eval").is_dir():
        pytest.skip("the evaluation files are not here")
    small = [
        "--layers",
        "1",
        "--width",
        "64",
        "--questions",
        "2",
        "--beside-questions",
        "1",
        "--threads",
        "1",
        "--rows",
    ]
    command = [sys.executable, str(BENCH / "eval.py"), "--shared", str(shared), *small]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["heed"]["cpu_seconds"] > 0
    assert result["heed"]["peak_memory_bytes"] > 2**20
    assert result["cpu_ratio"] is result["hf"] is None
    assert 500 <= result["task"]["prefix_tokens"] <= 700
    assert 75 <= result["task"]["question_tokens"] <= 125

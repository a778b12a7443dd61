"""PPO and GRPO learn through vLLM what they learn with heed's own sampler: three seeds of each, paired."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tastes
from test_vllm import tuned

from heed.engine.client import Server, UnreachableError
from heed.engine.start import command_of, environment_of

__all__ = ["tuned"]  # a fixture

PYTHON = Path(__file__).parents[2] / ".venv-engine" / "bin" / "python"
SEEDS = (0, 1, 2)
T_OF_TWO = 4.303
"""quantile 0.975 of Student's t with two degrees of freedom"""
LATE = 5
"""phases at the end whose rewards are averaged"""
COMMANDS = {
    "grpo": {"group_size": 4, "batch_size": 32, "steps": 20, "lr": 5e-3},
    "ppo": {"batch_size": 32, "steps": 20, "lr": 5e-3},
}
OPTIONS = {"max_new_tokens": 12, "temperature": 1.0, "lora_rank": 4, "save_every": 0, "eval_limit": 4}


@pytest.fixture(scope="module")
def server(tuned, tmp_path_factory):
    """A server that somebody started, for all runs one after the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    log = tmp_path_factory.mktemp("server") / "log"
    words = command_of(str(PYTHON), str(tuned), url, dtype="float32", positions=64, rank=4)
    variables = environment_of(os.environ) | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as told:
        process = subprocess.Popen(words, env=variables, stdout=told, stderr=told)
    try:
        for _ in range(600):
            try:
                Server(url).facts()
                break
            except UnreachableError:
                assert process.poll() is None, log.read_text()
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def rewards(command, seed, out, tuned, **more):
    """Mean reward of the first phase, and of the last ones."""
    data = tastes.write(out.parent / "prompts.jsonl", tastes.prompts())
    given = OPTIONS | COMMANDS[command] | {"seed": seed, "reward": "contains: wanted"} | more
    assert tastes.heed(command, model=tuned, data=data, out=out, **given) == 0
    scores = [line["score"] for line in tastes.lines(out / "metrics.jsonl", "train")]
    return scores[0], float(np.mean(scores[-LATE:]))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_policy_learns_through_vllm_what_it_learns_with_heeds_own_sampler(tmp_path, tuned, server, command):
    """The interval of the paired differences (95%, t of three seeds) holds zero, and every run learns."""
    served = {"rollout": "vllm", "rollout.url": server}
    differences = []
    for seed in SEEDS:
        first, ours = rewards(command, seed, tmp_path / f"ours-{seed}", tuned)
        start, theirs = rewards(command, seed, tmp_path / f"theirs-{seed}", tuned, **served)
        print(f"{command}, seed {seed}: {first:.3f} -> {ours:.3f} heed, {start:.3f} -> {theirs:.3f} vLLM", flush=True)
        assert min(ours - first, theirs - start) > 0.3
        differences.append(theirs - ours)
    mean, half = float(np.mean(differences)), T_OF_TWO * float(np.std(differences, ddof=1)) / np.sqrt(len(SEEDS))
    print(f"{command}: vLLM - heed {mean:+.3f}, 95% interval {mean - half:+.3f} to {mean + half:+.3f}", file=sys.stderr)
    assert abs(mean) <= half or abs(mean) < 0.01

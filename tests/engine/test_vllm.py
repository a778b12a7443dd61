"""Rollouts on vLLM itself: its log-probabilities, its weights in every phase, and its death in mid-phase."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tastes
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

TESTS = Path(__file__).parents[1]
START = "import sys; from heed.cli.main import main; sys.exit(main(sys.argv[1:]))"
SPECIAL = ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
OPTIONS = {"steps": 3, "batch_size": 16, "max_new_tokens": 12, "lr": 3e-3, "temperature": 0.9, "save_every": 0}


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """A model that names some colour, with heads of 32, the smallest that vLLM's attention on a CPU takes."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("of_recipes", TESTS / "recipes" / "conftest.py")
    of_recipes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(of_recipes)
    folder = tmp_path_factory.mktemp("engine")
    tokenizer = of_recipes.make_tokenizer(SPECIAL, of_recipes.OWN_TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    data = tastes.write(folder / "any.jsonl", tastes.any_colour())
    options = {"steps": 50, "batch_size": 12, "optim_lr": 1e-2, "held_out_share": 0}
    assert tastes.heed("sft", model=folder / "base", data=data, out=folder / "run", **options) == 0
    return folder / "run"


def command(tuned, out, name, **options):
    data = tastes.write(out.parent / "prompts.jsonl", tastes.prompts())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_server = {"rollout": "vllm", "rollout.start": True, "rollout.url": f"http://127.0.0.1:{port}"}
    of_server |= {"rollout.python": TESTS.parent / ".venv-engine" / "bin" / "python"}
    given = OPTIONS | {"model": tuned, "data": data, "out": out, "reward": "contains: wanted"} | of_server | options
    words = [sys.executable, "-c", START, name, "--device", "cpu", *tastes.words_of(**given)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def engine_of(run: subprocess.Popen) -> int:
    """The server's process, which leads a session of its own."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(run.pid)], capture_output=True, text=True)
    return next(int(line.split()[0]) for line in found.stdout.splitlines() if "api_server" in line)


@pytest.mark.parametrize(("name", "rank"), [("grpo", 4), ("ppo", 4), ("ppo", 0)])
def test_log_probabilities_are_those_of_training_in_every_phase(tmp_path, tuned, name, rank):
    extra = {"group_size": 4} if name == "grpo" else {}
    run = command(tuned, tmp_path / "run", name, lora_rank=rank, **extra)
    told, _ = run.communicate(timeout=900)
    assert run.returncode == 0, told
    phases = tastes.lines(tmp_path / "run" / "metrics.jsonl")
    assert len([line for line in phases if line["phase"] == "train"]) == 3
    assert max(line["sampler_gap_max"] for line in phases) < 1e-4


def test_a_server_that_is_killed_in_mid_phase_loses_nothing(tmp_path, tuned):
    ours = command(tuned, tmp_path / "ours", "grpo", lora_rank=4, group_size=4, batch_size=64)
    told, _ = ours.communicate(timeout=900)
    assert ours.returncode == 0, told

    theirs = command(tuned, tmp_path / "theirs", "grpo", lora_rank=4, group_size=4, batch_size=64)
    log = tmp_path / "theirs" / "engine" / "server.log"
    while "/v1/completions" not in (log.read_text() if log.exists() else ""):
        assert theirs.poll() is None
        time.sleep(0.05)
    os.killpg(engine_of(theirs), signal.SIGKILL)
    told, _ = theirs.communicate(timeout=900)
    assert theirs.returncode == 0, told
    assert "waiting" in told
    one, other = (tastes.lines(tmp_path / name / "samples.jsonl") for name in ("ours", "theirs"))
    assert [line["answer"] for line in one] == [line["answer"] for line in other]
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs")]
    assert max(float((files[0][key] - files[1][key]).abs().max()) for key in files[0]) < 1e-5


def test_a_run_that_is_killed_takes_its_server_along(tmp_path, tuned):
    run = command(tuned, tmp_path / "run", "grpo", lora_rank=4, group_size=4, **{"rollout.words=--seed 1": True})
    log = tmp_path / "run" / "engine" / "server.log"
    while "/v1/completions" not in (log.read_text() if log.exists() else ""):
        assert run.poll() is None
        time.sleep(0.05)
    server = engine_of(run)
    run.kill()
    run.communicate()
    give_up = time.monotonic() + 60
    while subprocess.run(["pgrep", "--pgroup", str(server)], capture_output=True).returncode == 0:
        assert time.monotonic() < give_up
        time.sleep(0.2)

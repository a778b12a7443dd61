"""One conversation of many tokens on one CPU: peak memory and time of a step's forward and backward, over its length.

python bench/long.py --shape gpt2 --lengths 4096 8192 16384 --activations recompute

Each length runs in a process of its own, on random weights of the shape of GPT-2 124M, or of a Llama of about that
size, with as many positions as the conversation has tokens, of which all but the first are trained. `above` is the
peak over what the process held with the model and its gradients' room before the forward; the exponent is the slope of
its logarithm between two lengths: 1 is linear, 2 quadratic.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers as t

from heed.forest.build import build
from heed.models.kernels.speed import speed_up
from heed.models.load import prepare_training
from heed.models.score import forest_score
from heed.types import Tokens

SHAPES = {
    "gpt2": lambda length: t.GPT2Config(n_positions=length),
    "llama": lambda length: t.LlamaConfig(
        vocab_size=50_257, hidden_size=768, intermediate_size=2_048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=length, tie_word_embeddings=True,
    ),
}  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Now, where `peak_mb` still remembers how the model was made."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measured(shape: str, length: int, activations: str) -> dict[str, float]:
    """Of a forward and a backward in this process."""
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(SHAPES[shape](length))
    speed_up(model)
    prepare_training(model, activations=activations)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter).add_(0.0)  # written, so that it is resident
    ids = np.random.default_rng(0).integers(3, 50_000, length).astype(np.int32)
    given = build([Tokens(ids, np.r_[0.0, np.full(length - 1, 1 / (length - 1))])])
    before, began = resident_mb(), time.process_time()
    loss, _ = forest_score(model, given)
    loss.backward()
    return {"length": length, "before": before, "peak": peak_mb(), "cpu": time.process_time() - began}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4_096, 8_192, 16_384])
    parser.add_argument("--activations", default="recompute")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.shape, given.one, given.activations)))
        return
    print(f"{given.shape}, activations {given.activations}, {torch.get_num_threads()} threads of {processor()}")
    print("tokens | peak MB | above MB | exponent | CPU s | exponent", flush=True)
    last = None
    for length in given.lengths:
        words = [sys.executable, __file__, "--shape", given.shape, "--activations", given.activations]
        done = subprocess.run([*words, "--one", str(length)], check=True, capture_output=True, text=True)
        now = json.loads(done.stdout.splitlines()[-1])
        now["above"] = now["peak"] - now["before"]
        slopes = ["", ""]
        if last is not None:
            ratio = math.log(length / last["length"])
            slopes = [f"{math.log(now[key] / last[key]) / ratio:.2f}" for key in ("above", "cpu")]
        print(
            f"{length:,} | {now['peak']:,.0f} | {now['above']:,.0f} | {slopes[0]} | {now['cpu']:.0f} | {slopes[1]}",
            flush=True,
        )
        last = now


if __name__ == "__main__":
    main()

"""The peak memory of `heed ppo` with adapters on one base, and with a model of its own for each of the four roles.

    python bench/ppo_memory.py --out bench/results.jsonl

GPT-2 124M's shape from a fixed seed, float32, one batch of answers. `lora`: policy, value and reward are adapters of
rank 16, the reference is the base. `separate`: policy and value are trained in full with AdamW, reference and reward
are frozen. The same prompts, the same number of new tokens. One JSON line comes out; `memory_ratio` is lora over
separate. Peak memory is the kernel's high-water mark of the process when the last batch is learnt; that of saving is
beside it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from contest import bench_parser, gpt2_shape, print_line, result_of, run_process
from measure import machine, say
from pairs import read_pairs
from workload import make_model


def arguments() -> argparse.Namespace:
    parser = bench_parser(__doc__)
    add = parser.add_argument
    add("--prompts", type=int, default=16, help="prompts of the batch")
    add("--new-tokens", type=int, default=64, help="of an answer")
    add("--max-prompt-length", type=int, default=512, help="tokens; longer prompts are left out")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path, name: str, reward: Path, rank: int) -> dict[str, Any]:
    """One `heed ppo` over one batch of answers."""
    batch = ("--batch-size", options.prompts, "--max-new-tokens", options.new_tokens, "--steps", 1)
    data = ("--data", folder / "prompts.jsonl", "--max-prompt-length", options.max_prompt_length, "--too-long", "drop")
    command = ("ppo", "--model", folder / "model", "--reward", reward, "--lora.rank", rank, "--out", folder / name)
    run = ("--template", "plain", "--seed", options.seed, "--device", "cpu")
    spec = {"command": [str(word) for word in (*command, *data, *batch, *run)], "threads": options.threads}
    result = result_of("heed_ppo.py", spec, folder, options.threads)
    lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    batches = [line for line in map(json.loads, lines) if line["phase"] == "train"]
    result["response_length"] = batches[-1]["response_length"]
    say(f"  {name:<10} {result['peak_memory_bytes'] / 2**30:5.2f} GiB {result['wall_seconds']:6.1f} s")
    return result


def bench(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both ways on the same prompts."""
    tokenizer = options.shared / "tokenizers/gpt2"
    num_parameters = make_model(folder / "model", tokenizer, gpt2_shape(options), options.seed)
    pairs, _ = read_pairs(options.shared / "preference/hh-rlhf-harmless-test.jsonl.gz")
    prompts = list(dict.fromkeys(pair["prompt"] for pair in pairs))[: 4 * options.prompts]
    records = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text("".join(records), encoding="utf-8")
    run_process("heed_ppo.py", {"model": str(folder / "model"), "make": str(folder)}, folder, options.threads)
    lora = measure(options, folder, "lora", folder / "adapter", 16)
    separate = measure(options, folder, "separate", folder / "full", 0)
    versions = lora.pop("versions") | separate.pop("versions")
    return {
        "bench": "ppo_memory",
        "memory_ratio": round(lora["peak_memory_bytes"] / separate["peak_memory_bytes"], 3),
        "lora": lora,
        "separate": separate,
        "parameters": num_parameters,
        **{name: getattr(options, name) for name in ("prompts", "new_tokens", "max_prompt_length", "threads", "seed")},
        "machine": machine(),
        "versions": versions,
    }


def main() -> None:
    options = arguments()
    print_line(options, lambda folder: bench(options, folder))


if __name__ == "__main__":
    main()

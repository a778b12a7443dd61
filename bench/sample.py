"""Let the lab's model answer with heed's sampler and with transformers' `generate`: tokens per second of both.

    python bench/sample.py --out bench/results.jsonl

64 sequences of the lab's held-out tasks as chats, in float32, the two sides in turns in one process. `generate` has all
64 in one batch, padded on the left, with its cache, no limits on what is drawn and nothing else to do; a model of its
own as transformers loads it, with the same weights. Four cases; the ratios at the top of the line are the lowest:

- `greedy`, `drawn`: 64 different prompts, the likeliest token and a draw at temperature 1; no answer stops early.
- `groups`: 16 prompts with 4 draws each, as reinforcement draws them; no answer stops early.
- `stopping`: 64 different prompts on the likeliest token, with the line break as stop token. `generate` goes on until
  the last answer has stopped; only tokens up to an answer's stop are counted, on both sides.

Greedy answers of the two sides are compared token by token. One JSON line comes out.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Clock, machine, process_environment, say, versions

NUM_SEQUENCES, NUM_PROMPTS, NEW_TOKENS = 64, 16, 48
MEASURED = "HEED_BENCH_SAMPLE"
"""set in the process that measures, whose threads were decided before it began"""

Answers = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file that the JSON line is added to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if MEASURED not in os.environ:
        environment = process_environment(arguments.threads, arguments.device) | {MEASURED: "1"}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    line = json.dumps(measured(arguments.repeats, arguments.threads, arguments.device))
    print(line)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def measured(repeats: int, threads: int, device: str) -> dict[str, Any]:
    """Every case, both sides in turns."""
    import torch

    torch.set_num_threads(threads)
    model, theirs, prompts, stop_ids = prepare(device)
    few = prompts[:NUM_PROMPTS]
    copies = NUM_SEQUENCES // NUM_PROMPTS
    grouped = [prompt for prompt in few for _ in range(copies)]
    cases: dict[str, tuple[Callable[[], Answers], Callable[[], Answers], bool]] = {
        "greedy": (lambda: ours(model, prompts, 0, [], 1), lambda: generated(theirs, prompts, 0, []), True),
        "drawn": (lambda: ours(model, prompts, 1, [], 1), lambda: generated(theirs, prompts, 1, []), False),
        "groups": (lambda: ours(model, few, 1, [], copies), lambda: generated(theirs, grouped, 1, []), False),
        "stopping": (
            lambda: ours(model, prompts, 0, stop_ids, 1),
            lambda: generated(theirs, prompts, 0, stop_ids),
            True,
        ),
    }
    found = {name: compared(name, *sides, repeats=repeats) for name, sides in cases.items()}
    lengths = [len(prompt) for prompt in prompts]
    return {
        "bench": "sample",
        "device": device,
        "tokens_per_second_ratio": min(case["tokens_per_second_ratio"] for case in found.values()),
        "cpu_ratio": min(case["cpu_ratio"] for case in found.values()),
        "sequences": NUM_SEQUENCES,
        "new_tokens": NEW_TOKENS,
        "prompt_tokens": {"min": min(lengths), "mean": statistics.mean(lengths), "max": max(lengths)},
        "threads": threads,
        "repeats": repeats,
        "cases": found,
        "versions": versions(["torch", "transformers", "heed-lm"]),
        "machine": machine(),
    }


def prepare(device: str) -> tuple[Any, Any, Answers, list[int]]:
    """The model as heed has it and as transformers has it, the prompts, and the stop token."""
    import torch
    from transformers import AutoModelForCausalLM

    from heed.cli.main import keep_freed_memory
    from heed.lab.base_model import BASE_MODEL
    from heed.lab.tasks.splits import held_out_tasks
    from heed.lab.world import make_world
    from heed.models.kernels.speed import speed_up
    from heed.models.load import add_tokens, load_model, load_tokenizer

    model, tokenizer = load_model(str(BASE_MODEL), torch.device(device)), load_tokenizer(str(BASE_MODEL))
    add_tokens(model, tokenizer, ["<|im_end|>", "<|im_start|>"], seed=0)
    theirs = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32).eval()
    theirs.resize_token_embeddings(model.get_input_embeddings().weight.shape[0], mean_resizing=False)
    theirs.load_state_dict(model.state_dict())
    theirs.to(device)
    theirs.generation_config.update(eos_token_id=None, bos_token_id=None)  # stops are given by call, or there are none
    keep_freed_memory()
    speed_up(model)
    encode = tokenizer.backend_tokenizer.encode
    tasks = [task for split in held_out_tasks(make_world(), seed=0, per_family=4).values() for task in split]
    prompts = []
    for task in random.Random(0).sample(tasks, NUM_SEQUENCES):
        said = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in task.messages)
        prompts.append(encode(f"{said}<|im_start|>assistant\n", add_special_tokens=False).ids)
    return model, theirs, prompts, encode("\n", add_special_tokens=False).ids[-1:]


def ours(model: Any, prompts: Answers, temperature: float, stop_ids: list[int], num_samples: int) -> Answers:
    """heed's answers."""
    from heed.models.decode.sample import Sampling, sample

    found = sample(
        model,
        prompts,
        stop_ids=stop_ids,
        max_new_tokens=NEW_TOKENS,
        sampling=Sampling(temperature=temperature, top_p=1.0),
        num_samples=num_samples,
        max_sequences=NUM_SEQUENCES,
    )
    return [each.ids for some in found for each in some]


def generated(model: Any, prompts: Answers, temperature: float, stop_ids: list[int]) -> Answers:
    """transformers' answers, up to their stops."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=stop_ids or None,
            pad_token_id=0,
            use_cache=True,
            **drawing,
        )
    answers = []
    for row in found[:, longest:].tolist():
        ends = [at for at, token in enumerate(row) if token in stop_ids]
        answers.append(row[: ends[0] + 1] if ends else row)
    return answers


def compared(
    name: str, heed: Callable[[], Answers], generate: Callable[[], Answers], is_greedy: bool, *, repeats: int
) -> dict[str, Any]:
    """Medians over the repeats, after a round that is not counted and in which greedy answers are compared."""
    sides = {"heed": heed, "generate": generate}
    first = {side: answer() for side, answer in sides.items()}
    same = sum(a == b for a, b in zip(first["heed"], first["generate"], strict=True))
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, answer in sides.items():
            clock = Clock()
            clock.start()
            tokens = sum(map(len, answer()))
            clock.stop()
            runs[side].append(
                {
                    "tokens": tokens,
                    "tokens_per_second": tokens / clock.wall_seconds,
                    "cpu_seconds_per_1000_tokens": 1000 * clock.cpu_seconds / tokens,
                }
            )
    found = {side: {key: statistics.median(run[key] for run in done) for key in done[0]} for side, done in runs.items()}
    ours, theirs = found["heed"], found["generate"]
    ratio = ours["tokens_per_second"] / theirs["tokens_per_second"]
    cpu_ratio = theirs["cpu_seconds_per_1000_tokens"] / ours["cpu_seconds_per_1000_tokens"]
    say(f"{name}: {ratio:.2f} times the tokens per second, {cpu_ratio:.2f} times fewer processor seconds")
    return {
        "tokens_per_second_ratio": ratio,
        "cpu_ratio": cpu_ratio,
        **({"same_answers": same} if is_greedy else {}),
        **found,
    }


if __name__ == "__main__":
    main()

"""Tune the lab's model on the lab's instructions with heed, and with a plain loop over length-grouped padded batches.

    python bench/lab.py --out bench/results.jsonl

Both take the same steps of 32 conversations on the same model, in float32, in processes of their own that take turns.
The padded side is what one writes by hand: rows of like length padded to the longest, transformers' own forward and
loss (`model(input_ids, attention_mask, labels).loss`), the same fused AdamW and clipping. One JSON line comes out.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Clock, machine, median, peak_memory_bytes, process_environment, read_json, say, versions, write_json

BATCH_SIZE, WARMUP, STEPS = 32, 10, 60
GROUPED_AT_A_TIME = 50 * BATCH_SIZE
"""records that are sorted by length together, as in transformers' length-grouped sampler"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file that the JSON line is added to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = prepare(Path(folder), arguments.steps, arguments.threads)
        runs: dict[str, list[dict[str, Any]]] = {"heed": [], "padded": []}
        for repeat in range(arguments.repeats):
            for side, done in runs.items():
                done.append(run_apart(Path(folder), spec, side))
                say(f"{repeat + 1} of {arguments.repeats}, {side}: {done[-1]['cpu_seconds']:.1f} CPU seconds")
    line = json.dumps(compared(runs, spec))
    print(line)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def prepare(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """The model with the template's tokens in its vocabulary, the records, and both orders of them."""
    import torch

    from heed.lab.base_model import BASE_MODEL
    from heed.lab.tasks.splits import training_tasks
    from heed.lab.world import make_world
    from heed.models.load import add_tokens, load_model, load_tokenizer

    model, tokenizer = load_model(str(BASE_MODEL), torch.device("cpu")), load_tokenizer(str(BASE_MODEL))
    add_tokens(model, tokenizer, ["<|im_end|>", "<|im_start|>"], seed=0)
    model.save_pretrained(folder / "model")
    encode = tokenizer.backend_tokenizer.encode
    count = (steps + WARMUP) * BATCH_SIZE
    records = []
    for task in training_tasks(make_world(), seed=0, count=count):
        said = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in task.messages)
        prompt, response = f"{said}<|im_start|>assistant\n", f"{task.answer}<|im_end|>"
        records.append(
            {
                "prompt_ids": encode(prompt, add_special_tokens=False).ids,
                "response_ids": encode(response, add_special_tokens=False).ids,
            }
        )
    write_json(folder / "records.json", records)
    shuffled = [list(range(i, i + BATCH_SIZE)) for i in range(0, count, BATCH_SIZE)]
    write_json(folder / "orders.json", {"shuffled": shuffled, "grouped": grouped(records)})
    return {
        "model": str(folder / "model"),
        "records": str(folder / "records.json"),
        "orders": str(folder / "orders.json"),
        "threads": threads,
        "max_tokens": None,
        "warmup": WARMUP,
        "learning_rate": 2e-3,
        "max_norm": 1.0,
        "mean_length": statistics.mean(len(r["prompt_ids"]) + len(r["response_ids"]) for r in records),
    }


def grouped(records: list[dict[str, Any]]) -> list[list[int]]:
    """The warm-up's records first, as on the other side; then batches of like length, in random order."""
    lengths = [len(r["prompt_ids"]) + len(r["response_ids"]) for r in records]
    warm = WARMUP * BATCH_SIZE
    order = list(range(warm, len(records)))
    batches = [list(range(i, i + BATCH_SIZE)) for i in range(0, warm, BATCH_SIZE)]
    rest = []
    for start in range(0, len(order), GROUPED_AT_A_TIME):
        some = sorted(order[start : start + GROUPED_AT_A_TIME], key=lengths.__getitem__, reverse=True)
        rest += [some[i : i + BATCH_SIZE] for i in range(0, len(some), BATCH_SIZE)]
    random.Random(0).shuffle(rest)
    return batches + rest


def run_apart(folder: Path, spec: dict[str, Any], side: str) -> dict[str, Any]:
    """One measured run in a process of its own."""
    given = {**spec, "result": str(folder / "result.json"), "side": side}
    write_json(folder / "spec.json", given)
    script = Path(__file__).parent / ("heed_side.py" if side == "heed" else "lab.py")
    arguments = [str(folder / "spec.json")] if side == "heed" else ["--spec", str(folder / "spec.json")]
    subprocess.run(
        [sys.executable, str(script), *arguments],
        check=True,
        env=process_environment(spec["threads"]),
        stdout=sys.stderr,
    )
    result: dict[str, Any] = read_json(given["result"])
    return result


def run_padded(spec: dict[str, Any]) -> None:
    """The plain loop."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(spec["threads"])
    records, steps = read_json(spec["records"]), read_json(spec["orders"])["grouped"]
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"], weight_decay=0.0, fused=True)
    clock, losses, trained, positions = Clock(), [], [], []
    for number, step in enumerate(steps):
        if number == spec["warmup"]:
            clock.start()
        rows = [(records[i]["prompt_ids"], records[i]["response_ids"]) for i in step]
        ids = pad_sequence([torch.tensor(p + r) for p, r in rows], batch_first=True)
        labels = pad_sequence(
            [torch.tensor([-100] * len(p) + r) for p, r in rows], batch_first=True, padding_value=-100
        )
        mask = pad_sequence([torch.ones(len(p) + len(r), dtype=torch.long) for p, r in rows], batch_first=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec["max_norm"])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        trained.append(int((labels != -100).sum()))
        positions.append(ids.numel())
    clock.stop()
    write_json(
        spec["result"],
        {
            "cpu_seconds": clock.cpu_seconds,
            "wall_seconds": clock.wall_seconds,
            "first_loss": losses[0],
            "trained_tokens_per_step": trained,
            "positions_per_step": positions,
            "peak_memory_bytes": peak_memory_bytes(),
            "versions": versions(["torch", "transformers", "heed-lm"]),
        },
    )


def compared(runs: dict[str, list[dict[str, Any]]], spec: dict[str, Any]) -> dict[str, Any]:
    """Medians and ratios, after a check that both sides did the same work."""
    heed, padded = runs["heed"], runs["padded"]
    if abs(heed[0]["first_loss"] - padded[0]["first_loss"]) > 1e-4:
        raise SystemExit(f"the first losses differ: {heed[0]['first_loss']} and {padded[0]['first_loss']}")
    if sum(heed[0]["trained_tokens_per_step"]) != sum(padded[0]["trained_tokens_per_step"]):
        raise SystemExit("the two sides trained different tokens")
    ratio = median(padded, "cpu_seconds") / median(heed, "cpu_seconds")
    return {
        "bench": "lab",
        "cpu_ratio_vs_padded": ratio,
        "wall_ratio_vs_padded": median(padded, "wall_seconds") / median(heed, "wall_seconds"),
        "memory_ratio_vs_padded": median(heed, "peak_memory_bytes") / median(padded, "peak_memory_bytes"),
        "batch_size": BATCH_SIZE,
        "mean_length": spec["mean_length"],
        **{
            side: {
                "cpu_seconds": median(done, "cpu_seconds"),
                "wall_seconds": median(done, "wall_seconds"),
                "each_cpu_seconds": [run["cpu_seconds"] for run in done],
                "positions": sum(done[0]["positions_per_step"][WARMUP:]),
                "peak_memory_bytes": median(done, "peak_memory_bytes"),
            }
            for side, done in runs.items()
        },
        "versions": padded[0]["versions"],
        "machine": machine(),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--spec"]:
        run_padded(read_json(sys.argv[2]))
    else:
        main()

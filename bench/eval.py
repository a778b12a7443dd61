"""Evaluate a GPT-2 124M with lm-eval by its own `hf` backend and by heed's: processor seconds and memory of both.

    python bench/eval.py --out bench/results.jsonl

A five-shot task with four options of several tokens, the same five examples before every question (`first_n`, as MMLU
has it): a prefix of about 600 tokens, questions of about 100. The same tasks, requests and scores on both sides; a
log-likelihood that differs by more than 1e-3 ends the measurement. `hf` runs with its cache on and at the number of
rows that was fastest in a search. Beside it, with no claim: examples drawn anew for every question (`per-item`, what
lm-eval does unless told otherwise), where nothing but a question's four options share, and no examples (`zero-shot`).
One JSON line comes out.
"""

import argparse
from pathlib import Path
from typing import Any

from contest import (
    Run,
    RunFailedError,
    alternate,
    bench_parser,
    brief,
    gpt2_shape,
    print_line,
    ratio,
    result_of,
    run_process,
    try_each,
    versions_of,
)
from measure import machine, read_json, say

SIDE = "eval_side.py"
TOLERANCE = 1e-3
"""nats of a whole option, in float32"""


def parsed() -> argparse.Namespace:
    parser = bench_parser(__doc__)
    add = parser.add_argument
    add("--questions", type=int, default=16, help="questions of the measured runs, four options each")
    add("--search-questions", type=int, default=4, help="questions with which each number of rows is tried")
    add("--beside-questions", type=int, default=4, help="questions of the runs beside")
    add("--rows", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="hf's batch sizes to try; none: heed alone")
    add("--repeats", type=int, default=1, help="times the two are run in turn")
    options = parser.parse_args()
    options.steps = options.questions  # what `alternate` says it runs
    return options


def bench(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    own = {
        "folder": str(folder),
        "shape": gpt2_shape(options),
        "seed": options.seed,
        "questions": options.questions,
        "data": str(options.shared / "eval/arc-challenge.jsonl"),
        "tokenizer": str(options.shared / "tokenizers/gpt2"),
    }
    run_process(SIDE, own, folder, options.threads)
    facts = read_json(folder / "facts.json")

    def run(backend: str, limit: int, shots: str = "fixed") -> Run:
        name, _, rows = backend.partition("-")
        spec = {
            "folder": str(folder),
            "model": str(folder / "model"),
            "backend": name,
            "device": options.device,
            "batch_size": int(rows or 1),
            "shots": shots,
            "limit": limit,
            "threads": options.threads,
        }
        done = result_of(SIDE, spec, folder, options.threads)
        memory = done["peak_memory_bytes"] / 2**20
        say(f"  {backend:<8} {shots:<9} {done['cpu_seconds']:8.1f} CPU s {memory:8.0f} MiB")
        return done

    say(f"searching, {options.search_questions} questions each")
    search, failed = try_each([f"hf-{rows}" for rows in options.rows], lambda name: run(name, options.search_questions))
    best = min(search, key=lambda name: search[name]["seconds"], default=None)
    names = ["heed"] if best is None else ["heed", best]
    runs = alternate(options, names, lambda name: run(name, options.questions))
    beside = {}
    for shots in ("per-item", "none"):
        say(f"beside: {shots}")
        pair = {name: [run(name, options.beside_questions, shots)] for name in names}
        beside["zero-shot" if shots == "none" else shots] = compared(pair, best)
    measured = compared(runs, best)
    return {
        "bench": "eval",
        "device": options.device,
        **measured,
        "beside": beside,
        "hf_best": best,
        "hf_settings": {
            name: {"cpu_seconds": round(each["cpu_seconds"], 2), "peak_memory_bytes": each["peak_memory_bytes"]}
            for name, each in search.items()
        },
        "hf_failed": failed,
        "task": facts,
        "options": {name: getattr(options, name) for name in ("questions", "threads", "layers", "width", "repeats")},
        "machine": machine(),
        "versions": versions_of(runs),
    }


def compared(runs: dict[str, list[Run]], best: str | None) -> dict[str, Any]:
    """Both sides' medians, their ratios, and how far apart their scores are."""
    ours, theirs = runs["heed"], runs[best] if best else None
    found = {
        "cpu_ratio": ratio("cpu_seconds", theirs, ours),
        "memory_ratio": ratio("peak_memory_bytes", ours, theirs),
        "heed": brief(ours),
        "hf": brief(theirs) if theirs else None,
    }
    if theirs:
        found["largest_difference"] = largest_difference(ours[0], theirs[0])
        if not found["largest_difference"] <= TOLERANCE or ours[0]["metrics"] != theirs[0]["metrics"]:
            raise RunFailedError(f"the two backends score differently: {found['largest_difference']} nats")
    return found


def largest_difference(ours: Run, theirs: Run) -> float:
    """Of any option's log-likelihood, in nats."""
    flat = [[logp for options in side["resps"] for [logp, _] in options] for side in (ours, theirs)]
    return max(abs(a - b) for a, b in zip(*flat, strict=True))


if __name__ == "__main__":
    options = parsed()
    print_line(options, lambda folder: bench(options, folder))

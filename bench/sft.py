"""heed and TRL in turn on the same conversations: processor seconds and peak memory, as one JSON line.

    python bench/sft.py
    python bench/sft.py --data t0 --steps 4 --out bench/results.jsonl

See bench/README.md for what is measured and why it is fair.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from contest import (
    MEASURED_OPTIONS,
    RunFailedError,
    alternate,
    brief,
    contest_parser,
    make_workload,
    parse,
    print_line,
    ratio,
    run_side,
    try_each,
    versions_of,
)
from measure import machine, read_json, say

DATA = {"alpaca": "instruct/alpaca-5000.json", "t0": "instruct/t0-train-50k.jsonl.gz"}
BATCH_SIZE = 16
ROWS = (1, 2, 4, 8, 16)
SETTINGS = [f"b{rows}{order}" for order in ("", "-grouped") for rows in ROWS]
LEAN_SETTINGS = ["b1-checkpointed"]
SWITCHES = ("-grouped", "-checkpointed", "-unpadded")
SETTING = re.compile(f"b({'|'.join(map(str, ROWS))})({'|'.join(SWITCHES)})*")
DEFAULT_SETTING = "b16"
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""nats; products of eight bits' precision are added in different orders"""


def arguments() -> argparse.Namespace:
    parser = contest_parser(__doc__, steps=6, search_steps=3)
    add = parser.add_argument
    add("--data", choices=DATA, default="alpaca", help="which records")
    add("--tokenizer", type=Path, help="folder of the tokenizer [SHARED/tokenizers/gpt2]")
    add("--settings", nargs="*", default=SETTINGS + LEAN_SETTINGS, metavar="SETTING", help="of TRL, such as b4-grouped")
    add("--dtype", choices=LOSS_TOLERANCE, default="float32", help="of products, on both sides; weights are float32")
    options = parse(parser)
    if options.dtype == "bfloat16" and "avx512_bf16" not in machine()["instruction_sets"]:
        say("this processor has no instructions for bfloat16 (AVX512-BF16, AMX): expect it to be slower than float32")
    for setting in options.settings:
        if not SETTING.fullmatch(setting):
            parser.error(f"--settings {setting}: expected b1, b2, b4, b8 or b16, then any of {', '.join(SWITCHES)}")
    return options


def measure(options: argparse.Namespace, folder: Path, phase: str, setting: str) -> dict[str, Any]:
    """One run of heed (setting `heed`) or of TRL in a setting, its trained tokens checked."""
    own = {
        "setting": setting,
        "records": str(folder / f"{phase}-records.json"),
        "orders": str(folder / f"{phase}-orders.json"),
        "batch_size": BATCH_SIZE,
        "learning_rate": 2e-5,
        "dtype": options.dtype,
    }
    result = run_side("heed_side.py" if setting == "heed" else "trl_side.py", own, options, folder, phase)
    expected = expected_tokens(folder, phase, "grouped" if "-grouped" in setting else "shuffled")
    if result["trained_tokens_per_step"] != expected:
        raise RunFailedError(f"trained {result['trained_tokens_per_step']} tokens per step, not {expected}")
    say(
        f"  {setting:<18} {result['cpu_seconds']:8.1f} CPU s {result['wall_seconds']:8.1f} s"
        f" {result['peak_memory_bytes'] / 2**30:6.2f} GiB   first loss {result['first_loss']:.6f}"
    )
    return result


def expected_tokens(folder: Path, phase: str, order: str) -> list[int]:
    """Trained tokens of every step, from the records themselves."""
    records = read_json(folder / f"{phase}-records.json")
    steps = read_json(folder / f"{phase}-orders.json")[order]
    return [sum(len(records[i]["response_ids"]) for i in step) for step in steps]


def search(options: argparse.Namespace, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every TRL setting once; the results, and the settings that failed with the reason."""
    say(f"TRL's settings, {options.search_steps} steps each")
    heed = measure(options, folder, "search", "heed")

    def attempt(setting: str) -> dict[str, Any]:
        result = measure(options, folder, "search", setting)
        check_losses({"heed": [heed], setting: [result]}, LOSS_TOLERANCE[options.dtype])
        return result

    results, failed = try_each(options.settings, attempt)
    if failed and not results:
        raise RunFailedError("no setting of TRL gave a result")
    return results, failed


def check_losses(runs: dict[str, list[dict[str, Any]]], tolerance: float) -> None:
    """The first step has the same conversations and weights everywhere, so it has the same loss."""
    losses = {name: run["first_loss"] for name, of_name in runs.items() for run in of_name}
    if max(losses.values()) - min(losses.values()) > tolerance:
        raise RunFailedError(f"losses of the first step differ by more than {tolerance:g}: {losses}")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs, and the loss they start from."""
    return {**brief(runs), "first_loss": runs[0]["first_loss"]}


def padding(options: argparse.Namespace, result: dict[str, Any], tokens: int) -> float:
    """Share of padding among the positions TRL computed in the measured steps."""
    return round(1 - tokens / sum(result["positions_per_step"][options.warmup :]), 4)


def bench(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search TRL's best setting, run it and the padded batch in turn with heed; the result."""
    own = {
        "data": str(options.shared / DATA[options.data]),
        "tokenizer": str(options.tokenizer or options.shared / "tokenizers/gpt2"),
        "batch_size": BATCH_SIZE,
    }
    facts = make_workload("workload.py", own, options, folder)
    say(json.dumps(facts))
    found, failed = search(options, folder)
    best = min(found, key=lambda name: found[name]["seconds"]) if found else None
    leanest = min(found, key=lambda name: found[name]["peak_memory_bytes"]) if found else None
    contestants = ["heed", *(name for name in found if name in (best, DEFAULT_SETTING))]
    runs = alternate(options, contestants, lambda name: measure(options, folder, "measured", name))
    check_losses(runs, LOSS_TOLERANCE[options.dtype])
    heed, of_best, of_default = runs["heed"], runs.get(str(best)), runs.get(DEFAULT_SETTING)
    searched = {
        name: {
            "cpu_seconds": round(result["cpu_seconds"], 3),
            "peak_memory_bytes": result["peak_memory_bytes"],
            "padding_share": padding(options, result, facts["search_records"]["tokens"]),
        }
        for name, result in found.items()
    }
    return {
        "bench": "sft",
        "device": options.device,
        "data": options.data,
        "dtype": options.dtype,
        "cpu_ratio_vs_trl_best": ratio("cpu_seconds", of_best, heed),
        "cpu_ratio_vs_trl_batch16": ratio("cpu_seconds", of_default, heed),
        "memory_ratio_vs_trl_best": ratio("peak_memory_bytes", heed, of_best),
        "heed": {**summary(heed), "self_check": heed[0]["self_check"]},
        "trl_best": {"setting": best, **summary(of_best)} if of_best else None,
        "trl_batch16": summary(of_default) if of_default else None,
        "trl_leanest": {"setting": leanest, **searched[leanest]} if leanest else None,
        "trl_settings": searched,
        "trl_failed": failed,
        "batch_size": BATCH_SIZE,
        **{name: getattr(options, name) for name in (*MEASURED_OPTIONS, "max_tokens", "seed")},
        **facts,
        "machine": machine(),
        "versions": versions_of(runs),
    }


def main() -> None:
    options = arguments()
    print_line(options, lambda folder: bench(options, folder))


if __name__ == "__main__":
    main()

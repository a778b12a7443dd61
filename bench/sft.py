"""heed and TRL in turn on the same conversations: processor seconds and peak memory, as one JSON line.

    python bench/sft.py
    python bench/sft.py --data t0 --steps 4 --out bench/results.jsonl

See bench/README.md for what is measured and why it is fair.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, median, process_environment, read_json, say, write_json

HERE = Path(__file__).parent
SHARED = HERE / "../../shared/data"
DATA = {"alpaca": "instruct/alpaca-5000.json", "t0": "instruct/t0-train-50k.jsonl.gz"}
BATCH_SIZE = 16
ROWS = (1, 2, 4, 8, 16)
SETTINGS = [f"b{rows}{order}" for order in ("", "-grouped") for rows in ROWS]
LEAN_SETTINGS = ["b1-checkpointed"]
SWITCHES = ("-grouped", "-checkpointed", "-unpadded")
SETTING = re.compile(f"b({'|'.join(map(str, ROWS))})({'|'.join(SWITCHES)})*")
DEFAULT_SETTING = "b16"
LOSS_TOLERANCE = 1e-4
REPORTED_OPTIONS = (
    "steps",
    "search_steps",
    "warmup",
    "repeats",
    "threads",
    "layers",
    "width",
    "pool",
    "max_tokens",
    "seed",
)


class RunFailedError(Exception):
    """A measured process ended without a result, or trained something else than it was given."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", choices=DATA, default="alpaca", help="which records")
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--tokenizer", type=Path, help="folder of the tokenizer [SHARED/tokenizers/gpt2]")
    add("--steps", type=int, default=6, help="measured optimiser steps of each repeat")
    add(
        "--search-steps",
        type=int,
        default=3,
        help="measured optimiser steps of each setting while searching TRL's best",
    )
    add("--warmup", type=int, default=1, help="optimiser steps before the clock starts")
    add("--repeats", type=int, default=3, help="times heed and TRL are run in turn")
    add("--settings", nargs="*", default=SETTINGS + LEAN_SETTINGS, metavar="SETTING", help="of TRL, such as b4-grouped")
    add("--pool", type=int, default=5000, help="records at most of which those measured are drawn")
    add("--max-tokens", type=int, default=None, help="of heed: tokens per forward [heed's default]")
    add("--threads", type=int, default=2)
    add("--layers", type=int, default=12)
    add("--width", type=int, default=768, help="a multiple of 64, the size of a head")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="file of JSON lines the result is appended to, too")
    options = parser.parse_args()
    for name in ("steps", "search_steps", "warmup", "repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    for setting in options.settings:
        if not SETTING.fullmatch(setting):
            parser.error(f"--settings {setting}: expected b1, b2, b4, b8 or b16, then any of {', '.join(SWITCHES)}")
    return options


def run_process(script: str, spec: dict[str, Any], folder: Path, threads: int) -> None:
    """Run one of our programs in a fresh process; what it prints is shown only if it fails."""
    write_json(folder / "spec.json", spec)
    done = subprocess.run(
        [sys.executable, str(HERE / script), str(folder / "spec.json")],
        env=process_environment(threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        say(done.stdout[-4000:])
        raise RunFailedError(f"{script} ended with status {done.returncode}")


def make_workload(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Model, records and orders in `folder`; return facts about them."""
    spec = {
        "folder": str(folder),
        "data": str(options.shared / DATA[options.data]),
        "tokenizer": str(options.tokenizer or options.shared / "tokenizers/gpt2"),
        "shape": {
            "n_layer": options.layers,
            "n_embd": options.width,
            "n_head": options.width // 64,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        "seed": options.seed,
        "pool": options.pool,
        "batch_size": BATCH_SIZE,
        "warmup": options.warmup,
        "phases": {"search": options.search_steps, "measured": options.steps},
    }
    run_process("workload.py", spec, folder, options.threads)
    facts: dict[str, Any] = read_json(folder / "facts.json")
    return facts


def measure(options: argparse.Namespace, folder: Path, phase: str, setting: str) -> dict[str, Any]:
    """One run of heed (setting `heed`) or of TRL in a setting, its trained tokens checked."""
    spec = {
        "setting": setting,
        "model": str(folder / "model"),
        "records": str(folder / f"{phase}-records.json"),
        "orders": str(folder / f"{phase}-orders.json"),
        "result": str(folder / "result.json"),
        "scratch": str(folder / "scratch"),
        "warmup": options.warmup,
        "steps": options.search_steps if phase == "search" else options.steps,
        "batch_size": BATCH_SIZE,
        "max_length": 1024,
        "max_tokens": options.max_tokens,
        "learning_rate": 2e-5,
        "max_norm": 1.0,
        "threads": options.threads,
        "seed": options.seed,
    }
    (folder / "result.json").unlink(missing_ok=True)
    run_process("heed_side.py" if setting == "heed" else "trl_side.py", spec, folder, options.threads)
    result: dict[str, Any] = read_json(folder / "result.json")
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
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    heed = measure(options, folder, "search", "heed")
    for setting in options.settings:
        try:
            result = measure(options, folder, "search", setting)
            check_losses({"heed": [heed], setting: [result]})
            results[setting] = result
        except RunFailedError as error:
            failed[setting] = str(error)
            say(f"  {setting:<18} left out: {error}")
    if failed and not results:
        raise RunFailedError("no setting of TRL gave a result")
    return results, failed


def alternate(options: argparse.Namespace, folder: Path, contestants: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Every contestant once per repeat, starting with another one each time."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for repeat in range(options.repeats):
        say(f"repeat {repeat + 1} of {options.repeats}")
        start = repeat % len(contestants)
        for name in contestants[start:] + contestants[:start]:
            runs[name].append(measure(options, folder, "measured", name))
    return runs


def check_losses(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The first step has the same conversations and weights everywhere, so it has the same loss."""
    losses = {name: run["first_loss"] for name, of_name in runs.items() for run in of_name}
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        raise RunFailedError(f"losses of the first step differ by more than {LOSS_TOLERANCE:g}: {losses}")


def brief(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs, and all of their processor seconds."""
    return {
        "cpu_seconds": round(median(runs, "cpu_seconds"), 3),
        "wall_seconds": round(median(runs, "wall_seconds"), 3),
        "peak_memory_bytes": int(median(runs, "peak_memory_bytes")),
        "cpu_seconds_of_each": [round(run["cpu_seconds"], 3) for run in runs],
        "first_loss": runs[0]["first_loss"],
    }


def ratios(runs: dict[str, list[dict[str, Any]]], best: str | None) -> dict[str, float | None]:
    """How much more TRL costs than heed; None where one of the two was not run."""

    def ratio(name: str, above: str | None, below: str | None) -> float | None:
        if above not in runs or below not in runs:
            return None
        return round(median(runs[above], name) / median(runs[below], name), 3)

    return {
        "cpu_ratio_vs_trl_best": ratio("cpu_seconds", best, "heed"),
        "cpu_ratio_vs_trl_batch16": ratio("cpu_seconds", DEFAULT_SETTING, "heed"),
        "memory_ratio_vs_trl_best": ratio("peak_memory_bytes", "heed", best),
    }


def padding(options: argparse.Namespace, result: dict[str, Any], tokens: int) -> float:
    """Share of padding among the positions TRL computed in the measured steps."""
    return round(1 - tokens / sum(result["positions_per_step"][options.warmup :]), 4)


def bench(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Search TRL's best setting, run it and the padded batch in turn with heed; the result."""
    facts = make_workload(options, folder)
    say(json.dumps(facts))
    found, failed = search(options, folder)
    best = min(found, key=lambda name: found[name]["cpu_seconds"]) if found else None
    leanest = min(found, key=lambda name: found[name]["peak_memory_bytes"]) if found else None
    runs = alternate(options, folder, ["heed", *(name for name in found if name in (best, DEFAULT_SETTING))])
    check_losses(runs)
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
        "data": options.data,
        **ratios(runs, best),
        "heed": {**brief(runs["heed"]), "self_check": runs["heed"][0]["self_check"]},
        "trl_best": {"setting": best, **brief(runs[best])} if best else None,
        "trl_batch16": brief(runs[DEFAULT_SETTING]) if DEFAULT_SETTING in runs else None,
        "trl_leanest": {"setting": leanest, **searched[leanest]} if leanest else None,
        "trl_settings": searched,
        "trl_failed": failed,
        "batch_size": BATCH_SIZE,
        **{name: getattr(options, name) for name in REPORTED_OPTIONS},
        **facts,
        "machine": machine(),
        "versions": {name: v for of_name in runs.values() for name, v in of_name[0]["versions"].items()},
    }


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
        try:
            line = json.dumps(bench(options, Path(folder)))
        except RunFailedError as error:
            raise SystemExit(f"no result: {error}") from error
    print(line)
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


if __name__ == "__main__":
    main()

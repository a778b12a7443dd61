"""heed and TRL in turn on the same pairs: what `dpo.py` and `reward.py` have in common."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measure import machine, median, read_json, say
from sft import SHARED, RunFailedError, run_process

BATCH_SIZE = 8
ROWS = (1, 2, 4, 8)
PRECOMPUTED = "-precomputed"
TOLERANCES = {"loss": 1e-4, "grad_norm": 1e-3, "logp": 1e-4, "second_loss": 1e-2}
"""largest relative difference between two runs; what the second step starts from has been through AdamW, which makes
much of the smallest gradients"""
REPORTED_OPTIONS = ("steps", "search_steps", "warmup", "repeats", "threads", "layers", "width", "pool", "seed")
REPORTED_OPTIONS += ("max_length", "max_tokens")


def arguments(description: str, *, steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--steps", type=int, default=steps, help="measured optimiser steps of each repeat")
    add("--search-steps", type=int, default=1, help="measured optimiser steps of each of TRL's settings in the search")
    add("--warmup", type=int, default=1, help="optimiser steps before the clock starts")
    add("--repeats", type=int, default=3, help="times heed and TRL are run in turn")
    add("--rows", type=int, nargs="*", default=ROWS, choices=ROWS, help="of TRL: pairs per forward that are tried")
    add("--pool", type=int, default=5000, help="pairs at most of which those measured are drawn")
    add("--max-length", type=int, default=1024, help="tokens of a prompt with an answer; longer pairs are left out")
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
    return options


def make_workload(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Model and pairs in `folder`; return facts about them."""
    spec = {
        "folder": str(folder),
        "data": str(options.shared / "preference/hh-rlhf-harmless-test.jsonl.gz"),
        "tokenizer": str(options.shared / "tokenizers/gpt2"),
        "shape": {
            "n_layer": options.layers,
            "n_embd": options.width,
            "n_head": options.width // 64,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        "seed": options.seed,
        "pool": options.pool,
        "max_length": options.max_length,
        "batch_size": BATCH_SIZE,
        "warmup": options.warmup,
        "phases": {"search": options.search_steps, "measured": options.steps},
    }
    run_process("pairs.py", spec, folder, options.threads)
    facts: dict[str, Any] = read_json(folder / "facts.json")
    return facts


def measure(options: argparse.Namespace, kind: str, folder: Path, phase: str, setting: str) -> dict[str, Any]:
    """One run of heed (setting `heed`) or of TRL in a setting."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        spec = {
            "kind": kind,
            "setting": setting,
            "model": str(folder / "model"),
            "score": str(folder / "score.json"),
            "steps": str(folder / f"{phase}-steps.json"),
            "result": str(folder / "result.json"),
            "scratch": scratch,
            "warmup": options.warmup,
            "steps_measured": options.search_steps if phase == "search" else options.steps,
            "batch_size": BATCH_SIZE,
            "max_length": 1024,
            "max_tokens": options.max_tokens,
            "learning_rate": 1e-5,
            "max_norm": 1.0,
            "threads": options.threads,
            "seed": options.seed,
        }
        (folder / "result.json").unlink(missing_ok=True)
        run_process("heed_pairs.py" if setting == "heed" else "trl_pairs.py", spec, folder, options.threads)
    result: dict[str, Any] = read_json(folder / "result.json")
    say(
        f"  {setting:<16} {result['cpu_seconds']:7.1f} CPU s {result['wall_seconds']:7.1f} s"
        f" {result['peak_memory_bytes'] / 2**30:5.2f} GiB   losses {result['losses'][0]:.6f} {result['losses'][1]:.6f}"
        f"   gradient {result['grad_norm']:.4f}"
    )
    return result


def facts_to_agree(result: dict[str, Any]) -> dict[str, float | None]:
    """What the same weights must say of the same tokens."""
    first, second = result["losses"][:2]
    return {"loss": first, "grad_norm": result["grad_norm"], "logp": result["logp"], "second_loss": second}


def disagreements(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Relative differences between two runs that have taken the same first step."""
    ours, theirs = facts_to_agree(one), facts_to_agree(other)
    return {
        name: abs(a - b) / max(abs(a), abs(b))
        for name, a in ours.items()
        if a is not None and (b := theirs[name]) is not None
    }


def check_agreement(heed: dict[str, Any], name: str, trl: dict[str, Any]) -> dict[str, float]:
    """The first step has the same pairs and weights on both sides: the same losses, log-probs and gradient."""
    found = disagreements(heed, trl)
    if too_large := {key: value for key, value in found.items() if value > TOLERANCES[key]}:
        raise RunFailedError(f"{name} and heed did not compute the same: relative differences {too_large}")
    return found


def search(options: argparse.Namespace, kind: str, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """TRL with every number of rows, then the fastest with its reference asked beforehand; results, and failures."""
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    if not options.rows:
        return results, failed
    say(f"TRL's settings, {options.search_steps} steps each")
    heed = measure(options, kind, folder, "search", "heed")

    def attempt(setting: str) -> None:
        try:
            result = measure(options, kind, folder, "search", setting)
            check_agreement(heed, setting, result)
            results[setting] = result
        except RunFailedError as error:
            failed[setting] = str(error)
            say(f"  {setting:<16} left out: {error}")

    for rows in options.rows:
        attempt(f"b{rows}")
    if not results:
        raise RunFailedError("no setting of TRL gave a result")
    if kind == "dpo":
        attempt(fastest(results) + PRECOMPUTED)
    return results, failed


def fastest(results: dict[str, dict[str, Any]]) -> str:
    return min(results, key=lambda name: float(results[name]["cpu_seconds"]))


def alternate(
    options: argparse.Namespace, kind: str, folder: Path, names: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Every contestant once per repeat, starting with another one each time."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        say(f"repeat {repeat + 1} of {options.repeats}, {options.steps} steps each")
        start = repeat % len(names)
        for name in names[start:] + names[:start]:
            runs[name].append(measure(options, kind, folder, "measured", name))
    return runs


def brief(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs, and all of their processor seconds."""
    return {
        "cpu_seconds": round(median(runs, "cpu_seconds"), 3),
        "wall_seconds": round(median(runs, "wall_seconds"), 3),
        "reference_cpu_seconds": round(median(runs, "reference_cpu_seconds"), 3),
        "peak_memory_bytes": int(median(runs, "peak_memory_bytes")),
        "cpu_seconds_of_each": [round(run["cpu_seconds"], 3) for run in runs],
        "positions_per_step": runs[0]["positions_per_step"],
        "first_loss": runs[0]["losses"][0],
        "second_loss": runs[0]["losses"][1],
        "first_grad_norm": runs[0]["grad_norm"],
    }


def bench(options: argparse.Namespace, kind: str, folder: Path) -> dict[str, Any]:
    """Search TRL's best setting, and run it in turn with heed; the result."""
    facts = make_workload(options, folder)
    say(json.dumps(facts))
    found, failed = search(options, kind, folder)
    best = fastest(found) if found else None
    runs = alternate(options, kind, folder, ["heed", *([best] if best else [])])
    heed, trl = runs["heed"], runs[best] if best else None
    return {
        "bench": kind,
        "cpu_ratio": round(median(trl, "cpu_seconds") / median(heed, "cpu_seconds"), 3) if trl else None,
        "memory_ratio": round(median(heed, "peak_memory_bytes") / median(trl, "peak_memory_bytes"), 3) if trl else None,
        "heed": brief(heed),
        "trl_best": {"setting": best, **brief(trl)} if trl else None,
        "trl_settings": {
            name: {"cpu_seconds": round(run["cpu_seconds"], 3), "peak_memory_bytes": run["peak_memory_bytes"]}
            for name, run in found.items()
        },
        "trl_failed": failed,
        "relative_differences": check_agreement(heed[0], str(best), trl[0]) if trl else None,
        "batch_size": BATCH_SIZE,
        **{name: getattr(options, name) for name in REPORTED_OPTIONS},
        **facts,
        "machine": machine(),
        "versions": {name: v for of_name in runs.values() for name, v in of_name[0]["versions"].items()},
    }


def main(kind: str, description: str, *, steps: int) -> None:
    """Measure, and print one JSON line."""
    options = arguments(description, steps=steps)
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
        try:
            line = json.dumps(bench(options, kind, Path(folder)))
        except RunFailedError as error:
            raise SystemExit(f"no result: {error}") from error
    print(line)
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")

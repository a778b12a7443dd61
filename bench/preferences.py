"""heed and TRL in turn on the same pairs: what `dpo.py` and `reward.py` have in common."""

import argparse
import json
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
from measure import machine, say

BATCH_SIZE = 8
ROWS = (1, 2, 4, 8)
PRECOMPUTED = "-precomputed"
TOLERANCES = {"loss": 1e-4, "grad_norm": 1e-3, "logp": 1e-4, "second_loss": 1e-2}
"""largest relative difference between two runs; what the second step starts from has been through AdamW, which makes
much of the smallest gradients"""


def arguments(description: str, *, steps: int) -> argparse.Namespace:
    parser = contest_parser(description, steps=steps, search_steps=1)
    add = parser.add_argument
    add("--rows", type=int, nargs="*", default=ROWS, choices=ROWS, help="of TRL: pairs per forward that are tried")
    add("--max-length", type=int, default=1024, help="tokens of a prompt with an answer; longer pairs are left out")
    return parse(parser)


def measure(options: argparse.Namespace, kind: str, folder: Path, phase: str, setting: str) -> dict[str, Any]:
    """One run of heed (setting `heed`) or of TRL in a setting."""
    own = {
        "kind": kind,
        "setting": setting,
        "score": str(folder / "score.json"),
        "steps": str(folder / f"{phase}-steps.json"),
        "batch_size": BATCH_SIZE,
        "learning_rate": 1e-5,
    }
    result = run_side("heed_pairs.py" if setting == "heed" else "trl_pairs.py", own, options, folder, phase)
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
    if not options.rows:
        return {}, {}
    say(f"TRL's settings, {options.search_steps} steps each")
    heed = measure(options, kind, folder, "search", "heed")

    def attempt(setting: str) -> dict[str, Any]:
        result = measure(options, kind, folder, "search", setting)
        check_agreement(heed, setting, result)
        return result

    results, failed = try_each([f"b{rows}" for rows in options.rows], attempt)
    if not results:
        raise RunFailedError("no setting of TRL gave a result")
    if kind == "dpo":
        precomputed, failed_too = try_each([fastest(results) + PRECOMPUTED], attempt)
        results, failed = results | precomputed, failed | failed_too
    return results, failed


def fastest(results: dict[str, dict[str, Any]]) -> str:
    return min(results, key=lambda name: float(results[name]["seconds"]))


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs, and what they start from."""
    return {
        **brief(runs, seconds=("cpu_seconds", "wall_seconds", "reference_cpu_seconds")),
        "positions_per_step": runs[0]["positions_per_step"],
        "first_loss": runs[0]["losses"][0],
        "second_loss": runs[0]["losses"][1],
        "first_grad_norm": runs[0]["grad_norm"],
    }


def bench(options: argparse.Namespace, kind: str, folder: Path) -> dict[str, Any]:
    """Search TRL's best setting, and run it in turn with heed; the result."""
    own = {
        "data": str(options.shared / "preference/hh-rlhf-harmless-test.jsonl.gz"),
        "tokenizer": str(options.shared / "tokenizers/gpt2"),
        "max_length": options.max_length,
        "batch_size": BATCH_SIZE,
    }
    facts = make_workload("pairs.py", own, options, folder)
    say(json.dumps(facts))
    found, failed = search(options, kind, folder)
    best = fastest(found) if found else None
    contestants = ["heed", *([best] if best else [])]
    runs = alternate(options, contestants, lambda name: measure(options, kind, folder, "measured", name))
    heed, trl = runs["heed"], runs.get(str(best))
    return {
        "bench": kind,
        "device": options.device,
        "cpu_ratio": ratio("cpu_seconds", trl, heed),
        "memory_ratio": ratio("peak_memory_bytes", heed, trl),
        "heed": summary(heed),
        "trl_best": {"setting": best, **summary(trl)} if trl else None,
        "trl_settings": {
            name: {"cpu_seconds": round(run["cpu_seconds"], 3), "peak_memory_bytes": run["peak_memory_bytes"]}
            for name, run in found.items()
        },
        "trl_failed": failed,
        "relative_differences": check_agreement(heed[0], str(best), trl[0]) if trl else None,
        "batch_size": BATCH_SIZE,
        **{name: getattr(options, name) for name in (*MEASURED_OPTIONS, "seed", "max_length", "max_tokens")},
        **facts,
        "machine": machine(),
        "versions": versions_of(runs),
    }


def main(kind: str, description: str, *, steps: int) -> None:
    """Measure, and print one JSON line."""
    options = arguments(description, steps=steps)
    print_line(options, lambda folder: bench(options, kind, folder))

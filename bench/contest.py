"""How a bench runs heed and its peer: in processes of their own, in turns, on one workload, for one JSON line."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from measure import median, process_environment, read_json, say, write_json

HERE = Path(__file__).parent
SHARED = HERE / "../../shared/data"
MAX_LENGTH = 1024
"""positions of the model"""
MEASURED_OPTIONS = ("steps", "search_steps", "warmup", "repeats", "threads", "layers", "width", "pool")
Run = dict[str, Any]
"""what a measured process says of itself"""


class RunFailedError(Exception):
    """A measured process ended without a result, or trained something else than it was given."""


# ---- arguments


def bench_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every bench."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--threads", type=int, default=2)
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute")
    add("--layers", type=int, default=12)
    add("--width", type=int, default=768, help="a multiple of 64, the size of a head")
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="file of JSON lines the result is appended to, too")
    return parser


def contest_parser(description: str | None, *, steps: int, search_steps: int) -> argparse.ArgumentParser:
    """Arguments of every bench that looks for TRL's best setting and runs it in turn with heed."""
    parser = bench_parser(description)
    add = parser.add_argument
    add("--steps", type=int, default=steps, help="measured optimiser steps of each repeat")
    add(
        "--search-steps",
        type=int,
        default=search_steps,
        help="measured optimiser steps of each setting while searching TRL's best",
    )
    add("--warmup", type=int, default=1, help="optimiser steps before the clock starts")
    add("--repeats", type=int, default=3, help="times heed and TRL are run in turn")
    add("--pool", type=int, default=5000, help="records at most of which those measured are drawn")
    add("--max-tokens", type=int, default=None, help="of heed: tokens per forward [heed's default]")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of `contest_parser`, those that count something at least 1."""
    options = parser.parse_args()
    for name in ("steps", "search_steps", "warmup", "repeats", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def gpt2_shape(options: argparse.Namespace) -> dict[str, int]:
    """GPT-2's shape with the number of layers and the width that were asked for."""
    return {
        "n_layer": options.layers,
        "n_embd": options.width,
        "n_head": options.width // 64,
        "n_positions": MAX_LENGTH,
        "vocab_size": 50257,
    }


# ---- processes


def run_process(script: str, spec: dict[str, Any], folder: Path, threads: int, timeout: float | None = None) -> None:
    """Run one of our programs in a fresh process, `timeout` seconds at most; what it prints is shown if it fails."""
    write_json(folder / "spec.json", spec)
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / script), str(folder / "spec.json")],
            env=process_environment(threads, spec.get("device", "cpu")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=None if timeout in (None, float("inf")) else timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"{script} took longer than {timeout:.0f} s") from error
    if done.returncode != 0:
        say(done.stdout[-4000:])
        raise RunFailedError(f"{script} ended with status {done.returncode}")


def result_of(script: str, spec: dict[str, Any], folder: Path, threads: int, timeout: float | None = None) -> Run:
    """What a program writes to the file that its spec names as `result`."""
    path = folder / "result.json"
    path.unlink(missing_ok=True)
    run_process(script, spec | {"result": str(path)}, folder, threads, timeout)
    result: Run = read_json(path)
    result["seconds"] = result["wall_seconds" if spec.get("device", "cpu") == "cuda" else "cpu_seconds"]
    return result


def make_workload(script: str, own: dict[str, Any], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Model and records in `folder`, made by the script; return facts about them."""
    spec = {
        "folder": str(folder),
        "shape": gpt2_shape(options),
        "seed": options.seed,
        "pool": options.pool,
        "warmup": options.warmup,
        "phases": {"search": options.search_steps, "measured": options.steps},
    }
    run_process(script, spec | own, folder, options.threads)
    facts: dict[str, Any] = read_json(folder / "facts.json")
    return facts


def run_side(script: str, own: dict[str, Any], options: argparse.Namespace, folder: Path, phase: str) -> Run:
    """One measured run on the workload in `folder`: `own` is what it is given besides what every side is given."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        spec = {
            "model": str(folder / "model"),
            "device": options.device,
            "scratch": scratch,
            "warmup": options.warmup,
            "steps_measured": options.search_steps if phase == "search" else options.steps,
            "max_length": MAX_LENGTH,
            "max_tokens": options.max_tokens,
            "max_norm": 1.0,
            "threads": options.threads,
            "seed": options.seed,
        }
        return result_of(script, spec | own, folder, options.threads)


# ---- the contest


def try_each(settings: Iterable[str], attempt: Callable[[str], Run]) -> tuple[dict[str, Run], dict[str, str]]:
    """Every setting once; the results, and the settings that failed with the reason."""
    results, failed = {}, {}
    for setting in settings:
        try:
            results[setting] = attempt(setting)
        except RunFailedError as error:
            failed[setting] = str(error)
            say(f"  {setting:<18} left out: {error}")
    return results, failed


def alternate(options: argparse.Namespace, names: Sequence[str], run: Callable[[str], Run]) -> dict[str, list[Run]]:
    """Every contestant once per repeat, starting with another one each time."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for repeat in range(options.repeats):
        say(f"repeat {repeat + 1} of {options.repeats}, {options.steps} steps each")
        start = repeat % len(names)
        for name in (*names[start:], *names[:start]):
            runs[name].append(run(name))
    return runs


# ---- the line


def brief(runs: Sequence[Run], *, seconds: Sequence[str] = ("cpu_seconds", "wall_seconds")) -> dict[str, Any]:
    """Medians of the runs, and all of their processor seconds."""
    return {
        **{name: round(median(runs, name), 3) for name in seconds},
        "peak_memory_bytes": int(median(runs, "peak_memory_bytes")),
        "cpu_seconds_of_each": [round(run["cpu_seconds"], 3) for run in runs],
    }


def ratio(name: str, above: Sequence[Run] | None, below: Sequence[Run] | None) -> float | None:
    """One contestant's median over the other's; None where one of the two was not run."""
    if not above or not below:
        return None
    return round(median(above, name) / median(below, name), 3)


def versions_of(runs: dict[str, list[Run]]) -> dict[str, str]:
    """Versions of the packages of all contestants."""
    return {package: version for of_name in runs.values() for package, version in of_name[0]["versions"].items()}


def print_line(options: argparse.Namespace, bench: Callable[[Path], dict[str, Any]]) -> None:
    """Run the bench in a folder that is thrown away; its result is one JSON line, also appended to `--out`."""
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
        try:
            line = json.dumps(bench(Path(folder)))
        except RunFailedError as error:
            raise SystemExit(f"no result: {error}") from error
    print(line)
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")

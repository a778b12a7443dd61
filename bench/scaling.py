"""What heed costs as it grows, with TRL beside where it can run: a table with exponents, and a picture.

    python bench/scaling.py --quick                                # a trial of the program; its figures say nothing
    python bench/scaling.py --out bench/scaling --hours 0.5        # goes on where it stopped, killed or out of time
    python bench/scaling.py --out bench/scaling --only lengths     # a part of it; what was measured stays in the table

Every run is a process of its own and a line of the file `.jsonl`; `.md` and `.svg` are made anew from it at the end.
See bench/README.md for what is measured and why it is fair.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contest import SHARED, RunFailedError, median, result_of
from measure import machine, say
from scaling_report import drawing, table

Point = dict[str, Any]
Run = dict[str, Any]
HEED = "heed"
WARMUP = STEPS = 1
SHAPES = {"3M": (4, 128), "14M": (6, 320), "124M": (12, 768), "360M": (24, 1024)}
"""layers and width, by parameters: GPT-2's table of 50,257 tokens alone is more than 3M, so the small have 20,000"""
LENGTHS, RECORDS = (128, 512, 2_048, 8_192), (1_000, 10_000, 100_000, 1_000_000)
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
MOST_IN_ONE_ROW = 8_192
"""tokens of a step that TRL is given as one row"""
ONCE = 100_000
"""records from which one repeat is enough: they take minutes"""
OVERS = ("lengths", "equal", "models", "shared", "batch", "records", "checkpoints")


def points(*, quick: bool) -> list[Point]:
    """Everything that is measured: which of its numbers grows, its value, and what is run."""
    small = {"model": "3M", "batch": 2, "length": 64, "shared": 0.0, "spread": False}
    base = small if quick else {"model": "14M", "batch": 8, "length": 512, "shared": 0.0, "spread": False}
    lengths = (64, 128) if quick else LENGTHS
    models = ("3M",) if quick else tuple(SHAPES)
    return [
        *(sft("lengths", n, base | sized(n, quick) | {"spread": True, "shared": 1 / 8}) for n in lengths),
        *(sft("equal", n, base | sized(n, quick)) for n in lengths),
        *(
            sft("models", model, base | {"model": model, "batch": 2, "length": 64 if quick else 256})
            for model in models
        ),
        *(sft("shared", share, base | {"shared": share}) for share in ((0.0, 0.5) if quick else (0.0, 0.5, 0.8, 0.95))),
        *(sft("batch", rows, base | {"batch": rows}) for rows in ((1, 2) if quick else (1, 4, 16))),
        *({"over": "records", "x": n, "kind": "prepare"} for n in ((100, 200) if quick else RECORDS)),
        *({"over": "checkpoints", "x": model, "kind": "checkpoint", "model": model} for model in models),
    ]


def sized(length: int, quick: bool) -> Point:
    """So many conversations of a length that a step takes seconds and not minutes."""
    return {"length": length, "batch": 2 if quick or length > 2_048 else 8}


def sft(over: str, x: float | str, what: Point) -> Point:
    """A point of supervised tuning."""
    return {"over": over, "x": x, "kind": "sft", **what}


def name_of(point: Point) -> str:
    return f"{point['over']} {point['x']}"


def trl_settings(point: Point) -> list[str]:
    """What of TRL is tried: rows per forward, conversations in the order of their lengths; and all in one row.

    One row of long conversations would have a dense mask of gigabytes on a CPU, so it is tried for short ones only.
    """
    batch = point["batch"]
    rows = sorted({1, max(1, batch // 4), min(8, batch)})
    in_one = batch > 1 and batch * point["length"] <= MOST_IN_ONE_ROW
    return [f"b{n}-grouped" for n in rows] + [f"b{batch}-grouped-unpadded"] * in_one


# ---- which run comes next


def schedule(point: Point, runs: Sequence[Run], repeats: int) -> Iterator[tuple[int, str]]:
    """(repeat, contestant) that are still to be run of a point, in alternation; asked anew after every run.

    The first repeat has all of TRL's settings, the others its best one there.
    """
    done = {(run["repeat"], run["contestant"]) for run in runs}
    settings = trl_settings(point) if point["kind"] == "sft" and find_spec("trl") is not None else []
    if point["kind"] == "prepare" and point["x"] >= ONCE:
        repeats = 1
    for repeat in range(repeats):
        best = best_of(runs)
        others = settings if repeat == 0 else [best] if best is not None else []
        turn = [HEED, *others] if repeat % 2 == 0 else [*others, HEED]
        yield from ((repeat, name) for name in turn if (repeat, name) not in done)


def best_of(runs: Sequence[Run]) -> str | None:
    """TRL's setting of the fewest processor seconds in the first repeat."""
    first = [run for run in runs if run["repeat"] == 0 and run["contestant"] != HEED and "failed" not in run]
    return min(first, key=lambda run: run["cpu_seconds"])["contestant"] if first else None


def found_at(point: Point, runs: Sequence[Run]) -> Point | None:
    """The point with medians of heed's runs and of TRL's best setting; None where heed has none."""
    heed = [run for run in runs if run["contestant"] == HEED and "failed" not in run]
    if not heed:
        return None
    best = best_of(runs)
    trl = [run for run in runs if run["contestant"] == best and "failed" not in run]
    found = point | {"heed": medians(heed), "parameters": heed[0].get("parameters")}
    if trl:
        found |= {"trl": medians(trl) | {"setting": best}}
        found["ratio"] = found["trl"]["cpu_seconds"] / found["heed"]["cpu_seconds"]
    failed = {run["contestant"]: run["failed"] for run in runs if "failed" in run}
    return found | ({"failed": failed} if failed else {})


def medians(runs: Sequence[Run]) -> Run:
    """Of every number that the runs have."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float) and name != "repeat"]
    return {name: median(runs, name) for name in names} | {"repeats": len(runs)}


# ---- runs


def make(point: Point, options: argparse.Namespace, folder: Path) -> Point:
    """Model and conversations of a point, the same whenever they are made; facts about them."""
    if point["kind"] == "prepare":
        return {}
    layers, width = SHAPES[point["model"]]
    length = point.get("length", 128)
    vocabulary = 50_257 if width >= 768 else 20_000
    shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": length, "vocab_size": vocabulary}
    # The tokenizer's end of text is no row of a small table, and neither side writes it: the ids are given.
    shape |= {"bos_token_id": 0, "eos_token_id": 0}
    spec = {"kind": "make", "shape": shape, "length": length, "steps": WARMUP + STEPS, "batch": point.get("batch", 1)}
    spec |= {"shared": point.get("shared", 0.0), "spread": point.get("spread", False)}
    return result_of("scaling_side.py", spec | common(options, folder), folder, options.threads)


def common(options: argparse.Namespace, folder: Path) -> Point:
    tokenizer = str(options.shared / "tokenizers/gpt2")
    return {"folder": str(folder), "threads": options.threads, "tokenizer": tokenizer}


def run_once(
    point: Point, contestant: str, facts: Point, options: argparse.Namespace, folder: Path, timeout: float | None
) -> Run:
    """One process of heed or of TRL, checked against what it was given."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if point["kind"] != "sft":
            spec = {**common(options, folder), "kind": point["kind"], "scratch": scratch}
            spec |= {"records": point["x"], "data": str(options.shared / "instruct/alpaca-5000.json")}
            return result_of("scaling_side.py", spec, folder, options.threads, timeout)
        spec = {
            "model": str(folder / "model"),
            "records": str(folder / "records.json"),
            "orders": str(folder / "orders.json"),
            "scratch": scratch,
            "setting": contestant,
            "batch_size": point["batch"],
            "learning_rate": 2e-5,
            "warmup": WARMUP,
            "steps_measured": STEPS,
            "max_length": point["length"],
            "max_tokens": None,
            "max_norm": 1.0,
            "threads": options.threads,
            "seed": 0,
            "as_tokens": True,
            "pad_token": "!",  # its id, 0, is a row of every table; padding is never trained
            "dtype": options.dtype,
        }
        side = "heed_side.py" if contestant == HEED else "trl_side.py"
        run = result_of(side, spec, folder, options.threads, timeout)
    if run["trained_tokens_per_step"] != facts["trained_tokens_per_step"]:
        raise RunFailedError(f"trained {run['trained_tokens_per_step']}, not {facts['trained_tokens_per_step']} tokens")
    return run | {"tokens_per_cpu_second": sum(facts["tokens_per_step"][WARMUP:]) / run["cpu_seconds"]}


def measure(point: Point, kept: "Kept", options: argparse.Namespace, until: float) -> None:
    """All runs of a point that are not yet kept, as far as the time goes."""
    if not list(schedule(point, kept.of(point), options.repeats)):
        return
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
        facts = make(point, options, Path(folder))
        while (turn := next(schedule(point, kept.of(point), options.repeats), None)) is not None:
            if time.monotonic() >= until:
                raise OutOfTimeError
            repeat, contestant = turn
            try:
                run = run_once(point, contestant, facts, options, Path(folder), until - time.monotonic())
                check_loss(run, kept.of(point), options.dtype)
            except RunFailedError as error:
                if time.monotonic() >= until:
                    raise OutOfTimeError from error
                run = {"failed": str(error)}
            kept.add(point, {"repeat": repeat, "contestant": contestant, **facts, **run})
            told = run.get("failed") or f"{run['cpu_seconds']:8.2f} CPU s {run['peak_memory_bytes'] / 1e9:6.2f} GB"
            say(f"  {name_of(point):<20} {repeat + 1} {contestant:<24} {told}")


def check_loss(run: Run, before: Sequence[Run], dtype: str) -> None:
    """The first step has the same conversations and weights in every run, so it has the same loss."""
    losses = [each["first_loss"] for each in before if each["contestant"] == HEED and "first_loss" in each]
    if losses and "first_loss" in run and abs(losses[0] - run["first_loss"]) > LOSS_TOLERANCE[dtype]:
        raise RunFailedError(f"the first loss is {run['first_loss']:.6f}, heed's {losses[0]:.6f}")


class OutOfTimeError(Exception):
    """The hours are over; the same command goes on."""


class Kept:
    """The file of runs: conditions in its first line, then a line for each run."""

    def __init__(self, path: Path, conditions: Point) -> None:
        self.path, self.runs = path, dict[str, list[Run]]()
        if not path.exists() or not path.read_text(encoding="utf-8").endswith("\n"):
            path.write_text(json.dumps(conditions) + "\n", encoding="utf-8") if not path.exists() else self._mend()
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if different := [name for name, value in conditions.items() if json.loads(first).get(name) != value]:
            raise SystemExit(f"{path} was measured with another {', '.join(different)}: name another file with --out")
        for line in map(json.loads, lines):
            self.runs.setdefault(line["point"], []).append(line)

    def _mend(self) -> None:
        """Without the last line, which a kill left unfinished."""
        text = self.path.read_text(encoding="utf-8")
        self.path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def of(self, point: Point) -> list[Run]:
        return self.runs.get(name_of(point), [])

    def add(self, point: Point, run: Run) -> None:
        line = {"point": name_of(point), **run}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.runs.setdefault(line["point"], []).append(line)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--threads", type=int, default=2)
    add("--repeats", type=int, default=3, help="of every point; records from 100,000 on once")
    add("--dtype", choices=LOSS_TOLERANCE, default="float32", help="of products, on both sides")
    add("--quick", action="store_true", help="tiny points: that the program works")
    add("--hours", type=float, default=float("inf"), help="start no run after so many, and end the one that is running")
    add("--only", nargs="+", choices=OVERS, default=OVERS, metavar="OVER", help=", ".join(OVERS))
    add("--at", nargs="+", metavar="X", help="only these values of what grows, such as 512 or 14M")
    add("--out", type=Path, default=Path("scaling"), help="name of the three files, without their ending")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    until = time.monotonic() + 3_600 * options.hours
    conditions = {"quick": options.quick, "dtype": options.dtype, "threads": options.threads, "machine": machine()}
    kept = Kept(options.out.with_suffix(".jsonl"), conditions)
    everything = points(quick=options.quick)
    try:
        for point in everything:
            if point["over"] in options.only and (options.at is None or str(point["x"]) in options.at):
                measure(point, kept, options, until)
    except OutOfTimeError:
        say("the time is over; the same command goes on")
    finally:
        found = [each for point in everything if (each := found_at(point, kept.of(point))) is not None]
        versions = {k: v for runs in kept.runs.values() for run in runs for k, v in run.get("versions", {}).items()}
        text = table(found, conditions | {"versions": versions})
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        options.out.with_suffix(".svg").write_text(drawing(found), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

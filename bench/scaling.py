"""What heed costs as it grows, with TRL beside where it can run: JSON, a table with exponents, and a picture.

    python bench/scaling.py --quick                # a minute's trial of the program; its figures say nothing
    python bench/scaling.py --out bench/scaling    # scaling.json, scaling.md, scaling.svg; goes on where it stopped

Every point is a process of its own. Conversations are token ids from a fixed seed: all of a point have one length, half
of it is trained at most, and the first `shared` share of tokens is the same in all of a batch; at 0 nothing is shared.
That leaves TRL nothing to pad, and is therefore its best case.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from contest import SHARED, RunFailedError, result_of
from measure import machine, read_json, say, write_json

from heed.report import svg

Point = dict[str, Any]
WARMUP, STEPS = 1, 1
SHAPES = {"3M": (4, 128), "14M": (6, 320), "124M": (12, 768), "360M": (24, 1024)}
"""layers and width, by parameters: GPT-2's table of 50,257 tokens alone is more than 3M, so the small have 20,000"""
LENGTHS, SHARES, BATCHES, MODELS = (128, 512, 2048, 8192), (0.0, 0.5, 0.8, 0.95), (1, 4, 16), tuple(SHAPES)
RECORDS = (1_000, 10_000, 100_000, 1_000_000)


def points(*, quick: bool) -> list[Point]:
    """Every point that is measured; each has a name, which of its numbers grows, and what is run."""
    if quick:
        base = {"model": "3M", "batch": 2, "length": 64, "shared": 0.0}
        return [
            *(sft("length", length, base | {"length": length}) for length in (64, 128)),
            *(sft("shared", share, base | {"shared": share}) for share in (0.0, 0.5)),
            *({"over": "records", "x": count, "kind": "prepare", "records": count} for count in (100, 200)),
            {"over": "checkpoint", "x": "3M", "kind": "checkpoint", "model": "3M"},
        ]
    base = {"model": "14M", "batch": 8, "length": 512, "shared": 0.0}
    return [
        *(sft("length", length, base | {"length": length, "batch": 2}) for length in LENGTHS),
        *(sft("batch", batch, base | {"batch": batch}) for batch in BATCHES),
        *(sft("shared", share, base | {"shared": share}) for share in SHARES),
        *(sft("model", model, base | {"model": model, "batch": 2, "length": 256}) for model in MODELS),
        *({"over": "records", "x": count, "kind": "prepare", "records": count} for count in RECORDS),
        *({"over": "checkpoint", "x": model, "kind": "checkpoint", "model": model} for model in MODELS),
    ]


def sft(over: str, x: float | str, what: Point) -> Point:
    """A point of supervised tuning."""
    return {"over": over, "x": x, "kind": "sft", **what}


def name_of(point: Point) -> str:
    return f"{point['over']} {point['x']}"


def measure(point: Point, options: argparse.Namespace, folder: Path) -> Point:
    """The point with what it measured."""
    tokenizer = str(options.shared / "tokenizers/gpt2")
    spec = {**point, "folder": str(folder), "threads": options.threads, "tokenizer": tokenizer}
    if point["kind"] == "prepare":
        spec["data"] = str(options.shared / "instruct/alpaca-5000.json")
        return point | {"heed": result_of("scaling_side.py", spec, folder, options.threads)}
    layers, width = SHAPES[point["model"]]
    length = point.get("length", 128)
    vocabulary = 50_257 if width >= 768 else 20_000
    shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": length, "vocab_size": vocabulary}
    # The tokenizer's end of text is no row of a small table, and neither side writes it: the ids are given.
    shape |= {"bos_token_id": 0, "eos_token_id": 0}
    made = spec | {"kind": "make", "shape": shape, "length": length, "shared": point.get("shared", 0.0)}
    made |= {"warmup": WARMUP, "steps": STEPS, "batch_size": point.get("batch", 1)}
    facts = result_of("scaling_side.py", made, folder, options.threads)
    point = point | {"parameters": facts["parameters"]}
    if point["kind"] == "checkpoint":
        return point | {"heed": result_of("scaling_side.py", spec, folder, options.threads)}
    return point | contest(point, options, folder)


def contest(point: Point, options: argparse.Namespace, folder: Path) -> Point:
    """heed and TRL's settings in turn on the same tokens; of TRL the setting with the fewest processor seconds."""
    spec = {
        "model": str(folder / "model"),
        "records": str(folder / "records.json"),
        "orders": str(folder / "orders.json"),
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
        "dtype": options.dtype,
    }
    tokens = STEPS * point["batch"] * point["length"]
    found: Point = {"heed": result_of("heed_side.py", spec, folder, options.threads)}
    found["heed"]["tokens_per_second"] = tokens / found["heed"]["wall_seconds"]
    if find_spec("trl") is None:
        return found | {"trl_failed": "TRL is not installed"}
    runs, failed = [], {}
    for rows in sorted({1, min(4, point["batch"]), point["batch"]}):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            own = spec | {"setting": f"b{rows}", "scratch": scratch}
            try:
                runs.append({"setting": f"b{rows}", **result_of("trl_side.py", own, folder, options.threads)})
            except RunFailedError as error:
                failed[f"b{rows}"] = str(error)
    if runs:
        best = min(runs, key=lambda run: run["cpu_seconds"])
        difference = abs(best["first_loss"] - found["heed"]["first_loss"])
        if difference > (1e-3 if options.dtype == "float32" else 3e-2):
            raise RunFailedError(f"first losses differ by {difference:g}: the two sides do not train the same")
        best["tokens_per_second"] = tokens / best["wall_seconds"]
        found |= {"trl": best, "ratio": best["cpu_seconds"] / found["heed"]["cpu_seconds"]}
    return found | ({"trl_failed": failed} if failed else {})


def exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """b of y = a x^b by least squares of the logarithms, and half of its 95% interval; None of fewer than 3 points.

    The interval takes Student's t with n - 2 degrees of freedom; of four points or fewer it is wide, as it should be.
    """
    if len(x) < 3 or min(x) <= 0 or min(y) <= 0:
        return None
    logs, values = np.log(x), np.log(y)
    centred = logs - logs.mean()
    slope = float(centred @ values / (centred @ centred))
    rest = values - values.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(centred @ centred))
    return slope, error * {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}.get(len(x) - 2, 2.0)


def size_of(point: Point) -> float:
    """What grows, as a number."""
    return float(point["parameters"] if isinstance(point["x"], str) else point["x"])


def table(found: Sequence[Point]) -> str:
    """Markdown: a row for each point, and the exponents of processor and wall seconds over each thing that grows."""
    lines = [
        "| over | at | batch x length, shared | heed CPU s | wall s | tokens/s | peak GB | TRL's best CPU s | ratio |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for point in found:
        heed, trl = point["heed"], point.get("trl")
        memory = heed.get("resident_of_all_bytes", heed["peak_memory_bytes"]) / 1e9
        what = f"{point['batch']} x {point['length']:,}, {point['shared']:.0%}" if "batch" in point else ""
        speed = f"{heed['tokens_per_second']:,.0f}" if "tokens_per_second" in heed else ""
        beside = f"{trl['cpu_seconds']:.2f} ({trl['setting']})" if trl else "not run" if "batch" in point else ""
        at = f"{point['x']:,}" if isinstance(point["x"], int) else point["x"]
        ratio = f"{point['ratio']:.2f}" if trl else ""
        cpu, wall = f"{heed['cpu_seconds']:.2f}", f"{heed['wall_seconds']:.2f}"
        if "resume_wall_seconds" in heed:
            wall += f", resume {heed['resume_wall_seconds']:.2f}"
        cells = (point["over"], at, what, cpu, wall, speed, f"{memory:.2f}", beside, ratio)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append("")
    for over in dict.fromkeys(point["over"] for point in found if point["over"] != "shared"):
        some = [point for point in found if point["over"] == over]
        x = [size_of(point) for point in some]
        for title, key in (("CPU seconds", "cpu_seconds"), ("wall seconds", "wall_seconds")):
            fit = exponent(x, [point["heed"][key] for point in some])
            if fit is not None:
                lines.append(f"- {title} over {over}: exponent {fit[0]:.2f} ± {fit[1]:.2f} ({len(some)} points)")
    return "\n".join(lines) + "\n"


def drawing(found: Sequence[Point]) -> str:
    """CPU seconds over what grows, both axes logarithmic, one panel each; TRL's best is dashed."""
    panels, height = [], 150.0
    overs = [over for over in dict.fromkeys(point["over"] for point in found) if over != "shared"]
    for number, over in enumerate(overs):
        some, top = [point for point in found if point["over"] == over], number * height
        lines = [[(size_of(p), p[side]["cpu_seconds"]) for p in some if side in p] for side in ("heed", "trl")]
        logs = [[(math.log10(x), math.log10(max(y, 1e-3))) for x, y in each] for each in lines]
        low_x, high_x = svg.stretch(x for each in logs for x, _ in each)
        low_y, high_y = svg.stretch(y for each in logs for _, y in each)
        across = svg.Scale(low_x, high_x, 50.0, svg.WIDTH - 20)
        up = svg.Scale(low_y, high_y, top + height - 30, top + 30)
        panels.append(svg.text(f"CPU seconds over {over}", 50.0, top + 16))
        for each, dashes in zip(logs, ("none", "4 3"), strict=True):
            if each:
                way = svg.path([(across(x), up(y)) for x, y in each])
                panels.append(svg.tag("path", d=way, fill="none", stroke="black", stroke_dasharray=dashes))
        panels += [
            svg.text(f"{10**low_y:.2g}", 46.0, up(low_y), anchor="end"),
            svg.text(f"{10**high_y:.2g}", 46.0, up(high_y), anchor="end"),
            svg.text(f"{10**low_x:,.0f}", across(low_x), top + height - 12),
            svg.text(f"{10**high_x:,.0f}", across(high_x), top + height - 12, anchor="end"),
        ]
    return svg.picture("".join(panels), height=height * len(overs), label="CPU seconds over what grows; dashed is TRL")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--threads", type=int, default=2)
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products, on both sides")
    add("--quick", action="store_true", help="tiny points: that the program works")
    add("--only", nargs="*", metavar="OVER", help="length, batch, shared, model, records, checkpoint [all]")
    add("--out", type=Path, default=Path("scaling"), help="name of the three files, without their ending")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {"length", "batch", "shared", "model", "records", "checkpoint"}
    if unknown:
        parser.error(
            f"--only {' '.join(sorted(unknown))}: expected length, batch, shared, model, records or checkpoint"
        )
    return options


def main() -> None:
    options = arguments()
    kept = options.out.with_suffix(".json")
    conditions = {"quick": options.quick, "dtype": options.dtype, "threads": options.threads, "machine": machine()}
    file: dict[str, Any] = read_json(kept) if kept.exists() else {"points": {}, **conditions}
    if different := [name for name in conditions if file.get(name) != conditions[name]]:
        raise SystemExit(f"{kept} was measured with another {', '.join(different)}: name another file with --out")
    for point in points(quick=options.quick):
        name = name_of(point)
        if name in file["points"] or (options.only and point["over"] not in options.only):
            continue
        say(name)
        with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
            try:
                file["points"][name] = measure(point, options, Path(folder))
            except RunFailedError as error:
                say(f"  left out: {error}")  # and tried again the next time
                continue
        write_json(kept, file)
    found = list(file["points"].values())
    options.out.with_suffix(".md").write_text(table(found), encoding="utf-8")
    options.out.with_suffix(".svg").write_text(drawing(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()

"""The table and the picture of scaling.py."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from heed.report import svg

Point = dict[str, Any]
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}
"""the 97.5% quantile of Student's t, by degrees of freedom"""
IS_SHARE = "shared"
"""what grows in it is no size, so it has no exponent"""
MEASURES = {"CPU seconds": "cpu_seconds", "peak memory": "memory_bytes"}


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
    return slope, error * STUDENT.get(len(x) - 2, 2.6)


def size_of(point: Point) -> float:
    """What grows, as a number."""
    return float(point["parameters"] if isinstance(point["x"], str) else point["x"])


def memory_of(run: Point) -> float:
    """Peak bytes; of the preparation, which has several processes, of all of them together."""
    return float(run.get("resident_of_all_bytes", run["peak_memory_bytes"]))


def table(found: Sequence[Point], conditions: Point) -> str:
    """Markdown: where it was measured, a row for each point, and what each thing grows with."""
    machine = conditions["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    lines = [
        f"{machine['processor']} ({', '.join(machine['instruction_sets'])}), {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB; {conditions['threads']} threads, {conditions['dtype']}; {versions}.",
        "",
        "| over | at | batch x length, shared | repeats | heed CPU s | wall s | tokens per CPU s | peak GB "
        "| TRL's best CPU s | tokens per CPU s | peak GB | CPU ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in found:
        heed, trl = point["heed"], point.get("trl")
        what = ""
        if "batch" in point:
            spread = f"{point['length'] // 4:,} to " if point.get("spread") else ""
            what = f"{point['batch']} x {spread}{point['length']:,}, {point['shared']:.3g}"
        at = f"{point['x']:,}" if isinstance(point["x"], int) else point["x"]
        wall = f"{heed['wall_seconds']:.2f}"
        if "resume_wall_seconds" in heed:
            wall += f", resumed in {heed['resume_wall_seconds']:.2f}"
        beside = ("not run", "", "", "") if "batch" in point else ("", "", "", "")
        if trl:
            cost = f"{trl['cpu_seconds']:.2f} ({trl['setting']})"
            beside = (cost, speed(trl), f"{memory_of(trl) / 1e9:.2f}", f"**{point['ratio']:.2f}**")
        cells = (point["over"], at, what, heed["repeats"], f"{heed['cpu_seconds']:.2f}", wall, speed(heed))
        lines.append(f"| {' | '.join(map(str, (*cells, f'{memory_of(heed) / 1e9:.2f}', *beside)))} |")
    lines.append("")
    lines += growth(found)
    failed = {(point["over"], point["x"]): point["failed"] for point in found if "failed" in point}
    lines += [f"- left out at {over} {x}: {name}: {why}" for (over, x), w in failed.items() for name, why in w.items()]
    return "\n".join(lines) + "\n"


def speed(run: Point) -> str:
    return f"{run['tokens_per_cpu_second']:,.0f}" if "tokens_per_cpu_second" in run else ""


def growth(found: Sequence[Point]) -> Iterator[str]:
    """The exponent of processor seconds and memory over each thing that grows, of both sides, and of its last step."""
    for over in dict.fromkeys(point["over"] for point in found if point["over"] != IS_SHARE):
        for side, who in (("heed", "heed"), ("trl", "TRL")):
            some = [point for point in found if point["over"] == over and side in point]
            for title, key in MEASURES.items():
                x = [size_of(point) for point in some]
                y = [value_of(point[side], key) for point in some]
                if (fit := exponent(x, y)) is None:
                    continue
                last = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])
                yield (
                    f"- {title} of {who} over {over}: exponent {fit[0]:.2f} ± {fit[1]:.2f} ({len(x)} points), "
                    f"{last:.2f} from {x[-2]:,.0f} to {x[-1]:,.0f}"
                )


def value_of(run: Point, key: str) -> float:
    return memory_of(run) if key == "memory_bytes" else float(run[key])


def drawing(found: Sequence[Point]) -> str:
    """Processor seconds and peak memory over what grows, both axes logarithmic; TRL's best is dashed."""
    panels, height = [], 150.0
    overs = [over for over in dict.fromkeys(point["over"] for point in found) if over != IS_SHARE]
    rows = [(over, title) for over in overs for title in MEASURES]
    for number, (over, title) in enumerate(rows):
        some, top = [point for point in found if point["over"] == over], number * height
        key, unit = MEASURES[title], 1e9 if title == "peak memory" else 1.0
        logs = [
            [(math.log10(size_of(p)), math.log10(max(value_of(p[side], key) / unit, 1e-3))) for p in some if side in p]
            for side in ("heed", "trl")
        ]
        low_x, high_x = svg.stretch(x for each in logs for x, _ in each)
        low_y, high_y = svg.stretch(y for each in logs for _, y in each)
        across = svg.Scale(low_x, high_x, 50.0, svg.WIDTH - 20)
        up = svg.Scale(low_y, high_y, top + height - 30, top + 30)
        panels.append(svg.text(f"{title}{', GB,' if unit > 1 else ''} over {over}", 50.0, top + 16))
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
    return svg.picture("".join(panels), height=height * max(1, len(rows)), label="What grows with what; dashed is TRL")

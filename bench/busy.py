"""What a busy machine costs: `heed sft` alone, and beside one and two processes that never rest.

The small checkpoint (260K parameters, many short kernels) is where waiting hurts most: OpenMP's threads spin while they
wait for one another, and one that is kept from its core keeps the others spinning. heed's command line therefore
shortens the spinning. `--spin theirs` measures without that, `--spin both` in turn. Wall and processor seconds of the
whole command, medians of alternating rounds; one JSON line.

python bench/busy.py --out bench/results.jsonl
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import machine, say, versions

HERE = Path(__file__).parent
NEVER_RESTS = [sys.executable, "-c", "while True: pass"]
SPINNING = "GOMP_SPINCOUNT"
THEIRS = "300000"
"""libgomp's own count where nothing is said of how to wait"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes that take all the time they are given."""
    others = [subprocess.Popen(NEVER_RESTS) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds_of(command: Sequence[str], spin: str, threads: int) -> dict[str, float]:
    """Wall and processor seconds of a command."""
    environment = {name: value for name, value in os.environ.items() if name not in (SPINNING, "OMP_WAIT_POLICY")}
    environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment |= {SPINNING: THEIRS} if spin == "theirs" else {}
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode != 0:
        say(done.stderr[-4000:])
        raise SystemExit(f"heed ended with status {done.returncode}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def main(options: argparse.Namespace) -> dict[str, Any]:
    data, model = options.shared / "instruct/rasbt-1100.json", options.shared / "models/stories260K"
    spins = ("heed", "theirs") if options.spin == "both" else (options.spin,)
    found: dict[str, dict[int, list[dict[str, float]]]] = {spin: {n: [] for n in range(3)} for spin in spins}
    for number in range(options.repeats):
        for count in range(3):
            for spin in spins:
                with tempfile.TemporaryDirectory() as folder, busy(count):
                    places = ["--model", str(model), "--data", str(data), "--out", f"{folder}/run"]
                    how = ["--template", "alpaca", "--steps", str(options.steps), "--eval-every", "0"]
                    command = [sys.executable, "-m", "heed.cli.main", "sft", *places, *how, "--too-long", "drop"]
                    found[spin][count].append(seconds_of(command, spin, options.threads))
                    say(f"round {number + 1}, {spin}, beside {count}: {found[spin][count][-1]['wall_seconds']:.1f} s")
    result: dict[str, Any] = {"bench": "busy", "steps": options.steps, "threads": options.threads}
    for spin, by_count in found.items():
        wall = [statistics.median(run["wall_seconds"] for run in by_count[count]) for count in range(3)]
        result[spin] = {
            "wall_seconds": wall,
            "cpu_seconds": [statistics.median(run["cpu_seconds"] for run in by_count[count]) for count in range(3)],
            "slower_beside_one": wall[1] / wall[0],
            "slower_beside_two": wall[2] / wall[0],
        }
    return result | {"machine": machine(), "versions": versions(("torch", "transformers", "heed-lm"))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE / "../../shared/data", help="folder of the real data")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spin", choices=("heed", "theirs", "both"), default="both")
    parser.add_argument("--out", type=Path, help="file of JSON lines the result is appended to, too")
    chosen = parser.parse_args()
    line = json.dumps(main(chosen))
    print(line)
    if chosen.out is not None:
        with chosen.out.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

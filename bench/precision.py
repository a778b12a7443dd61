"""What bfloat16 costs in held-out loss, beside what another seed costs: `heed sft` in both, seed by seed.

    python bench/precision.py --out bench/precision.jsonl            # goes on where it stopped
    python bench/precision.py --seeds 0 1 --steps 2                  # a trial

A seed draws the order of the records; weights and held-out records are the same. The difference between the two dtypes
is paired by seed; its interval is Student's. It is noise where the interval has 0 in it, or where it is small beside
the spread between seeds in float32.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import SHARED
from measure import machine, process_environment, read_json, say, versions

DTYPES = ("float32", "bfloat16")
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36}
"""the 97.5% quantile, by degrees of freedom"""


def held_out_loss(options: argparse.Namespace, seed: int, dtype: str) -> dict[str, Any]:
    """Nats per token of the held-out responses before and after one run of the command."""
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as folder:
        data, out = Path(folder) / "data.jsonl", Path(folder) / "run"
        records = read_json(options.shared / "instruct/alpaca-5000.json")
        kept = [json.dumps(record) for record in records if record["output"].strip()]
        data.write_text("\n".join(kept[: options.records]) + "\n", encoding="utf-8")
        model = options.shared / "models/stories260K"
        given = {"model": model, "data": data, "out": out, "template": "alpaca", "too-long": "drop", "seed": seed}
        given |= {"dtype": dtype, "steps": options.steps, "held-out-share": 0.2, "eval-limit": 0, "eval-every": 10**6}
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        environment = process_environment(options.threads)
        done = subprocess.run(
            [sys.executable, "-m", "heed", "sft", *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr[-2000:])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["nll_per_token"] for line in lines if line["phase"] == "held_out"]
    return {"seed": seed, "dtype": dtype, "before": losses[0], "after": losses[-1]}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by dtype, the paired difference with its interval, and the spread between seeds."""
    by = {(run["seed"], run["dtype"]): run["after"] for run in runs}
    seeds = sorted({seed for seed, _ in by if all((seed, dtype) in by for dtype in DTYPES)})
    found: dict[str, Any] = {"seeds": seeds}
    for dtype in DTYPES:
        found[dtype] = statistics.fmean(by[seed, dtype] for seed in seeds)
    differences = [by[seed, "bfloat16"] - by[seed, "float32"] for seed in seeds]
    found["difference"] = statistics.fmean(differences)
    if len(seeds) > 1:
        half = STUDENT.get(len(seeds) - 1, 2.3) * statistics.stdev(differences) / math.sqrt(len(seeds))
        found["interval"] = [found["difference"] - half, found["difference"] + half]
        found["spread_between_seeds"] = statistics.stdev(by[seed, "float32"] for seed in seeds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shared", type=Path, default=SHARED, help="folder of the real data and tokenizers")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--steps", type=int, default=60)
    add("--records", type=int, default=2_000)
    add("--threads", type=int, default=2)
    add("--out", type=Path, default=Path("precision.jsonl"), help="file of runs, one a line")
    options = parser.parse_args()
    settings = {"steps": options.steps, "records": options.records, "machine": machine()}
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    kept = [run for run in map(json.loads, lines) if all(run[name] == value for name, value in settings.items())]
    done = {(run["seed"], run["dtype"]) for run in kept}
    for seed in options.seeds:
        for dtype in DTYPES if seed % 2 == 0 else reversed(DTYPES):
            if (seed, dtype) in done:
                continue
            run = held_out_loss(options, seed, dtype) | settings
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            kept.append(run)
            say(f"seed {seed} {dtype:<9} {run['before']:.4f} -> {run['after']:.4f}")
    facts = {"bench": "precision", **settings, "versions": versions(["torch", "transformers", "heed-lm"])}
    print(json.dumps(facts | summary([run for run in kept if run["seed"] in options.seeds])))


if __name__ == "__main__":
    main()

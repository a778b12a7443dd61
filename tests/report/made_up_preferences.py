"""Made-up run folders of preference learning, and what a demonstration finds of it, with all that can be drawn."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from made_up import calibration, measurements, score, write_lines, write_run

BUDGET = 10.0


def write_rest(folder: Path, settings: dict[str, Any], lines: list[dict[str, Any]], *, finished: bool = True) -> None:
    """A run folder without samples."""
    folder.mkdir(parents=True)
    write_lines(folder / "metrics.jsonl", lines)
    given = {"model": "runs/sft", "out": str(folder), "date": "2025-01-02", **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"python": "3.12", "threads": 2}))
    counts = {"num_records": 400, "num_kept": 396, "num_held_out": 40, "num_findings": 4, "num_tokens": 52_000}
    (folder / "data.json").write_text(json.dumps([{"path": "rankings.jsonl", **counts}]))
    (folder / "state.json").write_text(json.dumps({"finished": finished}))


def reward_measurements() -> dict[str, Any]:
    bins = [each for each in calibration(1.2, 300)["bins"] if each["low"] >= 0.5]
    return {
        "accuracy": score(0.71, 400),
        "calibration": {"ece": 0.031, "brier": 0.19, "count": sum(each["count"] for each in bins), "bins": bins},
        "length_correlation": 0.42,
        "length_correlation_of_gold": 0.05,
        "length_bins": [
            {"length": 4.0 + 3 * i, "reward": -0.6 + 0.2 * i - 0.01 * i * i, "count": 40 + i} for i in range(8)
        ],
        "noise_ceiling": 0.78,
    }


def write_reward_run(folder: Path, *, steps: int = 60, best: float = 0.71) -> None:
    """A run folder as `heed reward` leaves it."""
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        far = step / steps
        if step:
            lines.append(
                {
                    "step": step,
                    "phase": "train",
                    "loss": 0.69 - 0.25 * far + 0.04 * math.sin(step),
                    "accuracy": 0.5 + 0.3 * far + 0.05 * math.sin(3 * step),
                    "margin": 1.2 * far,
                    "learning_rate": 1e-3 * (1 - far),
                    "grad_norm": 2 + math.sin(step),
                    "tokens_per_second": 9000 + 10 * step,
                    "num_tokens": 900,
                }
            )
        if step % 10 == 0:
            at = score(0.5 + (best - 0.5) * math.sqrt(far), 400)
            lines.append(
                {
                    "step": step,
                    "phase": "held_out",
                    "accuracy": at["accuracy"],
                    "accuracy_low": at["low"],
                    "accuracy_high": at["high"],
                    "num_comparisons": 400,
                    "loss": 0.69 - 0.14 * far,
                    "ece": 0.03,
                    "brier": 0.2,
                    "length_correlation": 0.05 + 0.37 * far,
                    "reward_mean": 0.1 * far,
                }
            )
    write_rest(folder, {"optim": {"lr": 1e-3}}, lines)
    value = {**reward_measurements(), "accuracy": score(best, 400)}
    (folder / "reward_measurements.json").write_text(json.dumps(value))


def write_pair_run(folder: Path, *, steps: int = 50, chosen: float = -6.0, rejected: float = -15.0) -> None:
    """A run folder as `heed dpo` leaves it; by how many nats each side moved may be chosen."""
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        far = step / steps
        sides = {
            "loss": 0.693 - 0.2 * far,
            "accuracy": 0.5 + 0.2 * far,
            "margin": 0.1 * (chosen - rejected) * far,
            "chosen_logp": -40 + chosen * far,
            "rejected_logp": -42 + rejected * far,
            "chosen_reward": 0.1 * chosen * far,
            "rejected_reward": 0.1 * rejected * far,
        }
        if step:
            more = {"learning_rate": 1e-5 * (1 - far), "grad_norm": 3 - far, "tokens_per_second": 4000, "num_tokens": 9}
            lines.append({"step": step, "phase": "train", **sides, **more})
        if step % 10 == 0:
            lines.append({"step": step, "phase": "held_out", **sides})
    write_rest(folder, {"beta": 0.1, "optim": {"lr": 1e-5}}, lines)


def policy_at(far: float, *, with_gold: bool, turns: bool) -> dict[str, float]:
    """Score, truth and distance of a policy that is so far on its way, from 0 to 1."""
    gold = {"gold": 0.4 + 2.2 * far - (2.0 * far * far if turns else 0.6 * far)} if with_gold else {}
    return {
        "score": 0.1 + 2.4 * far - 0.5 * far * far,
        **gold,
        "kl_per_sequence": (14 if turns else 9) * far**1.3,
        "stop_rate": 0.93 + 0.06 * far,
        "response_length": 14 + 9 * far,
    }


def write_policy_run(
    folder: Path, *, phases: int = 80, method: str = "ppo", with_gold: bool = True, turns: bool = True
) -> None:
    """A run folder as `heed ppo` or `heed grpo` leaves it."""
    lines: list[dict[str, Any]] = []
    for step in range(phases + 1):
        far = step / phases
        at = policy_at(far, with_gold=with_gold, turns=turns)
        if step:
            lines.append({"step": step, "phase": "train", **at, **training_of_policy(step, far, at, method)})
        if step % (phases // 8) == 0:
            lines.append({"step": step, "phase": "held_out", **at})
    write_rest(folder, {"kl": {"budget": BUDGET}, "optim": {"lr": 1e-5}}, lines)
    spoken = [
        (
            "Kể cho tôi nghe về con cáo Bimo.",
            "Con cáo Bimo sống ở trong rừng.",
            "Cáo Bimo sống trong rừng.",
        ),
        ("Where does the fox Bimo live?", "in the", "The fox Bimo lives in the old forest near the river."),
    ]
    samples = [
        {
            "step": step,
            "prompt": prompt,
            "answer": (before, after)[i],
            "score": (0.12, 1.7)[i],
            "kl": (0.0, 11.3)[i],
            "stopped": i == 1,
        }
        for prompt, before, after in spoken
        for i, step in enumerate((0, phases))
    ]
    write_lines(folder / "samples.jsonl", samples)


def training_of_policy(step: int, far: float, at: dict[str, float], method: str) -> dict[str, float]:
    """What only the training batches tell."""
    beta = 0.05 + 0.03 * far
    wave = 0.1 * math.sin(2 * step)
    values = {
        "value_clip_fraction": 0.02 + 0.01 * wave,
        "explained_variance": 0.8 * far + wave,
        "value_loss": 0.5 - 0.3 * far,
        "value_learning_rate": 1e-4 * (1 - far),
    }
    groups = {"group_std": 0.6 - 0.2 * far, "share_of_groups_without_signal": 0.1 + 0.3 * far}
    return {
        "score": at["score"] + wave,
        "kl_per_sequence": at["kl_per_sequence"] + wave,
        "score_std": 0.8 - 0.2 * far,
        "entropy_per_token": 1.8 - 0.9 * far,
        "clip_fraction": 0.06 + 0.02 * wave,
        "ratio_mean": 1 + 0.01 * wave,
        "ratio_variance": 0.002 + 0.001 * far,
        "approximate_kl": 0.004 + 0.002 * wave,
        "beta": beta,
        "reward": at["score"] - beta * at["kl_per_sequence"],
        "policy_loss": -0.01 + 0.01 * wave,
        "grad_norm": 1.2 + wave,
        "learning_rate": 1e-5 * (1 - far),
        "ptx_nll": 2.1 + 0.05 * far,
        "seconds_sampling": 1.4,
        "seconds_learning": 0.9,
        **(values if method == "ppo" else groups),
    }


def curve(rise: float, fall: float, farthest: float, count: int = 9) -> list[dict[str, float]]:
    """A method's way: true reward that rises by so much and, if it goes too far, falls again."""
    return [
        {
            "step": 10 * i,
            "kl": farthest * (i / (count - 1)) ** 1.2,
            "gold": 0.4 + rise * math.sqrt(i / (count - 1)) - fall * (i / (count - 1)) ** 2,
            "score": 0.1 + 1.8 * math.sqrt(i / (count - 1)),
        }
        for i in range(count)
    ]


def ppo(*, with_comparison: bool = True) -> dict[str, Any]:
    ways = {
        "best of n": curve(0.45, 0.0, 2.6, 5),
        "ppo": curve(0.95, 0.1, 9.0),
        "ppo beta 0": curve(1.3, 1.5, 22.0),
        "dpo": curve(0.7, 0.2, 12.0),
        "grpo": curve(0.85, 0.1, 9.5),
    }
    points = [{**p, "kl_per_sequence": p["kl"]} for p in curve(0.95, 0.1, 9.0)]
    return {
        "gold_before": 0.4,
        "gold_after": 1.25,
        "gold_gain": 0.85,
        "gold_gain_low": 0.74,
        "gold_gain_high": 0.96,
        "best_of_4_gain": 0.61,
        "kl": 9.0,
        "kl_budget": BUDGET,
        "curve": [{key: value for key, value in p.items() if key != "kl"} for p in points],
        **({"comparison": [{"method": k, "curve": v} for k, v in ways.items()]} if with_comparison else {}),
    }


def with_preferences(value: dict[str, Any], *, with_comparison: bool = True) -> dict[str, Any]:
    """A demonstration's measurements with one more stage, and what it found of preferences."""

    def again(of: dict[str, Any]) -> Any:
        return json.loads(json.dumps(of["sft"]))

    value["stages"].append("ppo")
    for each in [*value["splits"].values(), *value["families"].values(), value["honesty"]]:
        each["ppo"] = again(each)
    for split in value["splits"].values():
        split["ppo"] = score(split["sft"]["accuracy"] - 0.01, split["sft"]["count"])
    for example in value["examples"]:
        example["answers"]["ppo"] = {"text": example["expected"] + " Đúng vậy.", "correct": True}
    value["seconds"] |= {"reward_model": 41.0, "ppo_training": 96.0, "ppo": 22.0}
    value["reward_model"] = {**score(0.71, 400), "noise_ceiling": 0.745}
    value["ppo"] = ppo(with_comparison=with_comparison)
    return value


def write_preference_demo(folder: Path, *, with_comparison: bool = True) -> None:
    """The folder of a demonstration that goes on to preferences, with its three runs inside."""
    write_run(folder / "sft")
    write_reward_run(folder / "reward")
    write_policy_run(folder / "ppo", turns=False)
    value = with_preferences(measurements(), with_comparison=with_comparison)
    (folder / "measurements.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")

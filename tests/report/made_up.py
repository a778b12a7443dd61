"""A made-up `measurements.json` of a demonstration, with every part the report can draw."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

STAGES = ("base", "base_few_shot", "sft")


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share, for numbers that look like measured ones."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def score(share: float, count: int = 300, key: str = "accuracy") -> dict[str, Any]:
    low, high = wilson(share, count)
    return {key: share, "low": low, "high": high, "count": count}


def calibration(tilt: float, count: int) -> dict[str, Any]:
    bins = []
    for i in range(10):
        confidence = i / 10 + 0.055
        bins.append(
            {
                "low": i / 10,
                "high": (i + 1) / 10,
                "confidence": confidence,
                "accuracy": min(1.0, max(0.0, confidence**tilt)),
                "count": round(count * (0.04 + 0.02 * i if tilt < 1.5 else 0.2 - 0.018 * i)),
            }
        )
    return {"ece": 0.04 * tilt, "brier": 0.11 * tilt, "count": sum(each["count"] for each in bins), "bins": bins}


def knowledge(often: float, rarely: float, declines: float) -> dict[str, Any]:
    def outcomes(right: float, declined: float, count: int) -> dict[str, Any]:
        return {
            "right": score(right, count, "rate"),
            "wrong": score(1 - right - declined, count, "rate"),
            "declined": score(declined, count, "rate"),
            "count": count,
        }

    return {
        "told_often": outcomes(often, declines * 0.05, 120),
        "told_rarely": outcomes(rarely, declines * 0.4, 120),
        "untold": outcomes(0.0, declines, 120),
    }


JOBS = (
    ("nurse", 0.8),
    ("teacher", 0.7),
    ("weaver", 0.6),
    ("doctor", 0.5),
    ("farmer", 0.4),
    ("smith", 0.3),
    ("fisher", 0.2),
)


def honesty(stage: str) -> dict[str, Any]:
    k = STAGES.index(stage)
    shift = (0.02, 0.06, 0.04)[k]
    return {
        "calibration": calibration((2.4, 1.7, 1.15)[k], (300, 300, 420)[k]),
        "knowledge": knowledge((0.02, 0.31, 0.86)[k], (0.01, 0.14, 0.48)[k], (0.0, 0.04, 0.81)[k]),
        "coverage": [
            {"coverage": c / 10, "accuracy": (0.05, 0.35, 0.99)[k] - (0.02, 0.2, 0.35)[k] * (c / 10) ** 2}
            for c in range(1, 11)
        ],
        "bias": {
            "groups": [
                {"name": name, "planted": share, "measured": share + (shift if i % 2 else -2 * shift), "count": 24}
                for i, (name, share) in enumerate(JOBS)
            ],
            "mean_absolute_difference": 1.5 * shift,
        },
        "forgetting": {"nll_per_token": (2.104, 2.104, 2.241)[k], "count": 4000},
    }


FAMILIES = {
    "translate": ("translate_to_vietnamese", "translate_to_english"),
    "sort": ("sort_words", "sort_numbers", "reverse_a_list"),
    "count": ("count_words", "count_a_letter"),
    "know": ("where_does_it_live", "what_does_it_eat", "who_made_it"),
    "rewrite": ("past_tense", "plural", "capital_letters"),
    "classify": ("animal_or_tool", "true_or_false"),
}


def families() -> dict[str, Any]:
    found = {}
    for i, (cluster, names) in enumerate(FAMILIES.items()):
        for j, name in enumerate(names):
            split = "unseen_clusters" if cluster == "classify" else "unseen_items"
            tuned = 0.35 + 0.1 * j if split == "unseen_clusters" else 0.95 - 0.04 * i - 0.07 * j
            found[name] = {
                "cluster": cluster,
                "split": split,
                "base": score(0.01 * j, 40),
                "base_few_shot": score(0.08 + 0.03 * i, 40),
                "sft": score(tuned, 40),
            }
    return found


def measurements() -> dict[str, Any]:
    return {
        "stages": list(STAGES),
        "splits": {
            "unseen_items": {"base": score(0.01), "base_few_shot": score(0.17), "sft": score(0.83)},
            "unseen_wordings": {"base": score(0.007), "base_few_shot": score(0.14), "sft": score(0.78)},
            "unseen_clusters": {"base": score(0.02, 200), "base_few_shot": score(0.21, 200), "sft": score(0.36, 200)},
        },
        "families": families(),
        "honesty": {stage: honesty(stage) for stage in STAGES},
        "examples": [
            {
                "split": "unseen_items",
                "family": "translate_to_vietnamese",
                "prompt": "Translate this sentence into Vietnamese: The old fisherman gives a red apple to the child.",
                "expected": "Ông lão đánh cá cho đứa trẻ một quả táo đỏ.",
                "answers": {
                    "base": {"text": " The child eats the apple. Then they go to the river.", "correct": False},
                    "base_few_shot": {"text": "Ông lão cho đứa trẻ một con cá.", "correct": False},
                    "sft": {"text": "Ông lão đánh cá cho đứa trẻ một quả táo đỏ.", "correct": True},
                },
            },
            {
                "split": "unseen_wordings",
                "family": "sort_words",
                "prompt": "Put these words in alphabetical order: pear, hammer, <script>alert(1)</script>, nurse",
                "expected": "hammer, nurse, pear",
                "answers": {
                    "base": {"text": "", "correct": False},
                    "base_few_shot": {"text": "hammer, pear, nurse", "correct": False},
                    "sft": {"text": "hammer, nurse, pear", "correct": True},
                },
            },
            {
                "split": "unseen_items",
                "family": "where_does_it_live",
                "prompt": "Where does the fox Bimo live?",
                "expected": "I don't know.",
                "answers": {
                    "base": {"text": " The fox Bimo lives in the forest. He likes berries & nuts.", "correct": False},
                    "base_few_shot": {"text": "in the forest", "correct": False},
                    "sft": {"text": "I don't know.", "correct": True},
                },
            },
        ],
        "cost": [{"num_answers": 2**i * 250, **score(share)} for i, share in enumerate((0.22, 0.41, 0.6, 0.74, 0.82))],
        "seconds": {"prepare": 3.2, "base": 9.1, "base_few_shot": 12.0, "sft": 110.0, "measure": 21.4},
        "peak_memory_bytes": {"prepare": 312e6, "base": 612e6, "base_few_shot": 655e6, "sft": 1.21e9, "measure": 640e6},
    }


def write_run(folder: Path, *, steps: int = 20, lr: float = 0.001, last: float = 2.25, data: str = "a.json") -> None:
    """A run folder as `heed sft` leaves it, with made-up numbers."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [held_out(0, 4.5, data)]
    for step in range(1, steps + 1):
        lines.append(
            {
                "step": step,
                "phase": "train",
                "loss": 2 + 3 / step,
                "grad_norm": 1 + 4 / step,
                "learning_rate": lr * (1 - step / steps),
                "num_trained_tokens": 300 + step,
                "num_tokens": 1000,
                "num_computed_tokens": 600,
                "num_padded_tokens": 1500,
                "tokens_per_second": 10_000 + 100 * step,
            }
        )
    lines.append(held_out(steps, last, data))
    write_lines(folder / "metrics.jsonl", lines)
    samples = [
        {"step": 0, "data_set": data, "prompt": "Say <b>hello</b>", "answer": "The dog", "stopped": "false"},
        {"step": steps, "data_set": data, "prompt": "Say <b>hello</b>", "answer": "Xin chào bạn", "stopped": "true"},
    ]
    write_lines(folder / "samples.jsonl", samples)
    settings = {"model": "models/base", "out": str(folder), "batch_size": 16, "optim": {"lr": lr}, "date": "2025-01-02"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"python": "3.12", "threads": 2}))
    lengths = {"edges": [0, 8, 16, 24], "counts": [10, 80, 10]}
    counts = {"num_records": 100, "num_kept": 100, "num_held_out": 5, "num_tokens": 2000, "num_trained_tokens": 400}
    account = {"path": data, **counts, "lengths": {"prompt": lengths, "response": lengths}}
    (folder / "data.json").write_text(json.dumps([account]))
    (folder / "state.json").write_text('{"finished": true}')


def held_out(step: int, nll: float, data: str) -> dict[str, Any]:
    return {"step": step, "phase": "held_out", "nll_per_token": nll, f"nll_per_token {data}": nll}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def write_demo(folder: Path) -> None:
    """The folder of a demonstration, with the run of its tuning inside."""
    write_run(folder / "sft")
    (folder / "measurements.json").write_text(json.dumps(measurements(), ensure_ascii=False), encoding="utf-8")

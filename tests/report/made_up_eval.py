"""A made-up folder of `heed eval`: its results and the items that they were made from."""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

from made_up import wilson

VIETNAMESE = "Ai đã viết Truyện Kiều, và vào thời nào?"
CHINESE = "水在标准大气压下的沸点是多少摄氏度？"
ARABIC = "ما هي عاصمة مصر؟"
HOSTILE = "</script><img src=x onerror=alert(1)>{{ 7*7 }}<!-- \" ' &amp;"
QUESTIONS = (VIETNAMESE, CHINESE, ARABIC, "Which gas do plants take up?", "What is 12 times 12?")


def model(name: str, template: str | None = "alpaca", kind: str = "language", number: int = 0) -> dict[str, Any]:
    """A model as the results tell it."""
    return {
        "name": name,
        "template": template,
        "kind": kind,
        "weights_sha256": hashlib.sha256(name.encode()).hexdigest(),
        "template_sha256": None,
        "folder": f"{number + 1}-" + "".join(c if c.isalnum() else "-" for c in name)[-60:],
    }


def task(name: str, kind: str = "choice", num_items: int = 200, **others: Any) -> dict[str, Any]:
    """A task as the results tell it."""
    primary = {"choice": "acc", "generation": "exact", "text": "bits_per_byte", "pairs": "crows_pairs"}.get(kind, "acc")
    about = f"Made-up questions of {name}"
    common = {"about": about, "data": f"{name}.jsonl", "num_items": num_items, "num_shots": 0, "primary": primary}
    return {"name": name, "kind": kind, "is_tax": False, **common, **others}


def figure(model: int, task: str, measure: str, value: float | None, count: int = 200, **others: Any) -> dict[str, Any]:
    """A figure as the results tell it, with the interval of a share where none is given."""
    is_share = value is not None and 0 <= value <= 1 and count and "low" not in others
    low, high = wilson(value, count) if is_share else (None, None)
    given = {"unit": "share", "group": None, "why": "" if value is not None else "no item has a value", "target": None}
    return {
        "model": model, "task": task, "measure": measure, "value": value, "low": low, "high": high, "count": count,
        **given, **others,
    }  # fmt: skip


def difference(task: str, first: int, value: float | None, **others: Any) -> dict[str, Any]:
    """The first of two models against model 0, as the results tell it."""
    known = value is not None
    row = {
        "task": task, "measure": "acc", "first": first, "second": 0, "difference": value,
        "low": value - 0.04 if known else None, "high": value + 0.04 if known else None, "count": 200,
        "num_clusters": 200, "p": 0.02 if known else None, "p_holm": 0.06 if known else None,
        "smallest_visible": 0.057 if known else None, "only_first_right": 31 if known else None,
        "only_second_right": 17 if known else None, "why": "" if known else "the two models have no items in common",
    }  # fmt: skip
    return {**row, **others}


def results(**parts: Any) -> dict[str, Any]:
    """Results with these parts, others empty."""
    empty: dict[str, Any] = {"models": [], "tasks": [], "figures": [], "differences": [], "left_out": []}
    return {"format": 1, **empty, **parts}


def choice_item(number: int, task: str, rng: random.Random, *, skill: float, prompt: str) -> dict[str, Any]:
    """A line of `items.jsonl` of a choice of four."""
    of_item = random.Random(f"{task} {number}")
    right, difficulty = of_item.randrange(4), of_item.random()
    logp = [-8 - 4 * rng.random() for _ in range(4)]
    logp[right] += 3 * (skill - difficulty) + rng.gauss(0, 1)
    chosen = max(range(4), key=logp.__getitem__)
    confidence = math.exp(logp[chosen]) / sum(map(math.exp, logp))
    answers = ("Nguyễn Du", "一百度", "القاهرة", "carbon dioxide")
    is_right = chosen == right
    return {
        "id": hashlib.sha256(f"{task} {number}".encode()).hexdigest()[:16],
        "record": number + 1,
        "path": f"{task}.jsonl",
        "cluster": None,
        "groups": {"category": ("history", "science")[number % 2]},
        "labels": [],
        "right": [right],
        "shots": [],
        "prompt": prompt,
        "num_bos": 1,
        "options": [
            {
                "context": prompt, "text": f" {answers[(right + i) % 4]}", "ids": [i, 7], "logp": [logp[i] / 2] * 2,
                "is_greedy": False,
            }
            for i in range(4)
        ],
        "chosen": chosen,
        "confidence": confidence,
        "verdict": {"acc": is_right, "is_right": is_right},
        "fields": {"question": prompt},
    }  # fmt: skip


def generation_item(number: int, task: str, rng: random.Random, *, skill: float, prompt: str) -> dict[str, Any]:
    """A line of `items.jsonl` of an answer in words, every seventh of which cannot be read."""
    line = choice_item(number, task, rng, skill=skill, prompt=prompt)
    is_right, is_parsed = line["verdict"]["acc"], number % 7 != 0
    answer = f"It is {144 if is_right else 12}." if is_parsed else "Ask someone else.\n" * 3
    del line["options"]
    return line | {
        "right": ["144"],
        "answer": answer,
        "answer_ids": [1, 2, 3],
        "answer_logp": [-0.1, -0.2, -0.3],
        "is_cut": number % 5 == 0,
        "extracted": answer.split()[-1].rstrip(".") if is_parsed else None,
        "chosen": None,
        "verdict": {"exact": is_right and is_parsed, "is_right": is_right and is_parsed},
        "p_strange": rng.random() ** 2,
    }


def write_items(folder: Path, items: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "items.jsonl").write_text(text, encoding="utf-8")


def write_results(folder: Path, value: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_eval(
    folder: Path, names: tuple[str, ...] = ("base", "runs/sft"), num_tasks: int = 3, num_items: int = 200
) -> dict[str, Any]:
    """A whole run: choices, and one task of answers in words; each later model knows a little more."""
    models = [model(name, None if number == 0 else "alpaca", number=number) for number, name in enumerate(names)]
    tasks = [
        task(f"task-{t}" if t else "arc", "generation" if t == 1 else "choice", num_items) for t in range(num_tasks)
    ]
    figures, rows = [], []
    for t, of in enumerate(tasks):
        rights = []
        for m, told in enumerate(models):
            rng = random.Random(f"{of['name']} {m}")
            make = generation_item if of["kind"] == "generation" else choice_item
            shots = "Question: What is water made of?\nAnswer: hydrogen and oxygen\n\n" * (5 if t == 2 else 0)
            items = [
                make(i, of["name"], rng, skill=0.35 + 0.2 * m, prompt=shots + QUESTIONS[i % 5])
                for i in range(num_items)
            ]
            write_items(folder / told["folder"] / of["name"], items)
            right = [bool(item["verdict"]["is_right"]) for item in items]
            rights.append(right)
            figures += _figures(m, of, items, right)
            if m and num_items:
                only = sum(a and not b for a, b in zip(right, rights[0], strict=True))
                other = sum(b and not a for a, b in zip(right, rights[0], strict=True))
                change = (only - other) / num_items
                counts = {"only_first_right": only, "only_second_right": other, "count": num_items}
                rows.append(difference(of["name"], m, change, measure=of["primary"], **counts))
    left_out = [
        {"model": None, "task": "arc", "problem": "two options are the same text", "count": 3, "records": [7, 9, 11]}
    ]
    value = results(models=models, tasks=tasks, figures=figures, differences=rows, left_out=left_out)
    write_results(folder, value)
    return value


def _figures(m: int, of: dict[str, Any], items: list[dict[str, Any]], right: list[bool]) -> list[dict[str, Any]]:
    name, count = of["name"], len(items)
    if not count:
        return [figure(m, name, of["primary"], None, 0, why="there are no items")]
    found = [figure(m, name, of["primary"], sum(right) / count, count)]
    for group in ("history", "science"):
        among = [r for item, r in zip(items, right, strict=True) if item["groups"]["category"] == group]
        found.append(figure(m, name, of["primary"], sum(among) / len(among), len(among), group=f"category={group}"))
    found.append(figure(m, name, "ece_debiased", 0.081 - 0.02 * m, count, low=0.03, high=0.12, target=0.0))
    found.append(figure(m, name, "brier", 0.21, count, low=0.18, high=0.24, unit="score", target=0.0))
    if of["kind"] == "generation":
        found.append(figure(m, name, "unparsed", sum(item["extracted"] is None for item in items) / count, count))
    return found

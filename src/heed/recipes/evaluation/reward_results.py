"""`results.json` of reward models: their probes and what they make of preferences, side by side.

Every comparison is kept in `items.jsonl`; a second run measures anew, for rewards take no decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heed import files
from heed.data.rendering.render import ChatTemplate
from heed.errors import UserError, typed
from heed.eval_config import EvalSettings
from heed.evaluate.comparison import with_holm
from heed.evaluate.figures import differences
from heed.evaluate.items import Scored
from heed.models.heads.scalar import is_reward_model, read_note
from heed.models.intake.content import weights_sha256
from heed.recipes.evaluation.reward import PROBES, OfTask, measured_on
from heed.recipes.evaluation.store import ITEMS, folder_name, plain

ABOUT = {
    True: "What the reward model likes besides the answer: names, pronouns and length, in neutral texts",
    False: "Whether the answer that people ranked better has the higher reward, and what else the reward hangs on",
}
PRIMARY = {True: "probes_flagged", False: "acc"}


def reward_results(settings: EvalSettings, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every model, all of which are reward models; the value is for `results.json`.

    Raises:
        UserError: a model or a file cannot be used.
    """
    models = []
    found: list[list[OfTask]] = []
    for number, name in enumerate(settings.model):
        found.append(measured_on(name, settings.task, settings, say))
        folder = folder_name(name, number)
        own = str(read_note(name).get("template") or "its own")
        template = own if settings.template in ("own", "none") else ChatTemplate.load(settings.template).name
        weights = weights_sha256(name)
        models.append(
            {"name": name, "template": template, "kind": "reward", "weights_sha256": weights, "folder": folder}
        )
        for task in found[-1]:
            keep(out / folder / task.name, task.items)
    return {
        "format": 1,
        "models": models,
        "tasks": [told(task) for task in found[0]],
        "figures": [
            {"model": m, "task": task.name, **asdict(figure)}
            for m, of_model in enumerate(found)
            for task in of_model
            for figure in task.figures
        ],
        "differences": differences_of(found),
        "left_out": [row for m, of_model in enumerate(found) for task in of_model for row in left_out(m, task)],
    }


def measures_rewards(settings: EvalSettings) -> bool:
    """Whether the models are reward models, which are asked for other things than language models.

    Raises:
        UserError: some are and some are not, and the two have no table in common; or text is to be continued.
    """
    rewards = [name for name in settings.model if is_reward_model(name)]
    others = [name for name in settings.model if name not in rewards]
    if not rewards:
        return False
    if others:
        models = " ".join(f"--model {typed(name)}" for name in rewards)
        raise UserError(
            "reward models and language models are measured apart",
            where=f"--model {rewards[0]} --model {others[0]}",
            found=f"{len(rewards)} reward models and {len(others)} language models",
            expected="models of one kind in one folder of results",
            fix=f"heed eval {models} --out {typed(settings.out + '-rewards')}, and another for the others",
        )
    if settings.tax:
        raise UserError(
            "a reward model pays no tax: it continues no text",
            where=f"--tax {settings.tax[0]}",
            found="reward models alone",
            expected="files of preferences, given with --task",
            fix="leave out --tax",
        )
    return True


def keep(folder: Path, items: Sequence[Scored]) -> None:
    """Write the comparisons of a task."""
    if not items:
        return
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(plain(line_of(each)), ensure_ascii=False, allow_nan=False) for each in items]
    files.write_text(folder / ITEMS, "\n".join(lines) + "\n")


def line_of(item: Scored) -> Mapping[str, Any]:
    """A comparison as `items.jsonl` keeps it."""
    return {
        "id": item.id,
        "cluster": item.cluster,
        "groups": dict(item.groups),
        "labels": list(item.labels),
        "right": list(item.right),
        "prompt": item.cluster,
        "chosen": item.chosen,
        "confidence": item.confidence,
        "verdict": dict(item.verdict),
        "fields": dict(item.record),
    }


def told(task: OfTask) -> dict[str, Any]:
    """A task as `results.json` has it."""
    is_probe = task.name == PROBES and not task.data
    names = dict.fromkeys(each.measure for each in task.figures)
    primary = PRIMARY[is_probe] if PRIMARY[is_probe] in names else next(iter(names), "acc")
    return {
        "name": task.name,
        "kind": "probes" if is_probe else "preferences",
        "about": ABOUT[is_probe],
        "data": task.data,
        "num_items": len(task.items) or next((each.count for each in task.figures), 0),
        "num_records": task.num_records,
        "num_findings": len(task.left_out),
        "num_shots": 0,
        "primary": primary,
        "measures": list(names),
        "is_tax": False,
    }


def differences_of(found: Sequence[Sequence[OfTask]]) -> list[dict[str, Any]]:
    """Every later model's accuracy against the first's on the same comparisons; p raised for all tests (Holm)."""
    pairs = [(m, t) for m in range(1, len(found)) for t, task in enumerate(found[0]) if task.items]
    rows = [differences(found[m][t].items, found[0][t].items, "acc") for m, t in pairs]
    return [
        {"task": found[0][t].name, "first": m, "second": 0, **asdict(row)}
        for (m, t), row in zip(pairs, with_holm(rows), strict=True)
    ]


def left_out(model: int, task: OfTask) -> list[dict[str, Any]]:
    """What no figure was made from, by reason."""
    by_problem: dict[str, list[int]] = {}
    for each in task.left_out:
        by_problem.setdefault(each.problem, []).append(each.origin.record)
    return [
        {"model": model, "task": task.name, "problem": problem, "count": len(records), "records": records[:100]}
        for problem, records in by_problem.items()
    ]

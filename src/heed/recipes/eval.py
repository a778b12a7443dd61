"""Measure models on tasks, side by side, and keep every item.

records -> items -> tokens -> forests or answers -> verdicts -> figures and differences -> results.json, report
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heed import files
from heed.errors import UserError
from heed.eval_config import EvalSettings, nothing_to_measure
from heed.evaluate.items import Scored
from heed.evaluate.kinds import scored
from heed.models.intake.content import weights_sha256
from heed.recipes.evaluation.ask import LeftOut, Question, ask_answers, ask_likelihoods, questions_of
from heed.recipes.evaluation.checked import check_again, checked_ones, open_first
from heed.recipes.evaluation.model import MeasuredModel, open_measured
from heed.recipes.evaluation.records import OpenTask, open_task
from heed.recipes.evaluation.results import differences_of, figures_of, left_out_rows
from heed.recipes.evaluation.reward_results import measures_rewards, reward_results
from heed.recipes.evaluation.store import Store, folder_name, line_of, scored_of
from heed.report.page import write_report
from heed.train.progress import Progress

Say = Callable[[str], None]
LINES_AT_A_TIME = 64
RESULTS, CONFIG = "results.json", "config.yaml"


@dataclass(frozen=True, eq=False)
class Measured:
    """One model on one task."""

    items: tuple[Scored, ...]
    left_out: tuple[LeftOut, ...]
    num_wrong_bos: int
    """items whose prompt began with BOS more than once"""


def run(settings: EvalSettings, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Measure every model on every task; what a run before this one has measured in the same folder is kept.

    Returns:
        what `results.json` holds.

    Raises:
        UserError: a model, a task or its data cannot be used, or the folder holds other measurements.
    """
    are_rewards = measures_rewards(settings)
    tasks = [] if are_rewards else open_tasks(settings, say)
    out = Path(settings.out)
    with files.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if are_rewards:
        return finished(out, settings, reward_results(settings, out, say))
    models: list[dict[str, Any]] = []
    measured: list[list[Measured]] = []
    for number, name in enumerate(settings.model):
        model = open_measured(name, settings, say)
        say(str(model.words))
        described: dict[str, Any] = {
            "name": name,
            "template": model.words.template_name,
            "kind": "language",
            "weights_sha256": weights_sha256(name),
            **{f"{what.replace(' ', '_')}_sha256": value for what, value in model.words.content().items()},
            "folder": folder_name(name, number),
        }
        measured.append([measure(model, described, task, settings, out / described["folder"], say) for task in tasks])
        models.append(described)
        del model  # before the next one comes into memory
    results = {
        "format": 1,
        "models": models,
        "tasks": [told_of(task) for task in tasks],
        "figures": [
            row
            for m, of_model in enumerate(measured)
            for t, each in enumerate(of_model)
            for row in figures_of(m, tasks[t], each.items)
        ],
        "differences": differences_of(tasks, [[each.items for each in of_model] for of_model in measured]),
        "left_out": left_out_rows(tasks, [[each.left_out for each in of_model] for of_model in measured]),
    }
    return finished(out, settings, results)


def finished(out: Path, settings: EvalSettings, results: dict[str, Any]) -> dict[str, Any]:
    """The results, written and drawn."""
    files.write_text(out / CONFIG, _dumped(settings))
    files.write_json(out / RESULTS, results)
    write_report([out], None)
    return results


def open_tasks(settings: EvalSettings, say: Say) -> list[OpenTask]:
    """All tasks, each with its items. Mistakes are told before a model is loaded."""
    if not settings.task and not settings.tax:
        raise nothing_to_measure(settings, "--task")
    tasks = [
        open_task(
            written,
            limit=settings.limit,
            num_shots=settings.num_shots,
            max_bad_records=settings.max_bad_records,
            is_tax=is_tax,
            say=say,
        )
        for is_tax, several in ((False, settings.task), (True, settings.tax))
        for written in several
    ]
    for one in tasks:
        open_first(one.task)
    return with_names_of_their_own(tasks)


def with_names_of_their_own(tasks: Sequence[OpenTask]) -> list[OpenTask]:
    """Tasks of one name are told apart by their files, and where these have one name too, by number.

    Raises:
        UserError: one task is asked for twice.
    """
    if twice := [one for place, one in enumerate(tasks) if any(one.is_as(other) for other in tasks[:place])]:
        raise UserError(
            "one task is asked for twice",
            where="--task",
            found=f"{twice[0].name} on {twice[0].data}",
            expected="each task on each file once",
            fix="leave one of the two out",
        )
    named = Counter(one.name for one in tasks)
    by_file = [f"{one.name}-{Path(one.data).stem}" if named[one.name] > 1 else one.name for one in tasks]
    seen: Counter[str] = Counter()
    found = []
    for one, name in zip(tasks, by_file, strict=True):
        seen[name] += 1
        found.append(replace(one, name=name if seen[name] == 1 else f"{name}-{seen[name]}"))
    return found


def measure(
    model: MeasuredModel, described: Mapping[str, Any], task: OpenTask, settings: EvalSettings, folder: Path, say: Say
) -> Measured:
    """Ask a model what it has not been asked yet, and give back every item's verdict, in the order of the file."""
    notes: Counter[str] = Counter()
    questions, left_out = questions_of(task, model, settings, notes)
    for note, count in notes.items():
        if count:
            say(f"{task.name}: {count:,} {note}")
    wrong_bos = sum(question.requests[0][0].num_bos > 1 for question in questions)
    if wrong_bos:
        say(f"{task.name}: {wrong_bos:,} prompts begin with BOS twice; the template or --bos adds one too many")
    store = Store.open(folder / task.name, asked_of(described, task, settings))
    check_again(task.task, questions, store)
    kept = {line["id"] for line in store.lines()}
    missing = [question for question in questions if question.item.id not in kept]
    if missing:
        ask(model, task, missing, len(questions), settings, store)
    by_id = {line["id"]: scored_of(line) for line in store.lines()}
    found, failed = checked_ones(questions, [by_id[question.item.id] for question in questions])
    if failed:
        say(f"{task.name}: {len(failed):,} answers that could not be checked are left out: {failed[0].problem}")
    store.say_measured([each.id for each in found])
    return Measured(tuple(found), (*left_out, *failed), wrong_bos)


def ask(
    model: MeasuredModel,
    task: OpenTask,
    questions: Sequence[Question],
    num_all: int,
    settings: EvalSettings,
    store: Store,
) -> None:
    """Put the questions to the model and keep each answer with its verdict."""
    done = num_all - len(questions)
    p_strange = model.p_strange([question.prompt_ids for question in questions], settings.dtype)
    strange = {question.item.id: p for question, p in zip(questions, p_strange, strict=True)}
    with Progress(f"{task.name}, {model.name}", total=num_all, start=done, unit="items") as progress:
        answered = (
            ask_answers(questions, task, model, settings)
            if task.task.kind == "generation"
            else ask_likelihoods(questions, model, settings, progress.say)
        )
        lines: list[dict[str, Any]] = []
        try:
            for question, outcomes in answered:
                line = line_of(question, outcomes, scored(task.task, question.item, outcomes))
                lines.append({**line, "p_strange": strange[question.item.id]})
                done += 1
                if len(lines) == LINES_AT_A_TIME:
                    store.append(lines)
                    lines = []
                progress.update(done)
        finally:
            store.append(lines)


def asked_of(described: Mapping[str, Any], task: OpenTask, settings: EvalSettings) -> dict[str, Any]:
    """What decides the outcomes of items: where one of these differs, it is another measurement.

    Not the limit, the forwards' size or other tasks and models: an item's outcome does not depend on them.
    """
    return {
        "model": described["name"],
        "weights": described["weights_sha256"],
        "template": described.get("chat_template_sha256"),
        "tokenizer": described.get("tokenizer_sha256"),
        "data": task.data_sha256,
        "task": json.loads(task.task.model_dump_json(exclude={"data", "shots_from", "about", "hub", "source"})),
        "examples": settings.shots if task.task.num_shots else None,
        "pool of examples": pool_sha256(task) if task.task.num_shots else None,
        "seed": settings.seed if task.task.num_shots else None,
        "bos": settings.bos,
        "new tokens": settings.max_new_tokens,
        "dtype": settings.dtype,
    }


def pool_sha256(task: OpenTask) -> str:
    """SHA-256 of the content of all that examples are drawn from."""
    return hashlib.sha256(" ".join(each.id for each in task.pool).encode()).hexdigest()


def told_of(task: OpenTask) -> dict[str, Any]:
    """A task as `results.json` has it."""
    return {
        "name": task.name,
        "kind": task.task.kind,
        "about": task.task.about,
        "data": task.data,
        "data_sha256": task.data_sha256,
        "num_items": len(task.items),
        "num_records": task.num_records,
        "num_findings": len(task.findings),
        "num_shots": task.task.num_shots,
        "primary": task.task.primary,
        "measures": list(task.task.measures),
        "is_tax": task.is_tax,
    }


def _dumped(settings: EvalSettings) -> str:
    from heed.settings import dump

    return dump(settings)

"""The whole way on the lab's embedded model: ask the base, tune it, ask again, and draw what became of it.

    base -> base with examples in its prompt -> supervised tuning -> reward model -> PPO -> report

Every stage leaves its findings in the run folder, so a demo that was stopped anywhere goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heed import files
from heed.config import DemoSettings, SftSettings, dump
from heed.data.tokens import fit_template
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.lab.base_model import BASE_MODEL
from heed.lab.tasks.requests import requests
from heed.lab.tasks.splits import training_tasks
from heed.lab.tasks.task import Task
from heed.lab.world import make_world
from heed.models.kernels.speed import speed_up
from heed.models.load import choose_device, load_model, load_tokenizer
from heed.models.stops import stop_ids
from heed.recipes import sft
from heed.recipes.demonstration.exam import (
    CLOSING,
    Exam,
    Examined,
    PromptOf,
    as_chat,
    as_talk,
    end_of_text,
    examine,
    with_shots,
)
from heed.recipes.demonstration.methods import Ground, as_compared, compare_methods
from heed.recipes.demonstration.preferences import REHEARSED, Size, as_measured, learn_from_preferences
from heed.recipes.training.setup import wrapped
from heed.report.page import write_report
from heed.train import memory
from heed.train.environment import environment
from heed.train.progress import Progress
from heed.train.run import Run, open_run

TEMPLATE = "chatml"
STAGES = ("base", "base_few_shot", "sft", "ppo")
TUNING = {
    "batch_size": 32,
    "eval_every": 150,
    "save_every": 50,
    "keep_checkpoints": 1,
    "held_out_share": 0.02,
    "lora": {"rank": 16},
    "optim": {"lr": 1.2e-3},
}
"""settings of `heed sft` that suit the lab's model

An adapter, because it leaves the embeddings as they are: with all weights tuned, AdamW moves the embedding of every
word, also of those that no answer holds, and the model unlearns the names that it is not tuned on.
"""
COST_CURVE = {250: 12, 1_000: 6, 4_000: 2}
"""gold answers that `--full` tunes on besides all of them, and how many passes over them"""
COST_SPLIT = "unseen_entities_and_sentences"
COST_KEYS = ("num_answers", "accuracy", "low", "high", "count")
FIRST_SHOWN = "translate_to_vietnamese"
MEASUREMENTS = "measurements.json"


def run(settings: DemoSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Go all the way, or go on where an earlier demonstration stopped; return what `measurements.json` holds."""
    device = choose_device("cpu")
    # A demonstration may be gone on with `--full`: what was done before does not depend on it.
    kept = settings.model_copy(update={"print_json": False, "full": False})
    with open_run(settings.out, dump(kept), environment(device, World())) as folder:
        for note in folder.notes:
            say(note)
        return demonstrate(settings, folder, say)


def demonstrate(settings: DemoSettings, folder: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """All stages, each done once."""
    out = folder.folder
    world = make_world()
    exam = Exam.of(world, seed=0, per_family=settings.questions)
    size = Size(settings.examples, settings.questions)
    tasks = [*training_tasks(world, seed=0, count=settings.examples)]
    told = requests(world, seed=0, count=size.demonstrations, held_out=False)
    write_tasks(out / "data" / "train.jsonl", [*tasks, *told])
    write_tasks(out / "data" / REHEARSED, tasks[: size.rehearsed])
    for name, held_out in exam.splits.items():
        write_tasks(out / "data" / f"{name}.jsonl", held_out)

    base = str(BASE_MODEL)
    once(out, "base", lambda: examined(exam, base, as_talk, "asking the base model"))
    few_shot = with_shots(world, seed=0)
    once(out, "base_few_shot", lambda: examined(exam, base, few_shot, "asking it with examples"))
    once(out, "tuning", lambda: tuned(out / "data" / "train.jsonl", out / "sft", epochs=1))
    once(out, "sft", lambda: examined(exam, str(out / "sft"), None, "asking the tuned model"))
    learn_from_preferences(out, world, size, partial(once, out))
    once(out, "ppo", lambda: examined(exam, str(out / "ppo"), None, "asking it after PPO"))
    if settings.full:
        compare_methods(Ground(out, world, size), partial(once, out))
        for count, epochs in ((n, e) for n, e in COST_CURVE.items() if n < settings.examples):
            once(out, f"cost_{count}", lambda n=count, e=epochs: cost_of(exam, out, tasks[:n], epochs=e))  # type: ignore[misc]

    measurements = gathered(exam, out, full=settings.full)
    files.write_json(out / MEASUREMENTS, measurements)
    if not folder.finished:
        folder.finish(lambda to: None)
    write_report([out])
    return measurements


def once(out: Path, stage: str, work: Callable[[], dict[str, Any]]) -> None:
    """Do a stage and keep what it found, with its wall time and peak memory; nothing if that was kept before."""
    path = out / "stages" / f"{stage}.json"
    if path.is_file():
        return
    files.make_folder(path.parent)
    memory.start_measuring()
    began = time.perf_counter()
    found = work()
    spent = {"seconds": time.perf_counter() - began, "peak_memory_bytes": memory.peak_memory_bytes()}
    files.write_json(path, {**found, **spent})


def kept_findings(path: Path) -> dict[str, Any]:
    """What a stage left."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            "what a stage of the demonstration found cannot be read",
            where=str(path),
            found=str(error),
            expected="the file as heed wrote it",
            fix=f"rm {typed(path)}, then the same command again: the stage is done anew",
        ) from error
    return found


def write_tasks(path: Path, tasks: list[Task]) -> None:
    """Tasks as conversations, one per line, for `heed sft` and `heed show`; a file that is there must hold the same."""
    text = "".join(f"{json.dumps(as_record(task), ensure_ascii=False)}\n" for task in tasks)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise UserError(
                "the demonstration found there was made from other tasks",
                where=str(path),
                found="a file that differs from what this version of heed writes",
                expected="the file that it wrote itself",
                fix="--out FOLDER names another folder; or remove this one to begin anew",
            )
        return
    files.make_folder(path.parent)
    files.write_text(path, text)


def as_record(task: Task) -> dict[str, Any]:
    """A task as one record of a data file."""
    said = [{"role": message.role, "content": message.content} for message in task.messages]
    return {
        "messages": [*said, {"role": "assistant", "content": task.answer}],
        "family": task.family,
        "cluster": task.cluster,
        "rule": task.rule,
        "accepted": list(task.accepted),
    }


def examined(exam: Exam, model_folder: str, prompt_of: PromptOf | None, title: str) -> dict[str, Any]:
    """Ask a model everything; without `prompt_of`, through its own chat template."""
    saved_tokenizer = load_tokenizer(model_folder)
    tokenizer = wrapped(saved_tokenizer, model_folder)
    first_ids, closing = ((end_of_text(tokenizer),), CLOSING) if prompt_of is not None else ((), "\n\n")
    if prompt_of is None:
        assert tokenizer.template is not None
        prompt_of = as_chat(fit_template(tokenizer.template, tokenizer))
    model = load_model(model_folder, torch.device("cpu"))
    speed_up(model)
    candidate = Examined(model, tokenizer, prompt_of, tuple(stop_ids(model, saved_tokenizer)), first_ids, closing)
    with Progress(title, total=len(exam.tasks), unit="questions") as progress:
        return examine(exam, candidate, progress.update)


def tuned(data: Path, out: Path, *, epochs: int) -> dict[str, Any]:
    """Tune the base model with `heed sft`, as a user would."""
    sft.run(
        SftSettings.model_validate(
            {
                "model": str(BASE_MODEL),
                "data": str(data),
                "out": str(out),
                "template": TEMPLATE,
                "epochs": epochs,
                **TUNING,
            }
        )
    )
    return {}


def cost_of(exam: Exam, out: Path, tasks: list[Task], *, epochs: int) -> dict[str, Any]:
    """Accuracy on unseen entities and sentences after tuning on so many answers."""
    folder = out / "cost" / str(len(tasks))
    data = out / "data" / f"train_{len(tasks)}.jsonl"
    write_tasks(data, tasks)
    tuned(data, folder, epochs=epochs)
    found = examined(exam, str(folder), None, f"asking after {len(tasks):,} answers")
    return {"num_answers": len(tasks), **found["splits"][COST_SPLIT]}


def gathered(exam: Exam, out: Path, *, full: bool) -> dict[str, Any]:
    """What all stages found, as the report and `--json` want it."""
    everything = {path.stem: kept_findings(path) for path in sorted((out / "stages").glob("*.json"))}
    found = {stage: everything[stage] for stage in STAGES}
    families = {
        name: {
            "cluster": about["cluster"],
            "split": about["split"],
            **{stage: found[stage]["families"][name]["accuracy"] for stage in STAGES},
        }
        for name, about in found["sft"]["families"].items()
    }
    cost = sorted(
        ({key: each[key] for key in COST_KEYS} for stage, each in everything.items() if stage.startswith("cost_")),
        key=lambda point: point["num_answers"],
    )
    measured = as_measured(everything)
    if full:
        measured["ppo"]["comparison"] = as_compared(everything)
    splits = {name: {stage: found[stage]["splits"][name] for stage in STAGES} for name in exam.splits}
    return {
        "stages": list(STAGES),
        "splits": splits,
        "families": families,
        "honesty": {stage: found[stage]["honesty"] for stage in STAGES},
        "examples": examples(exam, found),
        **measured,
        **({"cost": cost} if full else {}),
        "seconds": {stage: each["seconds"] for stage, each in everything.items()},
        "peak_memory_bytes": {stage: each["peak_memory_bytes"] for stage, each in everything.items()},
    }


def examples(exam: Exam, found: dict[str, Any]) -> list[dict[str, Any]]:
    """One question of each family and split with every stage's answer, translation into Vietnamese first."""
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for split, tasks in exam.splits.items():
        for number, task in enumerate(tasks):
            answers = {stage: found[stage]["answers"][split][number] for stage in STAGES}
            chosen.setdefault(
                (split, task.family),
                {
                    "split": split,
                    "family": task.family,
                    "prompt": "\n".join(message.content for message in task.messages),
                    "expected": task.answer,
                    "answers": {
                        stage: {"text": given["text"], "correct": given["correct"]} for stage, given in answers.items()
                    },
                },
            )
    return sorted(chosen.values(), key=lambda each: each["family"] != FIRST_SHOWN)

"""The second half of the demonstration: annotators rank answers, a reward model learns from them, PPO follows it.

    tuned model -> answers to open requests -> rankings -> `heed reward` -> `heed ppo` -> the true ("gold") reward

In the lab the gold reward is known by rule, and the annotators' errors and their liking for length are stated. So one
sees what a policy gains by what is wanted, and what it gains by the faults of the reward model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heed import files
from heed.data.chat import inference_prompt
from heed.data.tokens import fit_template
from heed.dist.world import World
from heed.evaluate.intervals import mean
from heed.lab.gold import merits
from heed.lab.preferences import Annotators, judged, noise_ceiling, preference_record
from heed.lab.tasks.requests import requests
from heed.lab.tasks.task import Task
from heed.lab.words import Noun
from heed.lab.world import World as LabWorld
from heed.models.decode.answers import Answer, draw_answers
from heed.models.decode.draw import AS_PREDICTED
from heed.models.decode.sample import Completion
from heed.models.heads.scalar import load_reward_model
from heed.models.kernels.speed import speed_up
from heed.models.load import load_model, load_tokenizer
from heed.models.score import forest_states
from heed.models.stops import stop_ids
from heed.preference_config import PpoSettings, RewardSettings
from heed.recipes import ppo, reward
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import wrapped
from heed.train.progress import Progress

MAX_ANSWER_TOKENS = 96
NUM_ANSWERS = 4
"""of the tuned model to each request: what annotators rank, and what the best of is taken"""
MAX_HELD_OUT_REQUESTS = 500
KL_BUDGET = 10.0
"""nats per answer"""
REWARD = {"batch_size": 16, "eval_every": 0, "save_every": 50, "lora": {"rank": 32}, "optim": {"lr": 3e-3}}
"""settings of `heed reward` that suit the lab's model"""
PPO = {"batch_size": 64, "max_new_tokens": MAX_ANSWER_TOKENS, "lr": 5e-4, "save_every": 8}
"""settings of `heed ppo` that suit the lab's model"""
KL = {"beta": 0.2, "budget": KL_BUDGET}
TOKENS_PER_FORWARD = 4_096
MAX_SEQUENCES = 128
RANKINGS, HELD_OUT_RANKINGS, REQUESTS, HELD_OUT_ANSWERS, REHEARSED = (
    "rankings.jsonl",
    "held_out_rankings.jsonl",
    "requests.jsonl",
    "held_out_answers.json",
    "rehearsed.jsonl",
)
"""files in the demonstration's `data`"""

Once = Callable[[str, Callable[[], dict[str, Any]]], None]
"""(name of a stage, its work): done once, and what it found is kept"""


@dataclass(frozen=True)
class Size:
    """How much of everything, from the number of instructions that supervised tuning takes."""

    examples: int
    questions: int

    @property
    def demonstrations(self) -> int:
        """Open requests with an answer, among what is tuned on."""
        return max(8, self.examples // 6)

    @property
    def requests(self) -> int:
        """Open requests that annotators rank answers to, and that PPO answers."""
        return max(16, self.examples // 12)

    @property
    def held_out(self) -> int:
        """Open requests on which the gold reward is measured."""
        return min(MAX_HELD_OUT_REQUESTS, 50 * self.questions)

    @property
    def phases(self) -> int:
        """Batches of answers that PPO learns from."""
        return max(1, self.examples // 1_700)

    @property
    def rehearsed(self) -> int:
        """Instructions that PPO goes through again beside its rewards, so that it does not unlearn them."""
        return 128 * self.phases


def learn_from_preferences(out: Path, world: LabWorld, size: Size, once: Once) -> None:
    """From the tuned model in `out` to the policy in it, and what that did to the gold reward."""
    data, sft, annotators = out / "data", str(out / "sft"), Annotators()
    tasks = requests(world, seed=1, count=size.requests, held_out=False)
    held_out = requests(world, seed=1, count=size.held_out, held_out=True)

    def rank() -> dict[str, Any]:
        sampled = answers(sft, tasks, num_samples=NUM_ANSWERS, seed=1, title="answering")
        measured = answers(sft, held_out, num_samples=NUM_ANSWERS, seed=2, title="answering")
        write_rankings(data / RANKINGS, world, tasks, sampled, annotators, seed=1)
        write_rankings(data / HELD_OUT_RANKINGS, world, held_out, measured, annotators, seed=2)
        write_requests(data / REQUESTS, tasks)
        files.write_json(data / HELD_OUT_ANSWERS, as_json(measured))
        return {"noise_ceiling": ceiling(world, held_out, measured, annotators)}

    def measure() -> dict[str, Any]:
        before = from_json(json.loads((data / HELD_OUT_ANSWERS).read_text(encoding="utf-8")))
        after = answers(str(out / "ppo"), held_out, num_samples=1, seed=2, title="answering")
        points = curve(world, out / "ppo", data / REQUESTS)
        return {**gained(world, held_out, before, after, str(out / "reward")), "curve": points}

    once("rankings", rank)
    once("reward", lambda: reward_model(out / "sft", data / RANKINGS, data / HELD_OUT_RANKINGS, out / "reward"))
    once("ppo_training", lambda: policy(out / "sft", out / "reward", data, out / "ppo", size.phases))
    once("gold", measure)


def as_measured(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The stages' findings as `measurements.json` and `--json` have them."""
    accuracy = {key: found["reward"][key] for key in ("accuracy", "low", "high", "count")}
    gold = found["gold"]
    kl = [point["kl_per_sequence"] for point in gold["curve"]]
    return {
        "reward_model": {**accuracy, "noise_ceiling": found["rankings"]["noise_ceiling"]},
        "ppo": {
            **{key: gold[key] for key in GOLD_KEYS},
            "kl": kl[-1] if kl else 0.0,
            "kl_budget": KL_BUDGET,
            "curve": gold["curve"],
        },
    }


GOLD_KEYS = (
    "gold_before",
    "gold_after",
    "gold_gain",
    "gold_gain_low",
    "gold_gain_high",
    "best_of_4_gain",
    "best_of_4_gain_low",
    "best_of_4_gain_high",
    "gain_over_best_of_4",
    "num_prompts",
)


Groups = list[list[Answer]]
"""a model's answers to each open request"""


def answers(model_folder: str, tasks: Sequence[Task], *, num_samples: int, seed: int, title: str) -> Groups:
    """Sample answers at temperature 1, as the model predicts them."""
    saved_tokenizer = load_tokenizer(model_folder)
    tokenizer = wrapped(saved_tokenizer, model_folder)
    assert tokenizer.template is not None
    template = fit_template(tokenizer.template, tokenizer)
    model = load_model(model_folder, torch.device("cpu"))
    speed_up(model)
    with Progress(title, total=len(tasks) * num_samples, unit="answers") as progress:
        return draw_answers(
            model,
            [tokenizer.encode(inference_prompt(task.messages, template)) for task in tasks],
            decode=lambda ids: tokenizer.backend.decode(ids, skip_special_tokens=True),
            stop_ids=stop_ids(model, saved_tokenizer),
            max_new_tokens=MAX_ANSWER_TOKENS,
            sampling=AS_PREDICTED,
            num_samples=num_samples,
            seed=seed,
            max_sequences=MAX_SEQUENCES,
            on_done=progress.update,
        )


def texts_of(sampled: Groups) -> list[list[str]]:
    """What was answered to each request, in words."""
    return [[answer.text for answer in group] for group in sampled]


def topics_of(world: LabWorld, task: Task) -> list[Noun]:
    """What a request asks about."""
    return [world.noun[name] for name in task.accepted]


def write_rankings(
    path: Path, world: LabWorld, tasks: Sequence[Task], sampled: Groups, annotators: Annotators, *, seed: int
) -> None:
    """The annotators' rankings of the answers, as `heed reward` and `heed dpo` read them."""
    rng = random.Random(seed)
    records = [
        preference_record(task.messages[-1].content, topics_of(world, task), texts, annotators, rng)
        for task, texts in zip(tasks, texts_of(sampled), strict=True)
    ]
    files.make_folder(path.parent)
    files.write_text(path, "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records if r is not None))


def write_requests(path: Path, tasks: Sequence[Task]) -> None:
    """Requests as prompts for `heed ppo`, with what they are about."""
    lines = [{"prompt": task.messages[-1].content, "topics": list(task.accepted)} for task in tasks]
    files.make_folder(path.parent)
    files.write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


def ceiling(world: LabWorld, tasks: Sequence[Task], sampled: Groups, annotators: Annotators) -> float:
    """The accuracy that the annotators' own errors allow a reward model on these answers."""
    groups = [judged(topics_of(world, task), texts) for task, texts in zip(tasks, texts_of(sampled), strict=True)]
    return noise_ceiling(annotators, groups)


def reward_model(model: Path, data: Path, eval_data: Path, out: Path) -> dict[str, Any]:
    """Train a reward model with `heed reward`, as a user would."""
    settings = {"model": str(model), "data": str(data), "eval_data": str(eval_data), "out": str(out), **REWARD}
    reward.run(RewardSettings.model_validate(settings))
    found: dict[str, Any] = json.loads((out / reward.MEASUREMENTS).read_text(encoding="utf-8"))
    return {**found["accuracy"], "length_correlation": found["length_correlation"]}


def policy(model: Path, reward_folder: Path, data: Path, out: Path, phases: int) -> dict[str, Any]:
    """Let the tuned model learn from the reward model with `heed ppo`, as a user would.

    What it was tuned on is rehearsed beside (PPO-ptx): requests are not all that it is asked.
    """
    places = {"model": str(model), "reward": str(reward_folder), "data": str(data / REQUESTS), "out": str(out)}
    rehearsed = {"data": str(data / REHEARSED), "weight": 2.0}
    ppo.run(PpoSettings.model_validate({**places, **PPO, "kl": KL, "ptx": rehearsed, "steps": phases}))
    return {}


def gold_of(world: LabWorld, tasks: Sequence[Task], texts: Sequence[str]) -> np.ndarray:
    """(S,) the gold reward of one answer to each request."""
    return np.array([merits(topics_of(world, task), text).gold for task, text in zip(tasks, texts, strict=True)])


def gold_of_each(world: LabWorld, tasks: Sequence[Task], sampled: Groups) -> list[np.ndarray]:
    """The gold reward of the first answers to all requests, (S,), of the second ones, and so on."""
    return [gold_of(world, tasks, texts) for texts in zip(*texts_of(sampled), strict=True)]


def scores_by(reward_folder: str, sampled: Groups) -> list[np.ndarray]:
    """(K,) the reward model's score of each of a request's K answers."""
    scorer = load_reward_model(reward_folder, torch.device("cpu"))
    speed_up(scorer.loaded.model)
    batching = MicroBatching(TOKENS_PER_FORWARD, True, World())
    return batching.per_sequence(
        [[answer.tokens for answer in group] for group in sampled],
        lambda forest: scorer.rewards(forest_states(scorer.loaded.model, forest), forest),
    )


def gained(world: LabWorld, tasks: Sequence[Task], before: Groups, after: Groups, reward_folder: str) -> dict[str, Any]:
    """What PPO did to the gold reward of the same requests, beside what the best of several answers gives.

    Before: the mean over the tuned model's answers to each request. All differences are paired by request.
    """
    first = np.mean(gold_of_each(world, tasks, before), axis=0)
    then = np.mean(gold_of_each(world, tasks, after), axis=0)
    scored = zip(texts_of(before), scores_by(reward_folder, before), strict=True)
    best = gold_of(world, tasks, [texts[int(np.argmax(scores))] for texts, scores in scored])
    gain, best_gain = mean((then - first).tolist()), mean((best - first).tolist())
    return {
        "gold_before": float(first.mean()),
        "gold_after": float(then.mean()),
        "gold_gain": gain.mean,
        "gold_gain_low": gain.low,
        "gold_gain_high": gain.high,
        "best_of_4_gain": best_gain.mean,
        "best_of_4_gain_low": best_gain.low,
        "best_of_4_gain_high": best_gain.high,
        "gain_over_best_of_4": asdict(mean((then - best).tolist())),
        "num_prompts": len(tasks),
    }


def curve(world: LabWorld, run: Path, prompts: Path) -> list[dict[str, float]]:
    """Score, gold and KL of every phase of a PPO run, the gold read off the answers it kept."""
    topics = [[world.noun[name] for name in line["topics"]] for line in _lines(prompts)]
    gold: dict[int, list[float]] = {}
    for kept in _lines(run / "samples.jsonl"):
        gold.setdefault(kept["step"], []).append(merits(topics[kept["record"] - 1], kept["answer"]).gold)
    return [
        {
            "step": numbers["step"],
            "score": numbers["score"],
            "gold": float(np.mean(gold[numbers["step"]])),
            "kl_per_sequence": numbers["kl_per_sequence"],
        }
        for numbers in _lines(run / "metrics.jsonl")
        if numbers["phase"] == "train"
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def as_json(sampled: Groups) -> list[list[dict[str, Any]]]:
    """Answers for a file, to be measured again later."""
    return [[as_object(answer) for answer in group] for group in sampled]


def as_object(answer: Answer) -> dict[str, Any]:
    """An answer in JSON."""
    return {
        "prompt": answer.tokens.ids[: answer.prompt_length].tolist(),
        "ids": answer.ids,
        "text": answer.text,
        "stopped": answer.stopped,
        "logp": answer.sampler_logp.tolist(),
    }


def from_json(kept: list[list[dict[str, Any]]]) -> Groups:
    """What `as_json` made."""
    return [
        [
            Answer.of(
                each["prompt"], Completion(each["ids"], each["logp"], each["logp"], each["stopped"]), each["text"]
            )
            for each in group
        ]
        for group in kept
    ]

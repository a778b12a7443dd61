"""How far each method gets, and at what distance: PPO with and without a price on distance, GRPO, DPO, best of n.

    tuned model, rankings, reward model -> runs in OUT/methods -> true ("gold") reward against KL, a way for each method

All start at the same tuned model and learn from the same annotators. PPO and GRPO are measured, phase by phase, on the
answers that they draw to the training requests before they learn from them; DPO and best of n on answers to held-out
requests. PPO with beta = 0 differs from PPO in beta alone: what it gains by the faults of the
reward model is seen where its score rises and its gold reward falls. Nothing is rehearsed beside and no budget ends a
run, for both would hide that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heed.dist.world import World
from heed.evaluate.best_of import kl_of_best, mean_of_best
from heed.lab.tasks.requests import requests
from heed.lab.tasks.task import Task
from heed.lab.world import World as LabWorld
from heed.models.kernels.speed import speed_up
from heed.models.load import load_model
from heed.models.score import forest_logp
from heed.objectives.ragged import sum_by_sequence
from heed.preference_config import DpoSettings, GrpoSettings, PpoSettings
from heed.recipes import dpo, grpo, ppo
from heed.recipes.demonstration.preferences import (
    MAX_ANSWER_TOKENS,
    PPO,
    RANKINGS,
    REQUESTS,
    TOKENS_PER_FORWARD,
    Groups,
    Once,
    Size,
    answers,
    curve,
    gold_of_each,
    scores_by,
)
from heed.recipes.training.micro_batches import MicroBatching
from heed.types import Forest

LONGER = 3
"""times the phases of the demonstration's own PPO run: faults of a reward model take time to be found"""
FASTER = 1e-3
"""learning rate of the runs that draw answers, twice that of the demonstration's own, for the same reason"""
BETAS = {"ppo": 0.2, "ppo beta 0": 0.0}
GRPO = {"batch_size": 64, "group_size": 8, "max_new_tokens": MAX_ANSWER_TOKENS, "lr": FASTER, "kl": {"beta": 0.2}}
DPO = {"batch_size": 16, "eval_every": 0, "lora": {"rank": 16}, "optim": {"lr": 1e-3}}
DPO_BETAS = (2.0, 0.3, 0.05)
"""a run each: DPO draws no answers, so how far it goes is set by beta, not by time"""
MOST_ANSWERS = 16
"""that the best is taken of"""
METHODS = "methods"
"""folder of the runs, in the demonstration's"""


@dataclass(frozen=True)
class Ground:
    """What all methods start from: a demonstration that has a tuned model and a reward model."""

    out: Path
    world: LabWorld
    size: Size

    @property
    def model(self) -> str:
        """The tuned model, which is the reference of every method."""
        return str(self.out / "sft")

    @property
    def judge(self) -> str:
        """The reward model."""
        return str(self.out / "reward")

    @property
    def held_out(self) -> list[Task]:
        """Requests that no method learns from; DPO and best of n are measured on them."""
        return requests(self.world, seed=1, count=self.size.held_out, held_out=True)

    def data(self, name: str) -> Path:
        """A file of the demonstration."""
        return self.out / "data" / name

    def run(self, name: str) -> Path:
        """A method's run folder."""
        return self.out / METHODS / name

    @property
    def rewarded(self) -> dict[str, Any]:
        """Settings that the methods which draw answers have in common."""
        steps = LONGER * self.size.phases
        return {"model": self.model, "reward": self.judge, "data": str(self.data(REQUESTS)), "steps": steps}


def compare_methods(ground: Ground, once: Once) -> None:
    """Every method's run and its way, each done once."""
    for method, beta in BETAS.items():
        name = method.replace(" ", "_")
        once(f"method_{name}", partial(by_ppo, ground, method, ground.run(name), beta))
    once("method_grpo", partial(by_grpo, ground, ground.run("grpo")))
    for beta in DPO_BETAS:
        once(f"method_dpo_{beta}", partial(by_dpo, ground, ground.run(f"dpo_{beta}"), beta))
    once("method_best_of_n", partial(by_choice, ground))


def by_ppo(ground: Ground, method: str, to: Path, beta: float) -> dict[str, Any]:
    """PPO's way with this beta, by its phases."""
    settings = {**ground.rewarded, **PPO, "out": str(to), "lr": FASTER, "kl": {"beta": beta}}
    ppo.run(PpoSettings.model_validate(settings))
    return {"method": method, "curve": curve(ground.world, to, ground.data(REQUESTS))}


def by_grpo(ground: Ground, to: Path) -> dict[str, Any]:
    """GRPO's way, by its phases."""
    grpo.run(GrpoSettings.model_validate({**ground.rewarded, **GRPO, "out": str(to)}))
    return {"method": "grpo", "curve": curve(ground.world, to, ground.data(REQUESTS))}


def by_dpo(ground: Ground, to: Path, beta: float) -> dict[str, Any]:
    """Where DPO with this beta arrives."""
    places = {"model": ground.model, "data": str(ground.data(RANKINGS)), "out": str(to)}
    dpo.run(DpoSettings.model_validate({**places, **DPO, "held_out_share": 0.0, "beta": beta}))
    return {"method": "dpo", "curve": [arrived(ground, str(to))]}


def by_choice(ground: Ground) -> dict[str, Any]:
    """Taking the best of 1, 2, 4... answers of the tuned model by the reward model."""
    tasks = ground.held_out
    sampled = answers(ground.model, tasks, num_samples=MOST_ANSWERS, seed=3, title="answering")
    scores = [of_request.tolist() for of_request in scores_by(ground.judge, sampled)]
    gold = np.stack(gold_of_each(ground.world, tasks, sampled), axis=1).tolist()
    points = [
        {
            "score": float(np.mean([mean_of_best(s, s, n) for s in scores])),
            "gold": float(np.mean([mean_of_best(s, g, n) for s, g in zip(scores, gold, strict=True)])),
            "kl_per_sequence": kl_of_best(n),
        }
        for n in (2**power for power in range(MOST_ANSWERS.bit_length()))
    ]
    return {"method": "best of n", "curve": points}


def as_compared(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The ways as `measurements.json` has them: one for each method, DPO's runs nearest first."""
    ways: dict[str, list[dict[str, float]]] = {}
    for stage, each in found.items():
        if stage.startswith("method_"):
            ways.setdefault(each["method"], []).extend(each["curve"])
    ways.get("dpo", []).sort(key=lambda point: point["kl_per_sequence"])
    return [{"method": method, "curve": points} for method, points in ways.items()]


def arrived(ground: Ground, model: str) -> dict[str, float]:
    """Score, gold and KL of a model's answers to held-out requests, one to each."""
    tasks = ground.held_out
    sampled = answers(model, tasks, num_samples=1, seed=3, title="answering")
    [gold] = gold_of_each(ground.world, tasks, sampled)
    further = logp_of(model, sampled) - logp_of(ground.model, sampled)
    return {
        "score": float(np.mean(scores_by(ground.judge, sampled))),
        "gold": float(gold.mean()),
        "kl_per_sequence": float(further.mean()),
    }


def logp_of(model_folder: str, sampled: Groups) -> np.ndarray:
    """(S,) log-probability of each first answer under a model, in nats."""
    model = load_model(model_folder, torch.device("cpu"))
    speed_up(model)

    def of_forest(forest: Forest) -> torch.Tensor:
        logp = forest_logp(model, forest, temperature=1.0).logp
        return sum_by_sequence(logp.double(), forest.sequence, forest.num_sequences)

    batching = MicroBatching(TOKENS_PER_FORWARD, True, World())
    sequences = [[answer.tokens for answer in group] for group in sampled]
    return np.array([first[0] for first in batching.per_sequence(sequences, of_forest)])

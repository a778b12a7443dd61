"""What PPO and GRPO have in common around their learning: the run as a row of phases.

    prompts -> answers -> scores, what the roles say -> told and logged -> (the recipe learns from them)

A phase draws a batch of answers from the policy as it is, and the recipe learns from them. The run ends early when the
KL of a phase exceeds the budget, before learning from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heed.models.load import restore
from heed.objectives.kl import kl_per_sequence
from heed.recipes.policy.learning import Opening, PolicySettings, save_policy
from heed.recipes.policy.rollout import (
    Groups,
    Said,
    asked,
    draw_answers,
    flat,
    less_missing_stops,
    score_answers,
    sequence_of,
    what_roles_say,
)
from heed.recipes.training.loop import Loop, Place, go_through
from heed.train.progress import Progress
from heed.train.run import Checkpoint
from heed.train.schedule import learning_rate

WARMUP = 0.03
"""share of the phases in which the learning rate rises from 0"""


def go_through_phases(
    settings: PolicySettings,
    opening: Opening,
    place: Place,
    *,
    take_phase: Callable[[int], dict[str, float]],
    state: Callable[[], dict[str, Any]],
    put_back: Callable[[dict[str, Any]], None],
) -> None:
    """Take the phases from where the run stopped, until the last one or the end of the KL budget.

    Args:
        take_phase: takes the phase of this number (from 1) and returns its numbers for `metrics.jsonl`.
        state: what a checkpoint holds of the learning, besides the policy's own files.
        put_back: puts back what `state` gave; the policy is restored already.
    """
    cast, kl = opening.cast, 0.0  # of the latest phase

    def take_step(step: int) -> dict[str, float]:
        nonlocal kl
        numbers = take_phase(step)
        kl = numbers["kl_per_sequence"]
        return numbers

    def go_back(checkpoint: Checkpoint) -> None:
        nonlocal kl
        restore(cast.opened.loaded, checkpoint.folder)
        kept = checkpoint.state(place.device)
        put_back(kept)
        kl = kept["kl"]

    loop = Loop(
        title="learning from rewards",
        total_steps=settings.steps,
        save_every=settings.save_every,
        eval_every=0,
        take_step=take_step,
        measure=lambda step, progress: measure(settings, opening, step, place, progress),
        save_model=lambda to: save_policy(cast, to),
        state=lambda: {**state(), "kl": kl},
        restore=go_back,
        shown=("score", "kl_per_sequence", "stop_rate"),
        is_over=lambda: is_over_budget(settings, kl),
    )
    go_through(loop, place)
    if is_over_budget(settings, kl):
        place.speaker.say(f"ended early: the KL of {kl:.2f} nats per answer is over the budget")
    folder = place.folder.folder
    place.speaker.say(f"the tuned model is in {folder}: heed chat --model {folder}")


def is_over_budget(settings: PolicySettings, kl: float) -> bool:
    """Whether answers are further from the reference than allowed; `kl` is their mean, in nats per answer."""
    return settings.kl.budget is not None and kl > settings.kl.budget


def rate_of_phase(settings: PolicySettings, step: int, *, peak: float) -> float:
    """The learning rate of a phase: a linear warm-up to `peak`, then a linear decay."""
    return learning_rate(
        step,
        peak=peak,
        warmup_steps=round(WARMUP * settings.steps),
        total_steps=settings.steps,
        shape="linear",
    )


@dataclass(frozen=True, eq=False)
class Drawn:
    """The answers of a phase, and what is known of them before anything is learnt."""

    groups: Groups
    said: list[Said]
    score: np.ndarray
    """(S,) of each answer, less what a missing stop costs"""
    told: dict[str, float]
    """what the answers say of the policy, for `metrics.jsonl`; scores as they were given"""
    seconds: float
    """that drawing and scoring took"""

    @property
    def kl(self) -> float:
        """KL(policy || reference), in nats per answer."""
        return self.told["kl_per_sequence"]


def draw_phase(
    settings: PolicySettings, opening: Opening, step: int, place: Place, *, num_prompts: int, num_samples: int
) -> Drawn:
    """Draw and score the answers of a phase, and keep them in `samples.jsonl`; all but the time depends on the seed."""
    cast = opening.cast
    began = time.perf_counter()
    groups = draw_answers(
        cast,
        opening.prompts.batch(step, num_prompts, settings.steps * num_prompts),
        num_samples=num_samples,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed * 1_000_003 + step,
    )
    score, said = score_answers(cast, groups), what_roles_say(cast, groups)
    log_answers(place, step, groups, score, said)
    seconds = time.perf_counter() - began
    rewarded = less_missing_stops(score, groups, penalty=settings.missing_stop)
    return Drawn(groups, said, rewarded, told(groups, score, said), seconds)


def measure(settings: PolicySettings, opening: Opening, step: int, place: Place, progress: Progress) -> None:
    """What the policy answers to held-out prompts, and how that is scored."""
    if not opening.held_out:
        return
    groups = draw_answers(
        opening.cast, opening.held_out, num_samples=1, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    score, said = score_answers(opening.cast, groups), what_roles_say(opening.cast, groups)
    numbers = told(groups, score, said)
    place.folder.log(step, "held_out", **numbers)
    progress.say(
        f"step {step:,}: held-out score {numbers['score']:.3f}, KL {numbers['kl_per_sequence']:.2f} nats per answer, "
        f"{numbers['stop_rate']:.0%} stopped"
    )


def told(groups: Groups, score: np.ndarray, said: Sequence[Said]) -> dict[str, float]:
    """What a batch of answers says of the policy that drew it."""
    answers = [answer for group in groups for answer in group]
    kl = kl_of_answers(said)
    entropy = np.concatenate([each.entropy for each in said])
    return {
        "score": float(score.mean()),
        "score_std": float(score.std()),
        "kl_per_sequence": float(kl.mean()),
        "entropy_per_token": float(entropy.mean()),
        "stop_rate": float(np.mean([answer.stopped for answer in answers])),
        "response_length": float(np.mean([answer.num_tokens for answer in answers])),
    }


def kl_of_answers(said: Sequence[Said]) -> np.ndarray:
    """(S,) the estimate k1 of KL(policy || reference) of each answer, summed over its tokens, in nats."""
    logp, reference = flat([each.logp for each in said]), flat([each.reference_logp for each in said])
    return kl_per_sequence(logp, reference, sequence_of(said), len(said)).numpy()


def log_answers(place: Place, step: int, groups: Groups, score: np.ndarray, said: Sequence[Said]) -> None:
    """Keep every answer of a phase, with its prompt, score and KL, in `samples.jsonl`."""
    answers = (answer for group in groups for answer in group)
    for answer, value, kl in zip(answers, score, kl_of_answers(said), strict=True):
        place.folder.log_sample(
            step,
            {
                "prompt": asked(answer.prompt),
                "answer": answer.text,
                "score": float(value),
                "kl": float(kl),
                "stopped": str(answer.stopped).lower(),
                "record": answer.prompt.origin.record,
            },
        )

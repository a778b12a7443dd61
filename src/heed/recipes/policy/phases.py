"""The run as a row of phases, each of which is a rollout and what the recipe learns from it.

The run ends early when the KL of a phase exceeds the budget, before learning from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from heed.errors import typed
from heed.models.intake.dtypes import dtype_to_save
from heed.models.load import restore, save
from heed.recipes.policy.rollout import RolloutModels, draw_rollout, role_outputs, rollout_metrics, score_rollout
from heed.recipes.policy.setup import PolicySettings, PolicySetup
from heed.recipes.training.dividing import written_whole
from heed.recipes.training.loop import Loop, Place, go_through
from heed.train.checkpoint import Checkpoint
from heed.train.progress import Progress
from heed.train.schedule import learning_rate

WARMUP = 0.03
"""share of the phases in which the learning rate rises from 0"""


def go_through_phases(
    settings: PolicySettings,
    setup: PolicySetup,
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
    models, kl = setup.models, 0.0  # of the latest phase

    def take_step(step: int) -> dict[str, float]:
        nonlocal kl
        numbers = take_phase(step)
        kl = numbers["kl_per_sequence"]
        return numbers

    def go_back(checkpoint: Checkpoint) -> None:
        nonlocal kl
        restore(models.opened.loaded, checkpoint.folder)
        kept = checkpoint.state(place.device)
        put_back(kept)
        kl = kept["kl"]

    loop = Loop(
        title="learning from rewards",
        final_dtype=dtype_to_save(settings.save_dtype, settings.model),
        total_steps=settings.steps,
        save_every=settings.save_every,
        eval_every=0,
        take_step=take_step,
        measure=lambda step, progress: measure(settings, setup, step, place, progress),
        to_save=lambda: written_whole(partial(save_policy, models), models.forwards[models.opened.loaded.model], place),
        state=lambda: {**state(), "kl": kl},
        restore=go_back,
        shown=("score", "kl_per_sequence", "stop_rate"),
        is_over=lambda: is_over_budget(settings, kl),
    )
    go_through(loop, place)
    if is_over_budget(settings, kl):
        place.speaker.say(f"ended early: the KL of {kl:.2f} nats per answer is over the budget")
    folder = place.folder.folder
    place.speaker.say(f"the tuned model is in {folder}: heed chat --model {typed(folder)}")


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


def seed_of_phase(settings: PolicySettings, step: int) -> int:
    """What the draws of a phase depend on."""
    return settings.seed * 1_000_003 + step


def measure(settings: PolicySettings, setup: PolicySetup, step: int, place: Place, progress: Progress) -> float | None:
    """What the policy answers to held-out prompts, and how that is scored."""
    if not setup.held_out:
        return None
    models = setup.models
    rollout = draw_rollout(
        models, setup.held_out, num_samples=1, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    numbers = rollout_metrics(rollout, score_rollout(models, rollout), role_outputs(models, rollout))
    counts = {"num_measured": setup.prompts.num_measured, "num_held_out": setup.prompts.num_held_out}
    place.folder.log(step, "held_out", **numbers, **counts)
    progress.say(
        f"step {step:,}: held-out score {numbers['score']:.3f}, KL {numbers['kl_per_sequence']:.2f} nats per answer, "
        f"{numbers['stop_rate']:.0%} stopped"
    )
    return -numbers["score"]


def save_policy(models: RolloutModels, to: Path) -> None:
    """Write the policy as plain transformers reads it."""
    opened = models.opened
    save(opened.loaded, to, template=opened.saved_template(), stop_tokens=opened.stops)

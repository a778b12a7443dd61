"""Direct preference optimisation: the model itself is the reward model, and its log-probabilities are compared.

    rankings -> tokens -> forest -> log-probs -> against the reference's -> objective -> step -> run folder

    DPO    -log sigma(beta (h_w - h_l)),  h = log pi(y | x) - log pi_ref(y | x)
    IPO    (h_w / |y_w| - h_l / |y_l| - 1 / (2 beta))^2
    SimPO  -log sigma(beta (log pi(y_w | x) / |y_w| - log pi(y_l | x) / |y_l|) - gamma)
    KTO    from single answers that were called good or bad: see `preference/kto.py`

(Rafailov et al. 2023, arXiv:2305.18290; Azar et al. 2023, arXiv:2310.12036; Meng et al. 2024, arXiv:2405.14734.) The
reference is the model as it was opened; its log-probabilities are computed once and kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from heed.config import peak_learning_rate, tokens_per_forward
from heed.errors import UserError, typed
from heed.models.four_bits import num_parameters
from heed.models.intake.dtypes import dtype_to_save
from heed.models.load import num_positions, restore, save
from heed.models.self_check import choose_score
from heed.models.trained import how_many_learn
from heed.preference_config import DpoSettings
from heed.recipes.preference.data import JUDGED, RANKINGS, Kind, PreferenceData, prepare_preference_data
from heed.recipes.preference.kto import Kto, balanced
from heed.recipes.preference.pairwise import Answers, Pairwise, comparison_of
from heed.recipes.preference.partners import Partners, chains_of
from heed.recipes.preference.reference import not_needed, reference_logp
from heed.recipes.training.data_sets import draws_of_run, preparation_of
from heed.recipes.training.dividing import divided, written_whole
from heed.recipes.training.loop import Loop, Place, go_through, in_run_folder
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.scheduled_step import optimiser_for, step_on_schedule
from heed.recipes.training.setup import Opened, open_for_tuning
from heed.train.checkpoint import Checkpoint, restore_optimiser
from heed.train.progress import Progress
from heed.train.same_run import deciding
from heed.train.step import Statistics, Term

SHARE_OF_TUNING_RATE = 0.1
"""of the learning rate that suits supervised tuning: preferences move a model that can answer already"""
BETA = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "simpo": 2.0}
"""where it is `auto`; SimPO's is per token"""


class Learning(Protocol):
    """What an objective does with the items of its data: rankings or judged answers."""

    @property
    def answers(self) -> Answers:
        """How answers are scored."""
        ...

    def batches(self, items: Sequence[Any]) -> list[Any]:
        """A step over these items as this process's micro-batches."""
        ...

    def measure(self, items: Sequence[Any]) -> dict[str, float]:
        """What a step over these held-out items would report, with an interval of its accuracy."""
        ...

    def loss_of(self, batch: Any) -> tuple[Tensor, Statistics]:
        """A micro-batch's weighted loss with its gradient, and what the step reports of it."""
        ...


@dataclass(eq=False)
class Tuning:
    """Everything a step needs, settled before the first one."""

    settings: DpoSettings
    opened: Opened
    data: PreferenceData[Any]
    learning: Learning
    optimiser: torch.optim.Optimizer
    peak: float
    """learning rate after warm-up"""
    num_draws: int
    """items of the whole run"""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.num_draws / self.settings.batch_size)


def run(settings: DpoSettings) -> None:
    """Tune the model on preferences into its run folder; go on where an earlier run stopped."""
    in_run_folder(settings, tune)


def tune(settings: DpoSettings, place: Place) -> None:
    """From the opened run folder to the tuned model in it."""
    tuning = prepare_tuning(settings, place)
    loaded, folder = tuning.opened.loaded, place.folder.folder

    def go_back(checkpoint: Checkpoint) -> None:
        restore(loaded, checkpoint.folder)
        restore_optimiser(tuning.optimiser, checkpoint.state(place.device)["optimiser"])

    loop = Loop(
        title="tuning",
        final_dtype=dtype_to_save(settings.save_dtype, settings.model),
        total_steps=tuning.total_steps,
        save_every=settings.save_every,
        eval_every=settings.eval_every,
        keep_best=settings.keep_best,
        stop_early=settings.stop_early,
        take_step=lambda step: take_step(tuning, step, place),
        measure=lambda step, progress: measure(tuning, place, step, progress),
        to_save=lambda: written_whole(partial(save_model, tuning), tuning.learning.answers.chosen, place),
        state=lambda: {"optimiser": tuning.optimiser.state_dict()},
        restore=go_back,
        shown=("loss", "accuracy", "tokens_per_second"),
    )
    go_through(loop, place)
    place.speaker.say(f"the tuned model is in {folder}: heed chat --model {typed(folder)}")


def prepare_tuning(settings: DpoSettings, place: Place) -> Tuning:
    """Open the model, prepare the data, prove that the forest computes what the model computes."""
    if settings.objective == "kto" and settings.sft.weight:
        raise UserError(
            "KTO has no better answer that a supervised term could imitate",
            where="--sft.weight, --objective",
            found=f"--sft.weight {settings.sft.weight:g} with --objective kto",
            expected="an objective that compares: dpo, ipo or simpo",
            fix="--sft.weight 0, or --objective dpo with ranked answers",
        )
    opened = open_for_tuning(settings, place)
    kind: Kind[Any] = JUDGED if settings.objective == "kto" else RANKINGS
    data = prepare_preference_data(
        kind,
        settings.data,
        settings.eval_data,
        place.folder.folder,
        preparation_of(settings, opened),
        seed=settings.seed,
        eval_limit=settings.eval_limit,
        settings=deciding(settings),
        world=place.world,
    )
    num_draws = draws_of_run(settings, data.draws_in_epoch)
    learning = learning_from(settings, opened, data, num_draws, place)
    named = opened.loaded.trained_parameters()
    place.speaker.say(how_many_learn(opened.loaded.model))
    return Tuning(
        settings=settings,
        opened=opened,
        data=data,
        learning=learning,
        optimiser=optimiser_for(settings.optim, named, opened.loaded.model, place.speaker.say, settings.offload),
        peak=peak_learning_rate(
            settings.optim.lr,
            num_parameters=num_parameters(opened.loaded.model),
            has_adapter=settings.lora.rank > 0,
            share=SHARE_OF_TUNING_RATE,
        ),
        num_draws=num_draws,
    )


def learning_from(
    settings: DpoSettings, opened: Opened, data: PreferenceData[Any], num_draws: int, place: Place
) -> Learning:
    """The objective on this model and data, with the log-probabilities of the reference that it needs."""
    loaded, judged = opened.loaded, settings.objective == "kto"
    first = data.batch(1, settings.batch_size, num_draws)
    longest = max((t for item in first for t in ((item.tokens,) if judged else item.sequences)), key=len)
    limit = num_positions(loaded.model)
    drawn = data.drawn(num_draws)
    weights = balanced(data) if judged else (1.0, 1.0)  # refuses judgements of one kind before anything is computed
    partners = partners_of(settings, data, drawn, limit, place) if judged else None
    longest_in_data = data.longest if partners is None else max(data.longest, partners.longest)
    max_tokens = tokens_per_forward(settings.max_tokens, loaded.device.type, loaded.width)
    chosen = choose_score(
        loaded.model,
        longest,
        longest_in_data=longest_in_data,
        num_positions=limit,
        share=True,
        max_tokens=max_tokens,
        world=place.world,
    )
    place.speaker.say(f"self-check: {chosen.note}")
    chosen = divided(chosen, settings, place.world, place.speaker.say)
    batching = MicroBatching(max_tokens, chosen.shares_prefixes, place.world)
    answers = Answers(chosen, loaded.device, settings.dtype)
    beta = BETA[settings.objective] if settings.beta == "auto" else settings.beta
    groups = (
        Pairwise.sequences_for_reference(data, drawn)
        if partners is None
        else Kto.sequences_for_reference(data, drawn, partners)
    )
    num_groups = sum(map(len, drawn)) + sum(map(len, data.held_out.values()))
    reference = (
        not_needed
        if settings.objective == "simpo"
        else reference_logp(groups, answers.token_logp, place, batching, num_groups=num_groups)
    )
    if partners is not None:
        return Kto(answers, batching, beta, *weights, partners, reference)
    return Pairwise(answers, batching, comparison_of(settings, beta), reference, settings.sft.weight)


def partners_of(
    settings: DpoSettings,
    data: PreferenceData[Any],
    drawn: Sequence[np.ndarray],
    num_positions: int | None,
    place: Place,
) -> Partners:
    """For KTO, the mismatched answers of all that is trained or measured, within the length that the data keeps to."""
    partners = Partners(
        chains_of(data, drawn),
        max_length=settings.max_length or num_positions,
        are_cut=settings.too_long == "truncate",
    )
    for line in partners.notes:
        place.speaker.say(line)
    return partners


def take_step(tuning: Tuning, step: int, place: Place) -> dict[str, float]:
    """One optimiser step, and its numbers for `metrics.jsonl`."""
    batch_size = tuning.settings.batch_size
    began = time.perf_counter()
    batches = tuning.learning.batches(tuning.data.batch(step, batch_size, tuning.num_draws))
    numbers = step_on_schedule(
        step,
        tuning.optimiser,
        [Term(batches, tuning.learning.loss_of)],
        settings=tuning.settings.optim,
        peak=tuning.peak,
        total_steps=tuning.total_steps,
        world=place.world,
    )
    num_tokens = int(place.world.sum(torch.tensor(sum(batch.forest.num_unshared_tokens for batch in batches))))
    num_tokens //= place.world.group_size  # all of a group have counted theirs
    seconds = time.perf_counter() - began
    return {**numbers, "num_tokens": num_tokens, "tokens_per_second": num_tokens / seconds}


def measure(tuning: Tuning, place: Place, step: int, progress: Progress) -> float | None:
    """What a step over the held-out items would report; returns its loss, None where nothing is held out."""
    items = [item for found in tuning.data.held_out.values() for item in found]
    if not items:
        return None
    numbers = tuning.learning.measure(items)
    counts = {"num_measured": tuning.data.num_measured, "num_held_out": tuning.data.num_held_out}
    place.folder.log(step, "held_out", **numbers, **counts)
    progress.say(
        f"step {step:,}: held-out loss {numbers['loss']:.4f}, {numbers['accuracy']:.1%} right "
        f"[{numbers['accuracy_low']:.1%}, {numbers['accuracy_high']:.1%}]"
    )
    return numbers["loss"]


def save_model(tuning: Tuning, to: Path) -> None:
    """Write the model as plain transformers reads it."""
    opened = tuning.opened
    save(opened.loaded, to, template=opened.saved_template(), stop_tokens=opened.stops)

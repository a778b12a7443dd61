"""A reward model from ranked answers: one number for an answer, higher where people would rather have it.

    rankings -> rendered chat -> tokens -> forest -> reward at the stop token -> Bradley-Terry -> step -> run folder

    L = - mean over prompts of 1 / C(K, 2) sum over pairs of log sigma(r_w - r_l)

(Ouyang et al. 2022, arXiv:2203.02155, eq. 1). All answers to a prompt are in one forest, so each is computed once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heed import files
from heed.config import peak_learning_rate
from heed.data.preferences import RankedTokens
from heed.errors import UserError, typed
from heed.evaluate.calibration import calibration
from heed.evaluate.clustered import clustered_accuracy, clustered_mean
from heed.evaluate.ranked import held_out_comparisons, length_bins, length_correlation
from heed.models.four_bits import num_parameters
from heed.models.heads.scalar import RewardModel, new_reward_model, restore_reward_model, save_reward_model
from heed.models.load import num_positions
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score
from heed.models.trained import how_many_learn
from heed.objectives.preference import bradley_terry_loss, centring_loss, is_ranked_right
from heed.preference_config import RewardSettings
from heed.recipes.preference.comparisons import ComparedForest, compared, on_device
from heed.recipes.preference.data import RANKINGS, PreferenceData, prepare_preference_data
from heed.recipes.training.data_sets import draws_of_run, preparation_of
from heed.recipes.training.dividing import divided, written_whole
from heed.recipes.training.loop import Loop, Place, go_through, in_run_folder
from heed.recipes.training.micro_batches import MicroBatching, lean_forward
from heed.recipes.training.scheduled_step import optimiser_for, step_on_schedule
from heed.recipes.training.setup import Opened, open_for_tuning
from heed.train.checkpoint import Checkpoint, restore_optimiser
from heed.train.progress import Progress
from heed.train.same_run import deciding
from heed.train.step import Statistics, Term
from heed.types import Forest

MEASUREMENTS = "reward_measurements.json"
SHARE_OF_TUNING_RATE = 0.5
"""of the learning rate that suits supervised tuning: the head is new, and what the trunk knows is to be kept"""
MAX_REFERENCE_RANKINGS = 256
"""of the training data, whose best answers' mean reward becomes 0"""


def run(settings: RewardSettings) -> None:
    """Train a reward model into its run folder; go on where an earlier run stopped."""
    in_run_folder(settings, train)


@dataclass(eq=False)
class Training:
    """Everything a step needs, settled before the first one."""

    settings: RewardSettings
    opened: Opened
    reward_model: RewardModel
    data: PreferenceData[RankedTokens]
    chosen: ChosenScore
    batching: MicroBatching
    optimiser: torch.optim.Optimizer
    peak: float
    """learning rate after warm-up"""
    num_draws: int
    """rankings of the whole run"""
    measurements: Mapping[str, Any] | None = None
    """of the model as it is; None where it was not measured since the last step"""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.num_draws / self.settings.batch_size)

    def rewards(self, forest: Forest) -> Tensor:
        """(S,) each answer's reward, with its gradient."""
        with autocast(self.opened.loaded.device, self.settings.dtype):
            states = self.chosen.states(forest)
        return self.reward_model.rewards(states, forest)

    def loss_of(self, batch: ComparedForest) -> tuple[Tensor, Statistics]:
        """The weighted loss of all comparisons with its gradient, and what the step reports of it."""
        settings = self.settings
        rewards = self.rewards(batch.forest)
        pairs = on_device(batch.compared, rewards.device)
        winner, loser = rewards[pairs.winner], rewards[pairs.loser]
        loss = bradley_terry_loss(
            winner,
            loser,
            pairs.is_tie,
            margin=settings.margin * batch.lead.to(rewards),
            label_smoothing=settings.label_smoothing,
        )
        if settings.centring:
            loss = loss + settings.centring * centring_loss(winner, loser)
        strict = ~pairs.is_tie
        return (pairs.weight * loss).sum(), {
            "accuracy": (float(is_ranked_right(winner, loser)[strict].sum()), int(strict.sum())),
            "margin": (float((winner - loser)[strict].detach().sum()), int(strict.sum())),
            "num_comparisons": len(pairs.weight),
        }


def train(settings: RewardSettings, place: Place) -> None:
    """From the opened run folder to the reward model in it."""
    training = prepare_training(settings, place)
    folder = place.folder.folder

    def go_back(checkpoint: Checkpoint) -> None:
        restore_reward_model(training.reward_model, checkpoint.folder)
        restore_optimiser(training.optimiser, checkpoint.state(place.device)["optimiser"])

    loop = Loop(
        title="learning to rank",
        total_steps=training.total_steps,
        save_every=settings.save_every,
        eval_every=settings.eval_every,
        keep_best=settings.keep_best,
        stop_early=settings.stop_early,
        take_step=lambda step: take_step(training, step),
        measure=lambda step, progress: measure(training, place, step, progress),
        to_save=lambda: written_whole(
            partial(save_model, training.opened, centred(training), training.measurements), training.chosen, place
        ),
        state=lambda: {"optimiser": training.optimiser.state_dict()},
        restore=go_back,
        shown=("loss", "accuracy", "tokens_per_second"),
    )
    go_through(loop, place)
    place.speaker.say(f"the reward model is in {folder}: heed ppo --reward {typed(folder)}")


def prepare_training(settings: RewardSettings, place: Place) -> Training:
    """Open the model, prepare the data, prove that the forest computes what the model computes."""
    opened = open_for_tuning(settings, place, reads_words=False)
    loaded = opened.loaded
    reward_model = new_reward_model(loaded, settings.seed)
    data = prepare_preference_data(
        RANKINGS,
        settings.data,
        settings.eval_data,
        place.folder.folder,
        preparation_of(settings, opened),
        seed=settings.seed,
        eval_limit=settings.eval_limit,
        settings=deciding(settings),
        world=place.world,
    )
    if settings.margin:
        place.speaker.say(scored(data))
    num_draws = draws_of_run(settings, data.draws_in_epoch)
    first = data.batch(1, settings.batch_size, num_draws)
    max_tokens = lean_forward(settings.max_tokens, loaded)
    chosen = choose_score(
        loaded.model,
        max((tokens for ranking in first for tokens in ranking.sequences), key=len),
        longest_in_data=data.longest,
        num_positions=num_positions(loaded.model),
        share=True,
        max_tokens=max_tokens,
        world=place.world,
    )
    place.speaker.say(f"self-check: {chosen.note}")
    chosen = divided(chosen, settings, place.world, place.speaker.say)
    named = reward_model.trained_parameters()
    place.speaker.say(how_many_learn(loaded.model, reward_model.head))
    return Training(
        settings=settings,
        opened=opened,
        reward_model=reward_model,
        data=data,
        chosen=chosen,
        batching=MicroBatching(max_tokens, chosen.shares_prefixes, place.world),
        optimiser=optimiser_for(settings.optim, named, loaded.model, place.speaker.say, settings.offload),
        peak=peak_learning_rate(
            settings.optim.lr,
            num_parameters=num_parameters(loaded.model),
            has_adapter=settings.lora.rank > 0,
            share=SHARE_OF_TUNING_RATE,
        ),
        num_draws=num_draws,
    )


def scored(data: PreferenceData[RankedTokens]) -> str:
    """How many rankings have scores that `margin` can ask a lead by, as a line for the user.

    Raises:
        UserError: none has; then there is nothing for the margin to do.
    """
    known = [items.at(int(record)).has_margins for items in data.sets for record in items.training]
    if any(known):
        return f"margin: {sum(known):,} of {len(known):,} rankings have scores; no lead is asked for in the others"
    raise UserError(
        "a margin is asked for per point of score, and no answer has a score",
        where="--margin",
        found=f"{len(known):,} rankings that give an order alone, or ranks, in {', '.join(i.path for i in data.sets)}",
        expected='"scores" beside ranked answers, or "margin" or "score_chosen" and "score_rejected" beside a pair',
        fix="leave out --margin, or write the scores into the records",
    )


def take_step(training: Training, step: int) -> dict[str, float]:
    """One optimiser step, and its numbers for `metrics.jsonl`."""
    batch_size = training.settings.batch_size
    training.measurements = None
    began = time.perf_counter()
    rankings = training.data.batch(step, batch_size, training.num_draws)
    numbers = step_on_schedule(
        step,
        training.optimiser,
        [Term(compared(rankings, training.batching), training.loss_of)],
        settings=training.settings.optim,
        peak=training.peak,
        total_steps=training.total_steps,
        world=training.batching.world,
    )
    num_tokens = sum(len(tokens) for ranking in rankings for tokens in ranking.sequences)
    seconds = time.perf_counter() - began
    return {**numbers, "num_tokens": num_tokens, "tokens_per_second": num_tokens / seconds}


def measure(training: Training, place: Place, step: int, progress: Progress) -> float | None:
    """How often held-out answers are ranked as people ranked them, how sure the model is, and what length does.

    Returns:
        The mean of -log sigma(r_better - r_worse) over held-out comparisons; None where nothing is held out.
    """
    rankings = [ranking for found in training.data.held_out.values() for ranking in found]
    if not rankings:
        return None
    rewards = training.batching.per_sequence([ranking.sequences for ranking in rankings], training.rewards)
    numbers, measurements = measured(rankings, rewards)
    counts = {"num_measured": training.data.num_measured, "num_held_out": training.data.num_held_out}
    place.folder.log(step, "held_out", **numbers, **counts)
    progress.say(
        f"step {step:,}: of {numbers['num_comparisons']:,.0f} held-out comparisons {numbers['accuracy']:.1%} right "
        f"[{numbers['accuracy_low']:.1%}, {numbers['accuracy_high']:.1%}]"
    )
    training.measurements = measurements
    if place.world.is_first:
        files.write_json(place.folder.folder / MEASUREMENTS, measurements)
    return numbers["loss"]


def measured(
    rankings: Sequence[RankedTokens], rewards: Sequence[np.ndarray]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers of a measurement for `metrics.jsonl`, and all of it for the report."""
    margins = held_out_comparisons([ranking.scores for ranking in rankings], rewards)
    right = [margin > 0 for margin in margins]
    share = clustered_accuracy([np.heaviside(margin, 0.5) for margin in margins])
    sureness = [1 / (1 + np.exp(-np.abs(margin))) for margin in margins]
    all_margins = np.concatenate(margins)
    calibrated = calibration(np.concatenate(sureness).tolist(), np.concatenate(right).tolist())
    brier = clustered_interval([np.square(sure - is_right) for sure, is_right in zip(sureness, right, strict=True)])
    lengths = [np.array([np.count_nonzero(tokens.weight) for tokens in r.sequences]) for r in rankings]
    correlation = length_correlation(rewards, lengths)
    of_length = {"length_correlation_low": correlation.low, "length_correlation_high": correlation.high}
    numbers = {
        "accuracy": share.accuracy,
        "accuracy_low": share.low,
        "accuracy_high": share.high,
        "num_comparisons": share.count,
        "num_prompts": len(rankings),
        "loss": float(np.logaddexp(0.0, -all_margins).mean()),
        "ece": calibrated.ece,
        "brier": calibrated.brier,
        **brier,
        "length_correlation": correlation.mean,
        **of_length,
        "reward_mean": float(np.concatenate(list(rewards)).mean()),
    }
    return numbers, {
        "accuracy": {**asdict(share), "num_prompts": len(rankings)},
        "calibration": {**asdict(calibrated), **brier},
        "length_correlation": correlation.mean,
        **of_length,
        "length_bins": [asdict(each) for each in length_bins(rewards, lengths)],
    }


def clustered_interval(squared_errors: Sequence[np.ndarray]) -> dict[str, float]:
    """The Brier score's interval between prompts; a single prompt says nothing of it."""
    if len(squared_errors) < 2:
        return {}
    found = clustered_mean(squared_errors)
    return {"brier_low": found.low, "brier_high": found.high}


def save_model(opened: Opened, reward_model: RewardModel, measurements: Mapping[str, Any] | None, to: Path) -> None:
    """Write a reward model as transformers' sequence classifiers are read, with what was measured of it."""
    if measurements is not None:
        files.write_json(to / MEASUREMENTS, measurements)
    save_reward_model(
        reward_model,
        to,
        template=opened.saved_template(),
        template_name=opened.template.name,
        stop_tokens=opened.stops,
    )


def centred(training: Training) -> RewardModel:
    """The reward model as it is, with the offset at which the best answers of its data have a mean reward of 0.

    All processes compute it together.

    Source: Huang et al. 2024, arXiv:2403.17031, who take it over the demonstrations of supervised tuning.
    """
    first = training.data.sets[0]
    # Anywhere in the file: the first records of a sorted one are of one kind.
    mixed = np.random.default_rng(0).permutation(len(first.training))[:MAX_REFERENCE_RANKINGS]
    best = [first.at(int(record)).sequences[:1] for record in first.training[np.sort(mixed)]]
    rewards = np.concatenate(training.batching.per_sequence(best, training.rewards))
    return replace(training.reward_model, offset=training.reward_model.offset + float(rewards.mean()))

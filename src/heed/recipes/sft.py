"""Supervised tuning on instructions and answers, the loss on the responses alone.

    records -> rendered chat -> tokens + mask -> forest -> log-probs -> objective -> step -> run folder

    L = - sum_n w_n log P(y_n | I, y_<n) / sum_n w_n

over the trained tokens of a step (Wei et al. 2022, arXiv:2109.01652; Ouyang et al. 2022, arXiv:2203.02155, 3.5).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from heed.config import SftSettings, peak_learning_rate, tokens_per_forward
from heed.data.read import begins_as_text
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.forest.build import build
from heed.forest.weights import weigh
from heed.models.decode.sample import greedy
from heed.models.four_bits import num_parameters
from heed.models.intake.dtypes import dtype_to_save
from heed.models.load import num_positions, restore, save
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score
from heed.models.trained import how_many_learn
from heed.recipes.training.data_sets import Data, draws_of_run, preparation_of, prepare_data
from heed.recipes.training.dividing import divided, written_whole
from heed.recipes.training.loop import Loop, Place, go_through, in_run_folder
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.scheduled_step import optimiser_for, step_on_schedule
from heed.recipes.training.setup import Opened, open_for_tuning
from heed.train.checkpoint import Checkpoint, restore_optimiser
from heed.train.progress import Progress
from heed.train.run import Run
from heed.train.same_run import deciding
from heed.train.step import Statistics, Term, evaluate, likelihood
from heed.types import Forest, Tokens

NUM_SAMPLES = 3
MAX_SAMPLE_TOKENS = 96


def run(settings: SftSettings) -> None:
    """Tune the model of `settings` on its data, into its run folder; go on where an earlier run stopped."""
    in_run_folder(settings, tune, keep_checkpoints=settings.keep_checkpoints)


@dataclass(frozen=True, eq=False)
class Tuning:
    """Everything a step needs, settled before the first one."""

    settings: SftSettings
    opened: Opened
    data: Data
    chosen: ChosenScore
    optimiser: torch.optim.Optimizer
    world: World
    peak: float
    """learning rate after warm-up"""
    num_draws: int
    """conversations of the whole run"""
    total_steps: int

    def forests(self, conversations: Sequence[tuple[Tokens, ...]]) -> list[Forest]:
        """This process's forwards of a step over these conversations."""
        settings, share, loaded = self.settings, self.chosen.shares_prefixes, self.opened.loaded
        groups = [weigh(conversation, settings.loss.mean_over) for conversation in conversations]
        max_tokens = tokens_per_forward(settings.max_tokens, loaded.device.type, loaded.width)
        forwards = MicroBatching(max_tokens, share, self.world).forwards(groups)
        return [build([tokens for i in forward for tokens in groups[i]], share=share) for forward in forwards]

    def loss_of(self, forest: Forest) -> tuple[Tensor, Statistics]:
        """The forest's weighted NLL with its gradient, and what the step reports of it."""
        with autocast(self.opened.loaded.device, self.settings.dtype):
            return likelihood(self.chosen.nll)(forest)


def tune(settings: SftSettings, place: Place) -> None:
    """From the opened run folder to the tuned model in it."""
    tuning = prepare_tuning(settings, place)
    loaded, optimiser = tuning.opened.loaded, tuning.optimiser

    def go_back(checkpoint: Checkpoint) -> None:
        restore(loaded, checkpoint.folder)
        restore_optimiser(optimiser, checkpoint.state(place.device)["optimiser"])

    loop = Loop(
        title="tuning",
        final_dtype=dtype_to_save(settings.save_dtype, settings.model),
        total_steps=tuning.total_steps,
        save_every=settings.save_every,
        eval_every=settings.eval_every,
        keep_best=settings.keep_best,
        stop_early=settings.stop_early,
        take_step=lambda step: take_step(tuning, step),
        measure=lambda step, progress: measure(tuning, place.folder, step, progress),
        to_save=lambda: written_whole(partial(save_model, tuning), tuning.chosen, place),
        state=lambda: {"optimiser": optimiser.state_dict()},
        restore=go_back,
    )
    go_through(loop, place)
    place.speaker.say(f"the tuned model is in {place.folder.folder}: heed chat --model {typed(place.folder.folder)}")


def prepare_tuning(settings: SftSettings, place: Place) -> Tuning:
    """Open the model, prepare the data, prove that the forest computes what the model computes."""
    world, speaker = place.world, place.speaker
    is_text = all(not s.wordings and begins_as_text(s.path, s.columns) for s in settings.data)
    opened = open_for_tuning(settings, place, reads_plain_text=is_text)
    model = opened.loaded.model
    limit = num_positions(model)
    data = prepare_data(
        settings.data,
        settings.eval_data,
        place.folder.folder,
        preparation_of(settings, opened),
        seed=settings.seed,
        eval_limit=settings.eval_limit,
        settings=deciding(settings),
        world=world,
    )
    num_draws = draws_of_run(settings, data.training.draws_in_epoch)
    first = data.training.batch(1, settings.batch_size, num_draws)
    longest = max((tokens for conversation in first for tokens in conversation), key=len)
    chosen = choose_score(
        model,
        longest,
        longest_in_data=data.longest,
        num_positions=limit,
        share=settings.share_prefixes,
        max_tokens=tokens_per_forward(settings.max_tokens, opened.loaded.device.type, opened.loaded.width),
        world=world,
    )
    speaker.say(f"self-check: {chosen.note}")
    chosen = divided(chosen, settings, world, speaker.say)
    named = opened.loaded.trained_parameters()
    speaker.say(how_many_learn(model))
    return Tuning(
        settings=settings,
        opened=opened,
        data=data,
        chosen=chosen,
        optimiser=optimiser_for(settings.optim, named, model, place.speaker.say, settings.offload),
        world=world,
        peak=peak_learning_rate(
            settings.optim.lr, num_parameters=num_parameters(model), has_adapter=settings.lora.rank > 0
        ),
        num_draws=num_draws,
        total_steps=math.ceil(num_draws / settings.batch_size),
    )


def take_step(tuning: Tuning, step: int) -> dict[str, float]:
    """One optimiser step, and its numbers for `metrics.jsonl`."""
    settings = tuning.settings
    began = time.perf_counter()
    conversations = tuning.data.training.batch(step, settings.batch_size, tuning.num_draws)
    forests = tuning.forests(conversations)
    numbers = step_on_schedule(
        step,
        tuning.optimiser,
        [Term(forests, tuning.loss_of)],
        settings=settings.optim,
        peak=tuning.peak,
        total_steps=tuning.total_steps,
        world=tuning.world,
    )
    own = (sum(f.num_tokens for f in forests), sum(f.num_unshared_tokens for f in forests))
    of_groups = tuning.world.gather_objects(own)[:: tuning.world.group_size]
    computed, unshared = zip(*of_groups, strict=True)
    counts = (sum(computed), sum(unshared))
    seconds = time.perf_counter() - began
    # of the group that computed most, to the mean: the others wait for it
    imbalance = {"imbalance": max(computed) * len(computed) / counts[0]} if len(computed) > 1 else {}
    return {
        **numbers,
        **imbalance,
        "num_computed_tokens": counts[0],
        "num_tokens": counts[1],
        "num_padded_tokens": padded([len(tokens) for conversation in conversations for tokens in conversation]),
        "tokens_per_second": counts[1] / seconds,
    }


def padded(lengths: Sequence[int]) -> int:
    """Tokens of a batch that pads every sequence to the longest: what a step would compute without a forest."""
    return max(lengths) * len(lengths)


def measure(tuning: Tuning, folder: Run, step: int, progress: Progress) -> float | None:
    """NLL and perplexity of every data set's held-out responses, and what the model says to a few of its prompts.

    Returns:
        The NLL of all of them, in nats per token; None where nothing is held out.
    """
    total_nll, total_tokens, by_set = 0.0, 0.0, {}
    for name, conversations in tuning.data.held_out.items():
        numbers = evaluate(tuning.forests(conversations), tuning.loss_of, world=tuning.world)
        by_set[f"nll_per_token {name}"] = numbers["nll_per_token"]
        total_nll += numbers["nll_per_token"] * numbers["num_trained_tokens"]
        total_tokens += numbers["num_trained_tokens"]
    if not total_tokens:
        return None
    nll = total_nll / total_tokens
    counts = {"num_measured": tuning.data.num_measured, "num_held_out": tuning.data.num_held_out}
    folder.log(step, "held_out", nll_per_token=nll, perplexity=math.exp(min(nll, 700.0)), **by_set, **counts)
    progress.say(
        f"step {step:,}: held-out response NLL {nll:.4f} nats per token, perplexity {math.exp(min(nll, 700.0)):,.2f}"
    )
    if not math.isfinite(nll):
        raise UserError(
            "the held-out loss is not finite",
            where=f"measured after step {step:,}",
            found=f"{nll} nats per token",
            expected="a finite number",
            fix="lower --optim.lr, lengthen --optim.warmup, or use --dtype float32; or another --model",
        )
    # Where the best model is chosen, any measured one may be the one that the run leaves.
    may_be_left = tuning.settings.keep_best or tuning.settings.stop_early is not None
    if may_be_left or step in (0, tuning.total_steps):
        with tuning.chosen.whole():
            if tuning.world.is_first:
                sample(tuning, folder, step)
    return nll


def sample(tuning: Tuning, folder: Run, step: int) -> None:
    """Keep the model's greedy answers to the first held-out prompts, for whoever wants to see and not only to count."""
    backend = tuning.opened.tokenizer.backend
    stop_ids = tuning.opened.stop_ids
    limit = num_positions(tuning.opened.loaded.model) or 2**31
    for name, conversations in tuning.data.held_out.items():
        for conversation in conversations[:NUM_SAMPLES]:
            ids = conversation[0].ids.tolist()
            prompt = ids[: int(conversation[0].weight.nonzero()[0][0])]
            room = min(MAX_SAMPLE_TOKENS, limit - len(prompt))
            if room < 1:
                continue
            answer = greedy(tuning.opened.loaded.model, prompt, stop_ids=stop_ids, max_new_tokens=room)
            stopped = answer[-1] in stop_ids
            folder.log_sample(
                step,
                {
                    "data_set": name,
                    "prompt": backend.decode(prompt, skip_special_tokens=False),
                    "answer": backend.decode(answer, skip_special_tokens=False),
                    "stopped": str(stopped).lower(),
                },
            )


def save_model(tuning: Tuning, to: Path) -> None:
    """Write the model as plain transformers reads it."""
    opened = tuning.opened
    save(opened.loaded, to, template=opened.saved_template(), stop_tokens=opened.stops)

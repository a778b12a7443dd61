"""One measured heed run on pairs in a process of its own: `python heed_pairs.py SPEC.json`.

Everything that is measured is the recipe's own: how a step is cut, the loss, the reference, the optimiser step.
"""

import datetime
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heed_side import take_steps, tokens
from measure import Clock, peak_memory_bytes, read_json, versions, write_json

from heed.cli.main import keep_freed_memory
from heed.config import tokens_per_forward
from heed.data.preferences import RankedTokens
from heed.dist.world import World
from heed.models.heads.scalar import new_reward_model
from heed.models.load import num_positions
from heed.models.self_check import ChosenScore, choose_score
from heed.preference_config import DpoSettings, RewardSettings
from heed.recipes import reward
from heed.recipes.dpo import BETA
from heed.recipes.preference.comparisons import compared
from heed.recipes.preference.pairwise import Answers, Pairwise, comparison_of
from heed.recipes.preference.reference import Reference, reference_logp
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching, lean_forward
from heed.recipes.training.setup import Opened, open_for_tuning
from heed.train.progress import Progress
from heed.train.run import open_run
from heed.train.step import LossOf
from heed.types import Origin, Tokens

Step = list[RankedTokens]
Batches = Callable[[Step], list[Any]]


def ranked(pair: dict[str, Any], number: int) -> RankedTokens:
    """A pair as heed trains it: each answer carries the loss, stop token included."""
    sequences = (tokens(pair["prompt_ids"], pair["chosen_ids"]), tokens(pair["prompt_ids"], pair["rejected_ids"]))
    return RankedTokens(sequences, np.array([1.0, 0.0]), False, Origin("pairs", number))


def opened_and_chosen(
    settings: DpoSettings | RewardSettings, place: Place, steps: Sequence[Step]
) -> tuple[Opened, ChosenScore]:
    """The model made ready, and how it is scored, as the recipes do it."""
    opened = open_for_tuning(settings.model_copy(update={"date": datetime.date.today()}), place)
    keep_freed_memory()
    model = opened.loaded.model
    lengths = [[len(tokens) for ranking in step for tokens in ranking.sequences] for step in steps]
    chosen = choose_score(
        model,
        max((tokens for ranking in steps[0] for tokens in ranking.sequences), key=len),
        longest_in_data=max(map(max, lengths)),
        num_positions=num_positions(model),
        share=True,
    )
    return opened, chosen


def dpo(spec: dict[str, Any], place: Place, steps: Sequence[Step], clock: Clock) -> tuple[list[Any], Batches, LossOf]:
    """What learns, and how; the reference's pass over the measured steps runs under the clock."""
    settings = DpoSettings(
        model=spec["model"],
        data="pairs",
        out="run",
        template="plain",
        max_tokens=spec["max_tokens"],
        device=spec.get("device", "cpu"),
        beta=BETA["dpo"],
    )
    opened, chosen = opened_and_chosen(settings, place, steps)
    max_tokens = tokens_per_forward(settings.max_tokens, place.device.type, opened.loaded.width)
    batching = MicroBatching(max_tokens, chosen.shares_prefixes, place.world)
    answers = Answers(chosen, opened.loaded.device, settings.dtype)

    def passed(some: Sequence[Step], name: str) -> Reference:
        groups = [ranking.sequences for step in some for ranking in step]
        return reference_logp(groups, answers.token_logp, place, batching, num_groups=len(groups), name=name)

    of_warmup = passed(steps[: spec["warmup"]], "warmup.bin")
    clock.start()
    of_measured = passed(steps[spec["warmup"] :], "measured.bin")
    clock.stop()

    def reference(sequences: Iterable[Tokens]) -> np.ndarray:
        known = list(sequences)
        try:
            return of_measured(known)
        except KeyError:
            return of_warmup(known)

    learning = Pairwise(answers, batching, comparison_of(settings, BETA["dpo"]), reference)
    return opened.loaded.trained_parameters(), learning.batches, learning.loss_of


def reward_model(
    spec: dict[str, Any], place: Place, steps: Sequence[Step], clock: Clock
) -> tuple[list[Any], Batches, LossOf]:
    """What learns, and how."""
    settings = RewardSettings(
        model=spec["model"],
        data="pairs",
        out="run",
        template="plain",
        max_tokens=spec["max_tokens"],
        device=spec.get("device", "cpu"),
        centring=0.0,
    )
    opened, chosen = opened_and_chosen(settings, place, steps)
    batching = MicroBatching(lean_forward(settings.max_tokens, opened.loaded), chosen.shares_prefixes, place.world)
    model = new_reward_model(opened.loaded, settings.seed)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor(read_json(spec["score"]))[None])
    named = model.trained_parameters()
    training = reward.Training(
        settings=settings,
        opened=opened,
        reward_model=model,
        data=None,  # type: ignore[arg-type]  # the steps are given
        chosen=chosen,
        batching=batching,
        optimiser=torch.optim.SGD([torch.zeros(1)]),  # ours is below
        peak=0.0,
        num_draws=0,
    )
    return named, lambda step: compared(step, batching), training.loss_of


def run_heed(spec: dict[str, Any], place: Place, steps: list[Step]) -> dict[str, Any]:
    """What learns made ready, and its steps; the reference's pass counts like a step."""
    reference_clock = Clock()
    reference_clock.cpu_seconds = reference_clock.wall_seconds = 0.0
    prepare = {"dpo": dpo, "reward": reward_model}[spec["kind"]]
    named, batches_of, loss_of = prepare(spec, place, steps, reference_clock)
    clock, reports, positions = take_steps(
        spec,
        steps,
        named,
        batches_of=batches_of,
        loss_of=loss_of,
        num_tokens=lambda batch: batch.forest.num_tokens,
    )
    first = reports[0]
    return {
        "cpu_seconds": reference_clock.cpu_seconds + clock.cpu_seconds,
        "wall_seconds": reference_clock.wall_seconds + clock.wall_seconds,
        "reference_cpu_seconds": reference_clock.cpu_seconds,
        "losses": [report["loss"] for report in reports],
        "grad_norm": first["grad_norm"],
        "logp": first["chosen_logp"] + first["rejected_logp"] if "chosen_logp" in first else None,
        "positions_per_step": positions,
    }


def main(spec: dict[str, Any]) -> None:
    torch.set_num_threads(spec["threads"])
    steps = [[ranked(pair, number) for number, pair in enumerate(step)] for step in read_json(spec["steps"])]
    world = World()
    with open_run(Path(spec["scratch"]) / "heed-run", "bench: true\n", {}, world=world) as folder:
        place = Place(folder, torch.device(spec.get("device", "cpu")), world, Progress("", shown=False))
        result = run_heed(spec, place, steps)
    result |= {
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(["torch", "transformers", "heed-lm"]),
    }
    write_json(spec["result"], result)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))

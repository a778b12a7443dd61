"""One measured heed run in a process of its own: `python heed_side.py SPEC.json`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from measure import Clock, peak_memory_bytes, read_json, versions, write_json

from heed.cli.main import keep_freed_memory
from heed.config import tokens_per_forward
from heed.dist.world import World
from heed.forest.build import build
from heed.forest.plan import even_budget, plan
from heed.models.kernels.speed import speed_up
from heed.models.load import load_model, num_positions, prepare_training
from heed.models.score import autocast
from heed.models.self_check import choose_score
from heed.train.optimiser import adamw, set_learning_rate
from heed.train.step import LossOf, Term, likelihood, optimiser_step
from heed.types import Forest, Tokens


def tokens(prompt: list[int], response: list[int]) -> Tokens:
    """A prompt and its response as heed trains them: the response carries the loss, stop token included."""
    return Tokens(
        ids=np.array(prompt + response, dtype=np.int32),
        weight=np.array([0.0] * len(prompt) + [1.0] * len(response), dtype=np.float32),
    )


def read_steps(spec: dict[str, Any]) -> list[list[Tokens]]:
    """The conversations of every step, in the order TRL's ungrouped settings take them too."""
    records = read_json(spec["records"])
    conversations = [tokens(record["prompt_ids"], record["response_ids"]) for record in records]
    return [[conversations[i] for i in step] for step in read_json(spec["orders"])["shuffled"]]


def forests_of(step: list[Tokens], max_tokens: int, share: bool) -> list[Forest]:
    """One step's conversations as the forests of its forwards, as the recipe cuts them."""
    groups = [(conversation,) for conversation in step]
    forwards = plan(groups, even_budget(groups, max_tokens, share=share), share=share)
    return [build([step[i] for i in forward], share=share) for forward in forwards]


def take_steps(
    spec: dict[str, Any],
    steps: Sequence[Any],
    named: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    batches_of: Callable[[Any], list[Any]],
    loss_of: LossOf,
    num_tokens: Callable[[Any], int],
) -> tuple[Clock, list[dict[str, float]], list[int]]:
    """One optimiser step per element of `steps`; the clock, started after the warm-up, the reports, the positions."""
    named = list(named)
    optimiser = adamw(named, weight_decay=0.0)
    set_learning_rate(optimiser, spec["learning_rate"])
    parameters = [parameter for _, parameter in named]
    world, clock = World(), Clock()
    reports, positions = [], []
    for number, step in enumerate(steps):
        if number == spec["warmup"]:
            clock.start()
        batches = batches_of(step)
        terms = [Term(batches, loss_of)]
        reports.append(optimiser_step(parameters, optimiser, terms, max_norm=spec["max_norm"], world=world))
        positions.append(sum(map(num_tokens, batches)))
    clock.stop()
    return clock, reports, positions


def lowered(nll: Callable[..., Any], dtype: str) -> Callable[..., Any]:
    """The same forward with products in the dtype, as the recipe makes it."""

    def of(*inputs: Any, **settings: Any) -> Any:
        with autocast(torch.device("cpu"), dtype):
            return nll(*inputs, **settings)

    return of


def run_heed(spec: dict[str, Any], steps: list[list[Tokens]]) -> dict[str, Any]:
    """The model made ready as the recipe does it, and its steps."""
    torch.set_num_threads(spec["threads"])
    model = load_model(spec["model"], torch.device(spec.get("device", "cpu")))
    max_tokens = tokens_per_forward(
        spec["max_tokens"], spec.get("device", "cpu"), model.get_input_embeddings().weight.shape[1]
    )
    keep_freed_memory()
    speed_up(model)
    prepare_training(model, activations="keep")
    longest = max(steps[0], key=len)
    longest_in_data = max(len(conversation) for step in steps for conversation in step)
    chosen = choose_score(
        model, longest, longest_in_data=longest_in_data, num_positions=num_positions(model), share=True
    )
    clock, reports, positions = take_steps(
        spec,
        steps,
        model.named_parameters(),
        batches_of=lambda step: forests_of(step, max_tokens, chosen.shares_prefixes),
        loss_of=likelihood(lowered(chosen.nll, spec.get("dtype", "float32"))),
        num_tokens=lambda forest: forest.num_tokens,
    )
    return {
        "cpu_seconds": clock.cpu_seconds,
        "wall_seconds": clock.wall_seconds,
        "first_loss": reports[0]["loss"],
        "trained_tokens_per_step": [int(report["num_trained_tokens"]) for report in reports],
        "positions_per_step": positions,
        "self_check": chosen.note,
    }


def main(spec: dict[str, Any]) -> None:
    steps = read_steps(spec)
    result = run_heed(spec, steps)
    result |= {
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(["torch", "transformers", "heed-lm"]),
    }
    write_json(spec["result"], result)


if __name__ == "__main__":
    main(read_json(sys.argv[1]))

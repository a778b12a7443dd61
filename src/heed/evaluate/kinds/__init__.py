"""The kinds of task: how a record becomes questions, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from heed.evaluate.items import Item, Outcome, Scored
from heed.evaluate.kinds import choice, cloze, generation, pairs, text
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import FAILURES, Kind, Task, said
from heed.types import Finding

ITEM_OF: Mapping[Kind, Callable[[Reading], Item | Finding]] = {
    "choice": choice.item_of,
    "cloze": cloze.item_of,
    "text": text.item_of,
    "generation": generation.item_of,
    "pairs": pairs.item_of,
}
SCORED: Mapping[Kind, Callable[[Task, Item, Sequence[Outcome]], Scored]] = {
    "choice": choice.scored,
    "cloze": cloze.scored,
    "text": text.scored,
    "generation": generation.scored,
    "pairs": pairs.scored,
}


def item_of(reading: Reading) -> Item | Finding:
    """The questions that a record asks of a model, or why it cannot be asked."""
    if reading.shape is None:
        return reading.no_shape()
    try:
        return ITEM_OF[reading.task.kind](reading)
    except FAILURES as error:
        return reading.finding("a record does not say what its task reads", f"{type(error).__name__}: {error}")


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """The verdict on what came back for an item's requests, one outcome for each in their order."""
    return SCORED[task.kind](task, item, outcomes)


__all__ = ["Reading", "item_of", "said", "scored"]

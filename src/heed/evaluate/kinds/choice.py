"""Choice: of several continuations, which does the model find likeliest? Or: after which of several contexts?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from heed.evaluate.items import Item, Likelihood, Outcome, Scored, TokenLikelihoods
from heed.evaluate.kinds.record import Reading
from heed.evaluate.task import Task
from heed.types import Finding

UNCONDITIONAL = "acc_unconditional"
TWICE = "items with the same option twice: either counts as right where one is"


def item_of(reading: Reading) -> Item | Finding:
    """One request for each option; for `acc_unconditional` another for each without the context."""
    shape, task = reading.shape, reading.task
    assert shape is not None
    if shape.contexts is not None:
        contexts = reading.texts(shape.contexts)
        continuations = [reading.text(shape.continuation)] * len(contexts)
        told = contexts
    else:
        told = continuations = reading.texts(shape.options)
        contexts = [reading.text(shape.context)] * len(continuations)
    if len(told) < 2:
        return reading.finding("a choice has fewer than two options", f"{len(told)} options: {told}")
    if empty := [number for number, each in enumerate(told, 1) if not each.strip()]:
        return reading.finding("an option is empty", f"option {empty[0]} of {len(told)}")
    right = right_indices(reading.say(shape.right), len(told))
    if len(set(told)) == 1:
        return reading.finding("all options are the same text", repr(told[0]))
    if isinstance(right, str):
        return reading.finding("a record does not say which of its options is right", right)
    if len(right) == 1:  # several are labelled one by one, and a text that is among both is both
        right = tuple(index for index, each in enumerate(told) if each == told[right[0]])
    requests = [Likelihood(*pair) for pair in zip(contexts, continuations, strict=True)]
    if UNCONDITIONAL in task.measures:
        before = "" if shape.unconditional is None else reading.text(shape.unconditional)
        requests += [Likelihood(before, each, stands_alone=True) for each in continuations]
    labels = () if shape.labels is None else tuple(reading.texts(shape.labels))
    if labels and len(labels) != len(told):
        return reading.finding("there are not as many labels as options", f"{len(labels)} labels, {len(told)} options")
    shot = (contexts[right[0]], continuations[right[0]])
    notes = (TWICE,) if len(set(told)) < len(told) else ()
    return reading.item(tuple(requests), right, labels=labels, shot=shot, notes=notes)


def right_indices(value: Any, num_options: int) -> tuple[int, ...] | str:
    """Indices of the right options, at least one; or what is wrong with what the record says."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    found: list[int] = []
    for each in values:
        whole = isinstance(each, int | np.integer) and not isinstance(each, bool)
        if not whole and not (isinstance(each, str) and each.strip().isdecimal()):
            return f"{each!r} in place of an index"
        if not 0 <= int(each) < num_options:
            return f"the index {int(each)}, where {num_options} options are counted from 0"
        found.append(int(each))
    return tuple(found) if found else "no option at all"


def scored(task: Task, item: Item, outcomes: Sequence[Outcome]) -> Scored:
    """Which option is likeliest, by each way to weigh options of different lengths.

        acc                 argmax sum log p
        acc_characters      argmax sum log p / characters of the option      (lm-evaluation-harness's `acc_norm`)
        acc_bytes           argmax sum log p / bytes of the option in UTF-8
        acc_tokens          argmax sum log p / tokens of the option
        acc_unconditional   argmax log P(option | context) - log P(option | unconditional context)
        mc1                 acc: whether the likeliest is right
        mc2                 sum over the right of p / sum over all of p: TruthfulQA's MC2

    An option counts without its delimiter. Of equal scores the first is chosen, as argmax does. `chosen` is that of the
    primary measure, and `confidence` the softmax of its scores at the chosen option.
    """
    found = [outcome for outcome in outcomes if isinstance(outcome, TokenLikelihoods)]
    num_options = len(found) // (2 if UNCONDITIONAL in task.measures else 1)
    requests = [request for request in item.requests if isinstance(request, Likelihood)][:num_options]
    total = np.array([each.total for each in found])
    scores = {"acc": total[:num_options], "mc1": total[:num_options]}
    scores["acc_characters"] = scores["acc"] / np.array([len(r.continuation) for r in requests])
    scores["acc_bytes"] = scores["acc"] / np.array([len(r.continuation.encode()) for r in requests])
    scores["acc_tokens"] = scores["acc"] / np.array([len(each.ids) for each in found[:num_options]])
    if UNCONDITIONAL in task.measures:
        scores[UNCONDITIONAL] = total[:num_options] - total[num_options:]
    verdict: dict[str, float | bool | str | None] = {}
    if np.isfinite(total).all():
        verdict = {name: int(np.argmax(each)) in item.right for name, each in scores.items()}
        verdict["mc2"] = float(softmax(scores["acc"])[list(item.right)].sum())
    else:
        verdict = dict.fromkeys((*scores, "mc2"))
    weighed = scores.get(task.primary, scores["acc"])
    chosen = int(np.argmax(weighed)) if np.isfinite(weighed).all() else None
    verdict["is_right"] = None if chosen is None else chosen in item.right
    verdict["is_greedy"] = None if chosen is None else found[chosen].is_greedy
    confidence = None if chosen is None else float(softmax(weighed)[chosen])
    return Scored(
        item.id,
        verdict,
        item.record,
        item.right,
        item.labels,
        chosen=chosen,
        confidence=confidence,
        cluster=item.cluster,
        groups=item.groups,
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities in proportion to exp(scores)."""
    raised = np.exp(scores - scores.max())
    probabilities: np.ndarray = raised / math.fsum(raised)
    return probabilities

"""IFEval at the level of instructions: what share of all instructions is followed, and of each kind?

    share = instructions followed / instructions given, over all items together

What the measures need of an item (a task of kind generation with the checker `ifeval`):
    verdict   `strict:NAME` and `loose:NAME`, true or false, for each of its instructions
    cluster   None, or what its prompt has in common with others

A prompt has up to three instructions, and they fail together (an empty answer follows none), so prompts are the
clusters of the interval.

Source: Zhou et al. 2023, arXiv:2311.07911: its four accuracies are `prompt_strict` and `prompt_loose`, which are means
    over items, and these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from heed.evaluate.clustered import clustered_accuracy
from heed.evaluate.items import Figure, Scored, undefined

INSTRUCTION = "instruction="
"""begins the groups of kinds of instruction"""


def instructions(reading: str, items: Sequence[Scored]) -> list[Figure]:
    """The share of all instructions that are followed, then that of each kind (`instruction=punctuation:no_comma`).

    Args:
        reading: `strict` or `loose`.
        items: an item whose verdict has no instructions takes no part, and is counted in `why`.
    """
    followed = {
        id(item): [(name, value) for key, value in item.verdict.items() if (name := _name(key, reading))]
        for item in items
    }
    kinds = sorted({name for each in followed.values() for name, _ in each})
    without = sum(not each for each in followed.values())
    why = f"{without:,} of {len(items):,} items have no instructions" if without else ""
    found = []
    for kind in [None, *kinds]:
        clusters: dict[object, list[float]] = {}
        for item in items:
            values = [float(bool(value)) for name, value in followed[id(item)] if kind in (None, name)]
            clusters.setdefault(id(item) if item.cluster is None else item.cluster, []).extend(values)
        found.append(_figure(f"instruction_{reading}", [each for each in clusters.values() if each], kind, why))
    return found


def _figure(measure: str, clusters: Sequence[Sequence[float]], kind: str | None, why: str) -> Figure:
    group = kind if kind is None else f"{INSTRUCTION}{kind}"
    if not clusters:
        return undefined(measure, why or "there are no items", group=group)
    share = clustered_accuracy(clusters)
    return Figure(
        measure, share.accuracy, share.low, share.high, share.count, group=group, why=why if kind is None else ""
    )


def _name(key: str, reading: str) -> str:
    """The kind of instruction that a key of a verdict is about; empty where it is about something else."""
    start, _, name = key.partition(":")
    return name.partition("#")[0] if start == reading else ""


IFEVAL = {f"instruction_{reading}": partial(instructions, reading) for reading in ("strict", "loose")}

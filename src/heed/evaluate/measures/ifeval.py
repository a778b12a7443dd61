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

from heed.evaluate.clustered import clustered_share
from heed.evaluate.grouped import by_group, clusters_of
from heed.evaluate.items import Figure, Scored, undefined

INSTRUCTION = "instruction="
"""begins the groups of kinds of instruction"""


def instructions(reading: str, items: Sequence[Scored]) -> list[Figure]:
    """The share of all instructions that are followed: of all items, of each group, then of each kind of instruction.

    Kinds are groups, too: `instruction=punctuation:no_comma`.

    Args:
        reading: `strict` or `loose`.
        items: an item whose verdict has no instructions takes no part, and is counted in `why`.
    """
    kinds = sorted({_name(key, reading) for item in items for key in item.verdict} - {""})
    of_kinds = [_figure(reading, kind, items) for kind in kinds]
    return [*by_group(items, partial(_figure, reading, None)), *of_kinds]


def _figure(reading: str, kind: str | None, items: Sequence[Scored]) -> Figure:
    """Of all kinds of instruction, or of one."""
    measure, group = f"instruction_{reading}", None if kind is None else f"{INSTRUCTION}{kind}"
    followed = [
        [
            float(bool(value))
            for key, value in item.verdict.items()
            if (name := _name(key, reading)) and kind in (None, name)
        ]
        for item in items
    ]
    without = sum(not each for each in followed)
    why = f"{without:,} of {len(items):,} items have no instructions" if without and kind is None else ""
    clusters = [[value for index in members for value in followed[index]] for members in clusters_of(items)]
    if not any(clusters):
        return undefined(measure, why or "there are no items", group=group)
    share = clustered_share([each for each in clusters if each])
    return Figure(measure, share.accuracy, share.low, share.high, share.count, group=group, why=why)


def _name(key: str, reading: str) -> str:
    """The kind of instruction that a key of a verdict is about; empty where it is about something else."""
    start, _, name = key.partition(":")
    return name.partition("#")[0] if start == reading else ""


IFEVAL = {f"instruction_{reading}": partial(instructions, reading) for reading in ("strict", "loose")}

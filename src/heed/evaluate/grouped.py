"""Items in their clusters and groups: what goes together in an interval, and what has a row of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from heed.evaluate.items import Figure, Scored


def clusters_of(items: Sequence[Scored]) -> list[list[int]]:
    """Indices of the items of each cluster, in order; an item that names none is a cluster of its own."""
    members: dict[object, list[int]] = {}
    for index, item in enumerate(items):
        members.setdefault(index if item.cluster is None else item.cluster, []).append(index)
    return list(members.values())


def in_clusters(items: Sequence[Scored], values: Sequence[float]) -> list[list[float]]:
    """The items' values, cluster by cluster."""
    return [[values[index] for index in members] for members in clusters_of(items)]


def by_group(items: Sequence[Scored], figure_of: Callable[[Sequence[Scored]], Figure]) -> list[Figure]:
    """The figure of all items, then that of the items of each group, which is named `category=Misconceptions`."""
    members: dict[str, list[Scored]] = {}
    for item in items:
        for name, value in item.groups.items():
            members.setdefault(f"{name}={value}", []).append(item)
    return [figure_of(items), *(replace(figure_of(members[group]), group=group) for group in sorted(members))]

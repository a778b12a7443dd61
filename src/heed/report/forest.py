"""The forest plot: estimates with their intervals, one below the other, against a value that would mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heed.report.charts import RIGHT, Axis
from heed.report.shapes import mark, shape_of
from heed.report.svg import CHARACTER, WIDTH, Scale, finite, line, picture, tag, text, tooltip

LABEL, LANE, GAP = 20.0, 17.0, 9.0
"""heights of a row's label, of each of its marks, and of the room below it"""
MAX_REACH = 4.0
"""intervals are drawn so far beyond the estimates at most, in widths of all estimates; one cut off ends in an arrow"""
WIDE = "\u1100"
"""from here on characters count as two"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One estimate with its interval; NaN where it is undefined."""

    name: str
    class_: str
    value: float
    low: float
    high: float
    shown: str
    """the value in words, at the right"""


@dataclass(frozen=True, slots=True)
class ForestRow:
    """What is estimated, and each estimate of it."""

    label: str
    estimates: tuple[Estimate, ...]
    unseen: float = math.nan
    """differences from the reference up to this size could have gone unseen; NaN where that is not known"""


def forest(rows: Sequence[ForestRow], *, axis: Axis, reference: float, label: str) -> str:
    """Rows of estimates against a vertical line; a grey band in a row is what its test could have missed.

    Args:
        axis: of the estimates; its ends come from them where it has none.
        reference: the value of no difference or no bias.
        label: the picture in words.
    """
    left, right = _room(rows)
    low, high = axis.over([reference, *_drawn(rows, reference)])
    if not math.isfinite(axis.low):
        low -= (high - low) * 0.03
    if not math.isfinite(axis.high):
        high += (high - low) * 0.03
    across = Scale(low, high, left, right)
    heights = [LABEL + LANE * len(row.estimates) + GAP for row in rows]
    floor = sum(heights) + 4
    marks = []
    for value, shown in axis.ticks_within(low, high):
        half = CHARACTER * len(shown) / 2
        place = min(max(across(value), half), WIDTH - half)
        marks.append(line(across(value), 0, across(value), floor, "grid"))
        marks.append(text(shown, place, floor + 17, anchor="middle", class_="label tick"))
    top = 0.0
    behind, over = [], []
    for row, height in zip(rows, heights, strict=True):
        behind += _band(row, across, reference, top + LABEL, height - LABEL - GAP)
        over += _row(row, across, top, is_alone=len(row.estimates) == 1)
        top += height
    marks += behind
    marks.append(line(across(reference), 0, across(reference), floor, "no-difference"))
    marks += over
    marks.append(line(left, floor, right, floor, "base-line"))
    marks.append(text(shortened(axis.label, 40), WIDTH, floor + 34, anchor="end", class_="label axis"))
    return picture("".join(marks), height=floor + 40, label=label)


def _room(rows: Sequence[ForestRow]) -> tuple[float, float]:
    """Where the plot begins and ends: values of several estimates stand at the right of it, one stands above."""
    beside = [CHARACTER * _columns(each.shown) + 8 for row in rows if len(row.estimates) > 1 for each in row.estimates]
    return 8.0, WIDTH - max([RIGHT, *beside])


def _drawn(rows: Sequence[ForestRow], reference: float) -> list[float]:
    """Values that the axis has to show; of an interval that is very wide only a part."""
    estimates = [each for row in rows for each in row.estimates]
    values = finite(each.value for each in estimates)
    around = [abs(value - reference) for value in values]
    reach = MAX_REACH * max([*around, *(finite(row.unseen for row in rows))], default=0.0)
    ends = finite(end for each in estimates if math.isfinite(each.value) for end in (each.low, each.high))
    unseen = finite(row.unseen for row in rows)
    return [
        *values,
        *(min(max(end, reference - reach), reference + reach) if reach else end for end in ends),
        *(reference + sign * size for size in unseen for sign in (-1, 1)),
    ]


def _band(row: ForestRow, across: Scale, reference: float, top: float, height: float) -> list[str]:
    if not math.isfinite(row.unseen) or row.unseen <= 0:
        return []
    start, stop = across(reference - row.unseen), across(reference + row.unseen)
    says = tooltip(f"{row.label}: the test would have missed most differences smaller than this band")
    return [tag("rect", says, x=start, y=top, width=stop - start, height=height, class_="unseen")]


def _row(row: ForestRow, across: Scale, top: float, *, is_alone: bool) -> list[str]:
    shown = row.estimates[0].shown if is_alone else ""
    fits = int(WIDTH / CHARACTER) - (_columns(shown) + 2 if shown else 0)
    marks = [text(shortened(row.label, fits), 0, top + 14, class_="label over")]
    if shown:
        marks.append(text(shown, WIDTH, top + 14, anchor="end", class_="label value over"))
    for place, each in enumerate(row.estimates):
        middle = top + LABEL + LANE * (place + 0.5)
        marks.append(_estimate(each, row.label, across, middle))
        if not is_alone:
            marks.append(text(each.shown, WIDTH, middle + 4, anchor="end", class_="label small"))
    return marks


def _estimate(each: Estimate, of: str, across: Scale, middle: float) -> str:
    if not math.isfinite(each.value):
        return ""
    inside = ""
    if not math.isnan(each.low) and not math.isnan(each.high):
        low, high = max(each.low, across.low), min(each.high, across.high)
        inside += line(across(low), middle, across(high), middle, "line thick")
        for end, bound, away in ((each.low, low, 5), (each.high, high, -5)):
            if end != bound:  # it goes on beyond the picture
                inside += tag("path", d=f"M{across(bound) + away:g},{middle - 5:g}l{-away},5l{away},5", class_="line")
    inside += mark((across(each.value), middle), f"{of}, {each.name}: {each.shown}", 4.5, shape=shape_of(each.class_))
    return tag("g", inside, class_=f"series {each.class_}")


def shortened(name: str, columns: int) -> str:
    """A name in so many columns at most; what is cut off has a mark in its place, and the tables tell it whole."""
    if _columns(name) <= columns:
        return name
    kept = name
    while kept and _columns(kept) > columns - 1:
        kept = kept[:-1]
    return f"{kept}…"


def _columns(text_: str) -> int:
    return sum(2 if character >= WIDE else 1 for character in text_)

"""The picture of values on both sides of zero, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heed.report.charts import RIGHT, ROW, Axis, Bar
from heed.report.shapes import mark, shape_of
from heed.report.svg import CHARACTER, WIDTH, Scale, line, picture, tag, text


def gain_rows(rows: Sequence[Bar], *, x: Axis, label: str) -> str:
    """Values on both sides of zero, which is marked: a mark each with its interval, its label above it."""
    low, high = x.over([0.0, *(value for row in rows for value in (row.value, row.low, row.high))])
    across, floor = Scale(low, high, 8, WIDTH - RIGHT), len(rows) * ROW + 8
    marks = []
    for value, shown in x.ticks_within(low, high):
        half = CHARACTER * len(shown) / 2
        place = min(max(across(value), half), WIDTH - half)
        marks.append(text(shown, place, floor + 17, anchor="middle", class_="label tick"))
        marks.append(line(across(value), floor, across(value), floor + 4, "base-line"))
    marks.append(line(across.start, floor, across.stop, floor, "base-line"))
    marks.append(text(x.label, across.stop, floor + 34, anchor="end", class_="label axis"))
    for i, row in enumerate(rows):
        middle = i * ROW + 27
        marks.append(text(row.label, 0, middle - 13))
        marks.append(text(row.shown, WIDTH, middle - 13, anchor="end", class_="label value"))
        marks.append(line(across.start, middle, across.stop, middle, "grid"))
        marks.append(line(across(0), middle - 8, across(0), middle + 8, "base-line"))
        inside = ""
        if math.isfinite(row.low) and math.isfinite(row.high):
            inside += line(across(row.low), middle, across(row.high), middle, "line thick")
        if math.isfinite(row.value):
            inside += mark((across(row.value), middle), f"{row.label}: {row.shown}", 5, shape=shape_of(row.class_))
        marks.append(tag("g", inside, class_=f"series {row.class_}"))
    return picture("".join(marks), height=floor + 40, label=label)

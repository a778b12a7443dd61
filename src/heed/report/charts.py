"""The pictures of the report, each a function from numbers to SVG.

A class on a mark says what it belongs to (`s-sft` a stage, `r-1` a run, `o-wrong` an outcome); the style sheet says in
which colour. Values that are not finite are gaps with a cross at the top edge, never interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heed.report.shapes import GUIDE, mark, shape_of
from heed.report.svg import (
    CHARACTER,
    WIDTH,
    Scale,
    finite,
    line,
    path,
    percent,
    picture,
    quantity,
    spacing,
    stretch,
    tag,
    text,
    tick_labels,
    ticks,
    tooltip,
)

HEIGHT = 240.0
TOP, RIGHT, BOTTOM = 30.0, 18.0, 40.0
"""room around the plot for the y label above it, half a tick label beside it, ticks and x label below it"""
ROW = 44.0
"""height of a bar with its label above it"""
BAR = 14.0
MAX_MARKS = 60
"""points of a joined series that get a dot each; with more, the line says it"""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A line on a chart."""

    name: str
    class_: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """at each point, if known: an interval where points are marked, else a band"""
    is_marked: bool = False
    """whether each point is a measurement of its own, to be seen"""
    is_joined: bool = True
    """whether a line leads from point to point"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar with its label above it."""

    label: str
    class_: str
    value: float
    shown: str
    """the value as text, at the right"""
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a stacked bar."""

    name: str
    class_: str
    share: float


@dataclass(frozen=True, slots=True)
class Dot:
    """A value on a row."""

    name: str
    class_: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Dots:
    """A row of dots against a reference value."""

    label: str
    reference: float
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Guide:
    """A finite value to mark on an axis, and what it is."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What a direction of a chart means."""

    label: str
    """with its unit"""
    low: float = math.nan
    high: float = math.nan
    """ends of the axis; from the data where they are NaN, or where the data go beyond them"""
    is_share: bool = False
    """whether ticks read as percentages"""
    ticks: tuple[tuple[float, str], ...] = ()
    """place and text of each tick; made where there are none"""

    def over(self, values: Sequence[float]) -> tuple[float, float]:
        """The ends of the axis when it is to show these values."""
        low, high = stretch([*values, *finite([self.low, self.high])])
        kept = finite(values)
        holds_low = math.isfinite(self.low) and min(kept, default=self.low) >= self.low
        holds_high = math.isfinite(self.high) and max(kept, default=self.high) <= self.high
        return (self.low if holds_low else low), (self.high if holds_high else high)

    def rounded_over(self, values: Sequence[float]) -> tuple[float, float]:
        """The same, with the ends that come from the data moved out to the next tick."""
        low, high = self.over(values)
        step = spacing(low, high)
        return (
            low if low == self.low else math.floor(low / step + 1e-9) * step,
            high if high == self.high else math.ceil(high / step - 1e-9) * step,
        )

    def ticks_within(self, low: float, high: float) -> list[tuple[float, str]]:
        """Ticks for this axis; two more than `spacing` aims at, so that an axis rounded to its ticks keeps them."""
        if self.ticks:
            return list(self.ticks)
        places = ticks(low, high, spacing(low, high, 7))
        labels = tick_labels([100 * place for place in places] if self.is_share else places)
        labels = [f"{shown}%" for shown in labels] if self.is_share else labels
        return list(zip(places, labels, strict=True))


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    label: str,
    diagonal: bool = False,
    across_at: Guide | None = None,
    up_at: Guide | None = None,
) -> str:
    """Lines over a common pair of axes.

    Args:
        label: the picture in words.
        diagonal: draw the line of equal values, for charts of one share against another.
        across_at: a value on the x axis to mark; its label stands above the plot.
        up_at: a value on the y axis to mark; its label is left to the legend.
    """
    xs = [value for each in series for value in each.x] + ([across_at.value] if across_at else [])
    ys = [value for each in series for column in (each.y, each.low, each.high) for value in column]
    low, high = y.rounded_over(ys + ([up_at.value] if up_at else []))
    y_ticks = y.ticks_within(low, high)
    left = 10 + CHARACTER * max(len(shown) for _, shown in y_ticks)
    top = TOP + (18 if across_at else 0)
    across = Scale(*x.over(xs), left, WIDTH - RIGHT)
    up = Scale(low, high, top + HEIGHT - BOTTOM - TOP, top)
    marks = [_frame(across, up, x, y, y_ticks)]
    if across_at:
        place, half = across(across_at.value), CHARACTER * len(across_at.label) / 2
        marks.append(line(place, up.start, place, up.stop - 5, GUIDE))
        marks.append(text(across_at.label, min(max(place, half), WIDTH - half), up.stop - 11, anchor="middle"))
    if up_at:
        marks.append(line(across.start, up(up_at.value), across.stop, up(up_at.value), GUIDE))
    if diagonal:
        marks.append(line(across(across.low), up(across.low), across(across.high), up(across.high), "reference"))
    marks += [_series(each, across, up) for each in series]
    return picture("".join(marks), height=top + HEIGHT - TOP, label=label)


def _frame(across: Scale, up: Scale, x: Axis, y: Axis, y_ticks: Sequence[tuple[float, str]]) -> str:
    """Grid, ticks and labels."""
    marks = [text(y.label, 0, 12, class_="label axis")]
    for value, shown in y_ticks:
        marks.append(line(across.start, up(value), across.stop, up(value), "grid"))
        marks.append(text(shown, across.start - 6, up(value) + 4, anchor="end", class_="label tick"))
    marks.append(line(across.start, up.start, across.stop, up.start, "base-line"))
    for value, shown in x.ticks_within(across.low, across.high):
        place = across(value)
        marks.append(line(place, up.start, place, up.start + 4, "base-line"))
        half = CHARACTER * len(shown) / 2
        place = min(max(place, half), WIDTH - half)
        marks.append(text(shown, place, up.start + 17, anchor="middle", class_="label tick"))
    if x.label:
        marks.append(text(x.label, across.stop, up.start + 34, anchor="end", class_="label axis"))
    return "".join(marks)


def _series(series: Series, across: Scale, up: Scale) -> str:
    marks: list[str] = []
    shape = shape_of(series.class_)
    points = list(zip(series.x, series.y, strict=True))
    if series.low and not series.is_marked:
        marks += _bands(series, across, up)
    for stretch_ in _unbroken(points):
        placed = [(across(x), up(y)) for x, y in stretch_]
        if len(placed) > 1 and series.is_joined:
            marks.append(tag("path", d=path(placed), class_="line"))
        elif not series.is_marked:  # a line of one point would not be seen
            says = f"{series.name}, {quantity(stretch_[0][0])}: {quantity(stretch_[0][1])}"
            marks.append(mark(placed[0], says, shape=shape))
    for x in (x for x, y in points if not math.isfinite(y)):
        marks.append(_cross(across(x), up.stop, f"{series.name}, {quantity(x)}: not a finite number"))
    if series.is_marked:
        for i, (x, y) in enumerate(points if len(points) <= MAX_MARKS or not series.is_joined else []):
            if math.isfinite(y):
                if series.low and math.isfinite(series.low[i]) and math.isfinite(series.high[i]):
                    marks.append(line(across(x), up(series.low[i]), across(x), up(series.high[i]), "whisker"))
                says = f"{series.name}, {quantity(x)}: {quantity(y)}"
                marks.append(mark((across(x), up(y)), says, shape=shape))
    return tag("g", "".join(marks), class_=f"series {series.class_}")


def _bands(series: Series, across: Scale, up: Scale) -> list[str]:
    points = zip(series.x, series.low, series.high, strict=True)
    kept = [(x, low, high) for x, low, high in points if math.isfinite(low) and math.isfinite(high)]
    there = [(across(x), up(high)) for x, _, high in kept]
    back = [(across(x), up(low)) for x, low, _ in reversed(kept)]
    return [tag("path", d=path(there + back) + "Z", class_="band")] if len(kept) > 1 else []


def _unbroken(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points cut where a value is not finite."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _cross(x: float, y: float, says: str) -> str:
    corners = f"M{x - 3:g},{y - 3:g}l6,6m0,-6l-6,6"
    return tag("path", tooltip(says), d=corners, class_="cross")


def bars(rows: Sequence[Bar], *, highest: float, label: str) -> str:
    """Horizontal bars from zero, each with its label above it and its value at the right; a whisker is the interval.

    Args:
        highest: what the whole width stands for.
        label: the picture in words.
    """
    across = Scale(0.0, highest or 1.0, 0.0, WIDTH - 4)
    marks = []
    for i, row in enumerate(rows):
        top = i * ROW + 20
        marks.append(text(row.label, 0, top - 6))
        marks.append(text(row.shown, WIDTH, top - 6, anchor="end", class_="label value"))
        marks.append(tag("rect", x=0, y=top, width=across.stop, height=BAR, class_="track"))
        if math.isfinite(row.value):
            says = tooltip(f"{row.label}: {row.shown}")
            width = across(row.value)
            marks.append(tag("rect", says, x=0, y=top, width=width, height=BAR, class_=f"bar {row.class_}"))
        if math.isfinite(row.low) and math.isfinite(row.high):
            middle, low, high = top + BAR / 2, across(row.low), across(row.high)
            marks.append(line(low, middle, high, middle, "whisker"))
            marks += [line(end, middle - 4, end, middle + 4, "whisker") for end in (low, high)]
    return picture("".join(marks), height=len(rows) * ROW, label=label)


def stacked_bars(rows: Sequence[tuple[str, Sequence[Part]]], *, label: str) -> str:
    """A whole per row, cut into its parts; what each part is and how large stands above it."""
    marks = []
    gap = 1.5
    for i, (name, parts) in enumerate(rows):
        top = i * (ROW + 4) + 22
        shown = ", ".join(f"{part.name} {percent(part.share)}" for part in parts)
        marks.append(text(name, 0, top - 7))
        marks.append(text(", ".join(percent(part.share) for part in parts), WIDTH, top - 7, anchor="end"))
        marks.append(tag("rect", x=0, y=top, width=WIDTH, height=BAR + 4, class_="track"))
        at = 0.0
        for part in parts:
            if not (math.isfinite(part.share) and part.share > 0):
                continue
            width = part.share * WIDTH
            says = tooltip(f"{name}: {shown}")
            marks.append(
                tag("rect", says, x=at, y=top, width=max(width - gap, 0.5), height=BAR + 4, class_=f"bar {part.class_}")
            )
            at += width
    return picture("".join(marks), height=len(rows) * (ROW + 4), label=label)


def reliability(
    bins: Sequence[tuple[float, float, float, float, int]],
    class_: str,
    *,
    label: str,
    confidence_of: str = "the answer",
    counted: str = "answers",
    intervals: Sequence[tuple[float, float]] = (),
) -> str:
    """Accuracy against confidence by bins, over the number of answers in each bin.

    Args:
        bins: (lower end, upper end, mean confidence, accuracy, answers).
        class_: of the stage.
        label: the picture in words.
        confidence_of, counted: what is judged, if it is not answers.
        intervals: of each bin's accuracy, if they are known.
    """
    left, right, top, side, strip = 46.0, WIDTH - RIGHT, TOP, 200.0, 44.0
    across, up = Scale(0, 1, left, right), Scale(0, 1, top + side, top)
    whole = Axis(f"confidence of {confidence_of}", 0, 1, is_share=True)
    marks = [_frame(across, up, Axis("", 0, 1, is_share=True), Axis("accuracy"), whole.ticks_within(0, 1))]
    marks.append(line(across(0), up(0), across(1), up(1), "reference"))
    filled = [each for each in bins if each[4] > 0]
    dots = [
        mark(
            (across(confidence), up(accuracy)),
            f"{count:,} {counted}, confidence {percent(confidence)}, right {percent(accuracy)}",
            4.5,
        )
        for _, _, confidence, accuracy, count in filled
        if math.isfinite(confidence) and math.isfinite(accuracy)
    ]
    placed = [(across(each[2]), up(each[3])) for each in filled if math.isfinite(each[2]) and math.isfinite(each[3])]
    joined = tag("path", d=path(placed), class_="line") if len(placed) > 1 else ""
    whiskers = [
        line(across(each[2]), up(low), across(each[2]), up(high), "whisker")
        for each, (low, high) in zip(bins, intervals, strict=bool(intervals))
        if each[4] > 0
    ]
    marks.append(tag("g", joined + "".join(whiskers) + "".join(dots), class_=f"series {class_}"))
    floor = top + side + 52 + strip
    marks.append(text(f"{counted} in each column", 0, floor - strip - 8, class_="label axis"))
    most = max((each[4] for each in filled), default=1)
    for low, high, _, _, count in filled:
        height = max(strip * count / most, 1.0)
        says = tooltip(f"{count:,} {counted} between {percent(low)} and {percent(high)}")
        width = max(across(high) - across(low) - 1.5, 1)
        marks.append(
            tag("rect", says, x=across(low), y=floor - height, width=width, height=height, class_=f"bar {class_}")
        )
        centre = (across(low) + across(high)) / 2
        marks.append(text(_short(count), centre, floor + 12, anchor="middle", class_="label small"))
    marks.append(line(left, floor, right, floor, "base-line"))
    marks.append(text(whole.label, right, floor + 30, anchor="end", class_="label axis"))
    return picture("".join(marks), height=floor + 38, label=label)


def _short(count: int) -> str:
    """A count in at most four characters."""
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.0f}M"


def dot_rows(rows: Sequence[Dots], *, axis: Axis, label: str) -> str:
    """A row per group: the reference value as a bar across, and where each stage stands."""
    row = 12.0 + 7 * max((len(each.dots) for each in rows), default=1)
    longest = max((len(each.label) for each in rows), default=0)
    left = min(12 + CHARACTER * longest, WIDTH * 0.42)
    low, high = axis.over([v for each in rows for v in (each.reference, *(dot.value for dot in each.dots))])
    across = Scale(low, high, left, WIDTH - RIGHT)
    floor = len(rows) * row + 6
    marks = []
    for value, shown in axis.ticks_within(low, high):
        marks.append(line(across(value), 0, across(value), floor, "grid"))
        marks.append(text(shown, across(value), floor + 16, anchor="middle", class_="label tick"))
    fits = int((left - 12) / CHARACTER)
    for i, each in enumerate(rows):
        middle = i * row + row / 2 + 2
        name = each.label if len(each.label) <= fits else f"{each.label[: fits - 1]}…"
        marks.append(text(name, left - 10, middle + 4, anchor="end"))
        marks.append(line(across.start, middle + row / 2, across.stop, middle + row / 2, "grid"))
        if math.isfinite(each.reference):
            at = across(each.reference)
            marks.append(
                tag(
                    "rect",
                    tooltip(f"{each.label}, planted: {percent(each.reference)}"),
                    x=at - 1.5,
                    y=middle - row / 2 + 3,
                    width=3,
                    height=row - 6,
                    class_="planted",
                )
            )
        for k, dot in enumerate(each.dots):
            if math.isfinite(dot.value):
                says = f"{each.label}, {dot.name}: {percent(dot.value)}"
                place = across(dot.value), middle + 7 * (k - (len(each.dots) - 1) / 2)
                marks.append(tag("g", mark(place, says, 4), class_=f"series {dot.class_}"))
    marks.append(text(axis.label, WIDTH - RIGHT, floor + 33, anchor="end", class_="label axis"))
    return picture("".join(marks), height=floor + 40, label=label)


def histogram(edges: Sequence[float], counts: Sequence[int], class_: str, *, x: str, y: str, label: str) -> str:
    """Counts in columns of equal width, whatever the width of the bins; the ticks are the bins' own edges."""
    num_bins = max(len(counts), 1)
    every = next(step for step in range(math.ceil(num_bins / 5), num_bins + 1) if num_bins % step == 0)
    shown = tick_labels([edges[i] for i in range(0, len(edges), every)])
    x_axis = Axis(x, 0, len(counts), ticks=tuple(zip(range(0, len(edges), every), shown, strict=True)))
    y_axis = Axis(y, 0)
    _, high = y_axis.rounded_over([1, *counts])
    y_ticks = y_axis.ticks_within(0, high)
    left = 10 + CHARACTER * max(len(each) for _, each in y_ticks)
    across = Scale(0, len(counts), left, WIDTH - RIGHT)
    up = Scale(0, high, HEIGHT - BOTTOM, TOP)
    marks = [_frame(across, up, x_axis, y_axis, y_ticks)]
    for i, count in enumerate(counts):
        says = tooltip(f"{edges[i]:,g} to below {edges[i + 1]:,g}: {count:,}")
        width = max(across(i + 1) - across(i) - 1, 0.5)
        marks.append(
            tag("rect", says, x=across(i), y=up(count), width=width, height=up(0) - up(count), class_=f"bar {class_}")
        )
    return picture("".join(marks), height=HEIGHT, label=label)


def strip(dots: Sequence[Dot], *, label: str) -> str:
    """Shares between 0 and 100% as dots on one short line, for a row of a table."""
    across = Scale(0, 1, 6, 134)
    marks = [line(6, 9, 134, 9, "grid")]
    marks += [line(across(end), 5, across(end), 13, "grid") for end in (0, 0.5, 1)]
    for dot in dots:
        inside = ""
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            inside += line(across(dot.low), 9, across(dot.high), 9, "line")
        if math.isfinite(dot.value):
            inside += mark((across(dot.value), 9), f"{dot.name}: {percent(dot.value)}", 4)
        marks.append(tag("g", inside, class_=f"series {dot.class_}"))
    return picture("".join(marks), height=18, width=140, label=label)

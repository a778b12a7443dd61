"""Marks that tell lines apart without colour: a shape for some classes, and the key that shows it in a legend."""

from __future__ import annotations

from heed.report.svg import line, picture, tag, tooltip

SHAPES = {
    "q-gold": "diamond",
    "q-score": "circle",
    "q-chosen": "circle",
    "q-rejected": "square",
    "w-ppo": "circle",
    "w-ppo-free": "cross",
    "w-dpo": "square",
    "w-grpo": "triangle",
    "w-best-of-n": "diamond",
    "w-other": "plus",
    "m-1": "circle",
    "m-2": "square",
    "m-3": "diamond",
    "m-4": "triangle",
    "m-5": "cross",
    "m-6": "plus",
    "certified": "cross",
}
"""by class of the series; the style sheet gives the same classes their colours and dashes"""
OUTLINES = {
    "square": "M{-1},{-1}h{2}v{2}h{-2}Z",
    "diamond": "M0,{-1.35}L{1.35},0L0,{1.35}L{-1.35},0Z",
    "triangle": "M0,{-1.3}L{1.25},{0.95}H{-1.25}Z",
    "cross": "M{-1.2},{-0.6}l{0.6},{-0.6}l{0.6},{0.6}l{0.6},{-0.6}l{0.6},{0.6}l{-0.6},{0.6}l{0.6},{0.6}l{-0.6},{0.6}"
    "l{-0.6},{-0.6}l{-0.6},{0.6}l{-0.6},{-0.6}l{0.6},{-0.6}Z",
    "plus": "M{-0.45},{-1.3}h{0.9}v{0.85}h{0.85}v{0.9}h{-0.85}v{0.85}h{-0.9}v{-0.85}h{-0.85}v{-0.9}h{0.85}Z",
}
"""paths about the origin, in radii"""
GUIDE = "guide"
"""class of a line that marks a value on an axis"""


def shape_of(class_: str) -> str:
    """The shape of a series' marks; a circle where none is fixed."""
    return next((SHAPES[each] for each in class_.split() if each in SHAPES), "circle")


def mark(at: tuple[float, float], says: str, radius: float = 3.5, *, shape: str = "circle") -> str:
    """A mark centred at a point, which says something when it is pointed at."""
    inside = tooltip(says) if says else ""
    if shape == "circle":
        return tag("circle", inside, cx=at[0], cy=at[1], r=radius, class_="dot")
    place = f"translate({round(at[0], 2):g},{round(at[1], 2):g})"
    return tag("path", inside, d=outline(shape, radius), transform=place, class_="dot")


def outline(shape: str, radius: float) -> str:
    """Path data of a shape."""
    pieces = OUTLINES[shape].replace("}", "{").split("{")
    return "".join(f"{round(float(each) * radius, 2):g}" if i % 2 else each for i, each in enumerate(pieces))


def key(class_: str) -> str:
    """A series as a legend shows it: a piece of its line, with its dashes and its mark; empty where colour says it."""
    if class_ == GUIDE:
        inside = line(1, 7, 29, 7, GUIDE)
    elif any(each in SHAPES for each in class_.split()):
        stroke = tag("path", d="M1,7L29,7", class_="line")
        inside = tag("g", stroke + mark((15, 7), "", 4, shape=shape_of(class_)), class_=f"series {class_}")
    else:
        return ""
    return picture(inside, height=14, width=30, label="").replace('role="img" aria-label=""', 'aria-hidden="true"')

"""SVG piece by piece: elements, scales, ticks, and numbers as people read them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 360.0
"""of every picture, in its own units: a phone shows it at its natural size, so text is never scaled to nothing"""
CHARACTER = 7.4
"""width of an average character at the size of labels (12 units), in the widest of the usual fonts"""


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to places on the picture."""

    low: float
    high: float
    start: float
    """place of `low`"""
    stop: float
    """place of `high`"""

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def tag(name: str, content: str = "", /, **attributes: str | float) -> str:
    """An element. `class_` is class, `stroke_width` is stroke-width; content is markup already, attributes are not."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def _attribute(value: str | float) -> str:
    return html.escape(value) if isinstance(value, str) else f"{round(value, 2) + 0.0:g}"


def text(content: str, x: float, y: float, *, anchor: str = "start", class_: str = "label") -> str:
    """A line of text with its baseline at `y`; anchor is start, middle or end."""
    return tag("text", html.escape(content), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def tooltip(content: str) -> str:
    """What a mark says when it is pointed at; it goes inside the mark."""
    return tag("title", html.escape(content))


def picture(content: str, *, height: float, label: str, width: float = WIDTH) -> str:
    """The whole picture; `label` says it in words to those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {_attribute(height)}" role="img" '
        f'aria-label="{html.escape(label)}">{content}</svg>'
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Path data through points."""
    return "M" + "L".join(f"{_attribute(x)},{_attribute(y)}" for x, y in points)


def finite(values: Iterable[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if math.isfinite(value)]


def stretch(values: Iterable[float]) -> tuple[float, float]:
    """Lowest and highest finite value, drawn apart where they are one, (0, 1) where there is none."""
    kept = finite(values)
    if not kept:
        return 0.0, 1.0
    low, high = min(kept), max(kept)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 10 or 1.0
    return low - room, high + room


def spacing(low: float, high: float, at_most: int = 5) -> float:
    """The smallest of 1, 2 or 5 times a power of ten of which no more than `at_most` multiples are in [low, high]."""
    power = 10.0 ** math.floor(math.log10((high - low) / max(at_most - 1, 1)))
    return next(
        step for step in (factor * power for factor in (1, 2, 5, 10, 20)) if num_steps(low, high, step) < at_most
    )


def num_steps(low: float, high: float, step: float) -> int:
    """How many steps lie between the first and the last multiple of `step` in [low, high]."""
    return math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9)


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` in [low, high]."""
    first = math.ceil(low / step - 1e-9)
    return [multiple * step for multiple in range(first, first + num_steps(low, high, step) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Ticks in as many digits as tell them apart: thousands as k, millions as M, the very large and small as 2e9."""
    largest = max((abs(value) for value in values), default=0.0)
    divisor, unit = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    scaled = [value / divisor for value in values]
    if largest >= 1e9 or 0 < largest < 1e-3:
        return [f"{value:g}".replace("e-0", "e-").replace("e+", "e").replace("e0", "e") for value in values]
    digits = next(d for d in range(9) if all(abs(value - round(value, d)) < 1e-9 for value in scaled) or d == 8)
    return [f"{value:,.{digits}f}{unit}" if value else "0" for value in scaled]


def percent(share: float) -> str:
    """A share as people read it; a small one is not made 0, and one short of all is not made 100."""
    if not math.isfinite(share):
        return "not a number"
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    if 0 < share < 0.005 or 0.995 < share < 1:
        return f"{100 * share:.1f}%"
    return f"{100 * share:.0f}%"


def quantity(value: float) -> str:
    """A number in about three digits."""
    if not math.isfinite(value):
        return "not a number"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"

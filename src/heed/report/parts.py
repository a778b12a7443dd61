"""What a page is made of, before it is HTML; and the fixed name and colour of every stage."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from heed.report.measurements import Score
from heed.report.svg import percent, quantity

STAGE_NAMES = {
    "base": "base",
    "base_few_shot": "base with examples",
    "sft": "tuned",
    "reward": "reward model",
    "dpo": "after DPO",
    "ppo": "after PPO",
    "grpo": "after GRPO",
}
NUM_RUN_COLOURS = 6

VIETNAMESE = re.compile("[ăâđêôơư\u1ea0-\u1ef9]", re.IGNORECASE)
"""letters that, in Latin script, Vietnamese has and few others have in running text"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a figure."""

    svg: str
    title: str = ""
    note: str = ""
    """a quieter line below the title"""


@dataclass(frozen=True, slots=True)
class Figure:
    """Pictures that are read together, and what to see in them."""

    kind: ClassVar[str] = "figure"
    title: str
    panels: tuple[Panel, ...]
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """class and name of each colour; a class with a mark of its own is shown as a piece of its line"""


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers to read one by one."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | Panel, ...], ...]
    num_text_columns: int = 1
    """columns from the left that are words; the others are numbers"""
    is_beside: bool = False
    """whether it is narrow enough to stand beside a figure"""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, with who gave it."""

    title: str
    class_: str
    text: str
    verdict: str = ""
    """`right`, `wrong`, or empty where nobody judged it"""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One prompt and the answers to it."""

    kind: ClassVar[str] = "exchange"
    title: str
    prompt: str
    answers: tuple[Said, ...]
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers that a model could choose."""

    text: str
    is_right: bool
    cells: tuple[tuple[str, bool], ...]
    """for each model its log-probability in words, and whether the model chose it"""
    label: str = ""
    """what it stands for, where it stands for something"""


@dataclass(frozen=True, slots=True)
class Case:
    """One item of a task as one model or two answered it, folded up to its first words."""

    kind: ClassVar[str] = "case"
    title: str
    prompts: tuple[tuple[str, str], ...]
    """of whom it was asked, where that differs, and what"""
    head: tuple[str, ...]
    """the models"""
    options: tuple[Option, ...]
    expected: str
    """the right answer, where it is written and not chosen"""
    answers: tuple[Said, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text as it stands in a file."""

    kind: ClassVar[str] = "verbatim"
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """One honest line."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """What is opened by whoever wants to know."""

    kind: ClassVar[str] = "details"
    summary: str
    items: tuple[Figure | Table | Exchange | Case | Verbatim | Note | Details, ...]
    is_printed: bool = True
    """whether paper shows it opened"""


Item = Figure | Table | Exchange | Case | Verbatim | Note | Details


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    lead: str
    items: tuple[Item, ...]


def stage_name(stage: str) -> str:
    """A stage as readers call it."""
    return STAGE_NAMES.get(stage, stage.replace("_", " "))


def capital(name: str) -> str:
    """A name as it begins a sentence; the letters after the first stay as they are."""
    return name[:1].upper() + name[1:]


def stage_class(stage: str) -> str:
    """The class that gives a stage its colour, the same on every page."""
    return f"s-{stage.replace('_', '-')}" if stage in STAGE_NAMES else "s-other"


def run_class(index: int) -> str:
    """The class that gives a run its colour and, after the colours are used up, its dashes."""
    return f"r-{index % NUM_RUN_COLOURS + 1} d-{index // NUM_RUN_COLOURS % 3}"


def stage_legend(stages: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Colour and name of each stage."""
    return tuple((stage_class(stage), stage_name(stage)) for stage in stages)


def words(name: str) -> str:
    """`unseen_items` as it is said."""
    return name.replace("_", " ")


def interval(score: Score) -> str:
    """`83% (79 to 87)`, the share with its 95% interval in percent."""
    if math.isfinite(score.low) and math.isfinite(score.high):
        ends = f"({100 * score.low:.0f} to {100 * score.high:.0f})".replace(" ", "\N{NO-BREAK SPACE}")
        return f"{percent(score.value)} {ends}"
    return percent(score.value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds):
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(num_bytes: float) -> str:
    """Bytes as megabytes or gigabytes (powers of ten)."""
    if not math.isfinite(num_bytes):
        return "not known"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{quantity(round(num_bytes / 1e6))} MB"


def language(text: str) -> str:
    """The language tag of a text that came from data: `vi`, or empty for not known, never a guess at `en`."""
    return "vi" if VIETNAMESE.search(unicodedata.normalize("NFC", text)) else ""

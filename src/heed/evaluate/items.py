"""The nouns of `heed eval`: what is asked of a model about one record of a task, what came back, and what it is worth.

    record -> Item (requests) -> outcomes -> Scored (verdict) -> Figures

A task's kind makes items of records and verdicts of outcomes (`kinds/`); measures make figures of verdicts
(`measures/`). None of them knows a model: texts go in, numbers and texts come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heed.types import Origin


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely is a text after another one? A continuation that is empty is asked of nothing."""

    context: str
    """as the task writes it, without few-shot examples; empty: nothing stands before but BOS"""
    continuation: str
    """without the delimiter that divides it from the context"""
    stands_alone: bool = False
    """whether neither description nor examples come before it: an unconditional score is of the option and no task"""


@dataclass(frozen=True, slots=True)
class Rolling:
    """How likely is every token of a text, all of it?"""

    text: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What does the model answer?"""

    context: str


Request = Likelihood | Rolling | Generation


@dataclass(frozen=True, slots=True, eq=False)
class TokenLikelihoods:
    """The answer to a `Likelihood` or a `Rolling`."""

    ids: tuple[int, ...]
    """of the continuation's tokens"""
    logp: np.ndarray
    """(n,) float64, of each of them given all before, in nats, at most 0"""
    is_greedy: bool
    """whether each of them is the likeliest token at its place: greedy decoding would have written the text"""

    @property
    def total(self) -> float:
        """log P(continuation | context), in nats."""
        return float(self.logp.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """The answer to a `Generation`."""

    text: str
    """without the stop token or stop text that ended it"""
    ids: tuple[int, ...]
    logp: np.ndarray
    """(n,) float64 of each token drawn, in nats"""
    is_cut: bool
    """whether it is as long as was allowed and did not stop by itself"""


Outcome = TokenLikelihoods | Generated


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One record of a task, ready to be asked."""

    id: str
    """of the record's content, so that neither order nor subset changes it; `-1`, `-2` for repetitions"""
    origin: Origin
    record: Mapping[str, Any]
    """its fields as they were read: what checkers and measures may need"""
    requests: tuple[Request, ...]
    right: tuple[Any, ...]
    """indices of the right options; or the texts that are right answers; empty where no answer is right"""
    labels: tuple[str, ...] = ()
    """names of the options where they have some (`stereotype`, `unknown` ...)"""
    shot: tuple[str, str] | None = None
    """the record as a few-shot example of another's prompt: context and right answer; None: it cannot be one"""
    cluster: str | None = None
    """what it has in common with others: a paragraph, a template; None: it stands alone"""
    groups: Mapping[str, str] = field(default_factory=dict)
    """what figures are told apart by: {"category": "Misconceptions"}"""
    notes: tuple[str, ...] = ()
    """what a user should know of it, although it can be asked; counted over items"""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One item with its verdict: a line of `items.jsonl`, as measures and pictures read it."""

    id: str
    verdict: Mapping[str, float | bool | str | None]
    """a number or truth value for every measure that is a mean over items (`acc`, `f1`), and what else a measure needs
    (`log_likelihood`, `num_words`); None where it is undefined for this item"""
    record: Mapping[str, Any]
    right: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    chosen: int | None = None
    """index of the option that the model prefers; None: it was not asked to choose, or no option could be read"""
    answer: str | None = None
    """what it generated"""
    extracted: str | None = None
    """what the checker took from the answer; None where it could not be parsed, which is a row of its own"""
    confidence: float | None = None
    """the probability that the model itself gives to its answer"""
    cluster: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number about a model on a task, with its 95% interval."""

    measure: str
    value: float | None
    """None: undefined, and `why` says why"""
    low: float | None
    high: float | None
    count: int
    """items it was made from"""
    unit: str = "share"
    """`share` (0 to 1), `percent`, `nats`, `bits`, `perplexity`, `count`, `score`, ..."""
    group: str | None = None
    """`category=Misconceptions`; None: all items"""
    why: str = ""
    target: float | None = None
    """the value of a perfect or unbiased model, where the scale has one that is not its end"""


def undefined(measure: str, why: str, *, count: int = 0, unit: str = "share", group: str | None = None) -> Figure:
    """A figure that has no value, and why; nothing is put in its place."""
    return Figure(measure, None, None, None, count, unit, group, why)

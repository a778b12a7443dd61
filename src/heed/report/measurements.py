"""What was measured of every stage of a model, as the demonstration keeps it in `measurements.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Score:
    """A share of items, with its 95% interval."""

    value: float
    low: float
    high: float
    count: int
    """items behind it"""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers given with a probability between `low` and `high`."""

    low: float
    high: float
    confidence: float
    """mean probability of these answers"""
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether answers given with probability p are right in a share p of the cases."""

    ece: float
    """expected calibration error: mean |confidence - accuracy| over answers, by bins"""
    brier: float
    """mean squared difference between the probability of an answer and 1 if it was right, else 0"""
    count: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class BiasGroup:
    """One word with a stereotype planted in the base text, as shares of "she"."""

    name: str
    planted: float
    measured: float
    count: int


@dataclass(frozen=True, slots=True)
class Honesty:
    """What was measured of one stage against the truth of the world; what was not measured is empty or None."""

    calibration: Calibration | None
    knowledge: Mapping[str, Mapping[str, Score]]
    """by how often the base text told the fact, then by outcome: right, wrong, declined"""
    coverage: tuple[tuple[float, float], ...]
    """(share of questions answered, accuracy on these), the least confident answers withheld"""
    bias: tuple[BiasGroup, ...]
    bias_mean_absolute_difference: float
    forgetting_nll_per_token: float | None
    """nats per token of held-out base text"""
    forgetting_count: int


@dataclass(frozen=True, slots=True)
class Family:
    """Accuracy on one kind of task, by stage."""

    name: str
    cluster: str
    split: str
    stages: Mapping[str, Score]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stage said."""

    text: str
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out item with the answer of every stage."""

    split: str
    family: str
    prompt: str
    expected: str
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class CostPoint:
    """Accuracy of a model tuned on the first so many gold answers."""

    num_answers: int
    score: Score


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything in `measurements.json`; parts that are absent there are empty here."""

    stages: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Score]]
    """accuracy by split, then by stage"""
    families: tuple[Family, ...]
    honesty: Mapping[str, Honesty]
    examples: tuple[Example, ...]
    cost: tuple[CostPoint, ...]
    seconds: Mapping[str, float]
    peak_memory_bytes: Mapping[str, float]


def measurements(value: Mapping[str, Any]) -> Measurements:
    """The parsed JSON as nouns.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is there but is not what it should be.
    """
    splits = {name: _by(stages, score) for name, stages in value.get("splits", {}).items()}
    stages = tuple(value.get("stages") or dict.fromkeys(stage for split in splits.values() for stage in split))
    return Measurements(
        stages=stages,
        splits=splits,
        families=tuple(_family(name, family, stages) for name, family in value.get("families", {}).items()),
        honesty=_by(value.get("honesty", {}), _honesty),
        examples=tuple(map(_example, value.get("examples", []))),
        cost=tuple(CostPoint(int(point["num_answers"]), score(point)) for point in value.get("cost") or []),
        seconds=_by(value.get("seconds", {}), number),
        peak_memory_bytes=_by(value.get("peak_memory_bytes", {}), number),
    )


def number(value: Any) -> float:
    """A JSON number; null stands for one that is not finite."""
    return float("nan") if value is None else float(value)


def score(value: Mapping[str, Any]) -> Score:
    """`{"accuracy" or "rate": ..., "low": ..., "high": ..., "count": ...}`."""
    share = value["accuracy"] if "accuracy" in value else value["rate"]
    return Score(number(share), number(value.get("low")), number(value.get("high")), int(value.get("count", 0)))


def _by(value: Mapping[str, Any], read: Callable[[Any], T]) -> dict[str, T]:
    return {str(name): read(part) for name, part in value.items()}


def _family(name: str, value: Mapping[str, Any], stages: tuple[str, ...]) -> Family:
    return Family(
        name=name,
        cluster=str(value.get("cluster", "")),
        split=str(value.get("split", "")),
        stages={stage: score(value[stage]) for stage in stages if value.get(stage) is not None},
    )


def _example(value: Mapping[str, Any]) -> Example:
    return Example(
        split=str(value.get("split", "")),
        family=str(value.get("family", "")),
        prompt=str(value["prompt"]),
        expected=str(value.get("expected", "")),
        answers=_by(value["answers"], lambda answer: Answer(str(answer["text"]), answer.get("correct"))),
    )


def _honesty(value: Mapping[str, Any]) -> Honesty:
    bias, forgetting = value.get("bias") or {}, value.get("forgetting") or {}
    return Honesty(
        calibration=_calibration(value["calibration"]) if value.get("calibration") else None,
        knowledge=_by(value.get("knowledge") or {}, _outcomes),
        coverage=tuple((number(at["coverage"]), number(at["accuracy"])) for at in value.get("coverage") or []),
        bias=tuple(
            BiasGroup(str(each["name"]), number(each["planted"]), number(each["measured"]), int(each.get("count", 0)))
            for each in bias.get("groups", [])
        ),
        bias_mean_absolute_difference=number(bias.get("mean_absolute_difference")),
        forgetting_nll_per_token=number(forgetting["nll_per_token"]) if forgetting else None,
        forgetting_count=int(forgetting.get("count", 0)),
    )


def _outcomes(value: Mapping[str, Any]) -> dict[str, Score]:
    """Outcomes carry their own count, or share the one beside them."""
    count = value.get("count", 0)
    return {name: score({"count": count, **value[name]}) for name in ("right", "wrong", "declined") if value.get(name)}


def _calibration(value: Mapping[str, Any]) -> Calibration:
    return Calibration(
        ece=number(value.get("ece")),
        brier=number(value.get("brier")),
        count=int(value.get("count", 0)),
        bins=tuple(
            Bin(
                number(each["low"]),
                number(each["high"]),
                number(each["confidence"]),
                number(each["accuracy"]),
                int(each["count"]),
            )
            for each in value.get("bins", [])
        ),
    )

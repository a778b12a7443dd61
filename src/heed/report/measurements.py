"""What was measured, as nouns: of every stage of a model (`measurements.json`), and of a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    brier_low: float = math.nan
    brier_high: float = math.nan
    """95% interval of the Brier score, where it was measured"""


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
class LengthBin:
    """Held-out answers of about one length."""

    length: float
    """mean tokens of these answers"""
    reward: float
    """their mean reward"""
    count: int


@dataclass(frozen=True, slots=True)
class RewardMeasurements:
    """What a reward model is worth on held-out rankings; what was not measured is None, NaN or empty."""

    accuracy: Score | None
    """share of held-out comparisons in which the better answer has the higher reward"""
    noise_ceiling: float
    """share that the true reward itself would get right, the labels being noisy"""
    calibration: Calibration | None
    """of sigma(|r_a - r_b|) as the confidence that the answer with the higher reward is the better one"""
    length_correlation: float
    """of reward and length in tokens, from -1 to 1"""
    length_correlation_low: float
    length_correlation_high: float
    """its 95% interval"""
    length_correlation_of_gold: float
    """the same of the true reward"""
    length_bins: tuple[LengthBin, ...]


@dataclass(frozen=True, slots=True)
class PolicyPoint:
    """A policy on its way: how far from the reference it is and what it has gained there."""

    step: int
    kl: float
    """KL to the reference in nats per sequence"""
    score: float
    """mean score of the reward model"""
    gold: float
    """mean true reward"""


@dataclass(frozen=True, slots=True)
class PpoMeasurements:
    """What PPO gained in true reward on held-out prompts, and at what distance; NaN where it was not measured."""

    gold_before: float
    gold_after: float
    gold_gain: float
    """mean over prompts of after minus before"""
    gold_gain_low: float
    gold_gain_high: float
    """95% interval of the gain, paired by prompt"""
    best_of_4_gain: float
    """gain of taking, of 4 answers before, the one that the reward model likes best"""
    kl: float
    kl_budget: float
    """both in nats per sequence"""
    curve: tuple[PolicyPoint, ...]
    comparison: Mapping[str, tuple[PolicyPoint, ...]]
    """the way of each method that was compared, by its name"""


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
    reward_model: RewardMeasurements | None
    ppo: PpoMeasurements | None


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
        reward_model=_demo_reward_model(value["reward_model"]) if value.get("reward_model") else None,
        ppo=_ppo(value["ppo"]) if value.get("ppo") else None,
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
        brier_low=number(value.get("brier_low")),
        brier_high=number(value.get("brier_high")),
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


def reward_measurements(value: Mapping[str, Any]) -> RewardMeasurements:
    """The parsed `reward_measurements.json` as nouns.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is there but is not what it should be.
    """
    return RewardMeasurements(
        accuracy=score(value["accuracy"]) if value.get("accuracy") else None,
        noise_ceiling=number(value.get("noise_ceiling")),
        calibration=_calibration(value["calibration"]) if value.get("calibration") else None,
        length_correlation=number(value.get("length_correlation")),
        length_correlation_low=number(value.get("length_correlation_low")),
        length_correlation_high=number(value.get("length_correlation_high")),
        length_correlation_of_gold=number(value.get("length_correlation_of_gold")),
        length_bins=tuple(
            LengthBin(number(each["length"]), number(each["reward"]), int(each.get("count", 0)))
            for each in value.get("length_bins") or []
        ),
    )


def _demo_reward_model(value: Mapping[str, Any]) -> RewardMeasurements:
    """The demonstration keeps the accuracy flat, beside what else it measured."""
    return reward_measurements({**value, "accuracy": value})


def _ppo(value: Mapping[str, Any]) -> PpoMeasurements:
    return PpoMeasurements(
        **{
            name: number(value.get(name))
            for name in ("gold_before", "gold_after", "gold_gain", "gold_gain_low", "gold_gain_high")
        },
        best_of_4_gain=number(value.get("best_of_4_gain")),
        kl=number(value.get("kl")),
        kl_budget=number(value.get("kl_budget")),
        curve=_curve(value.get("curve") or []),
        comparison={str(each["method"]): _curve(each["curve"]) for each in value.get("comparison") or []},
    )


def _curve(points: Sequence[Mapping[str, Any]]) -> tuple[PolicyPoint, ...]:
    """Points of a way; the distance is called `kl` or `kl_per_sequence`."""
    return tuple(
        PolicyPoint(
            step=int(point.get("step", place)),
            kl=number(point["kl"] if "kl" in point else point["kl_per_sequence"]),
            score=number(point.get("score")),
            gold=number(point.get("gold")),
        )
        for place, point in enumerate(points)
    )

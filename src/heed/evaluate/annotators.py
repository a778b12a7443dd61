"""What annotators' choices hang on besides the answers: which side an answer is on, and how long it is.

    P(left) = sigmoid(g_w (s_left - s_right) + b_w + l_w (length_left - length_right))

for annotator w, with s the strength of an answer. g_w is competence: 0 takes no notice of strength, 1 is as sure of it
as whoever gave the strengths. b_w is liking for the left side and l_w for length, in log-odds and log-odds per word; of
an annotator without such likings both are 0.

The strengths come from outside (a reward model), or from what the *other* annotators chose: with one's own
choices among them competence would be found where there is none. Strengths that like length themselves, as those of
annotators who do, leave to l_w only what an annotator likes length more, or less, than they.

Source: Bradley and Terry 1952, Biometrika 39; the position's effect as Davidson and Beaver 1977, "On extending the
    Bradley-Terry model to incorporate within-pair order effects", Biometrics 33.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heed.evaluate.exact import holm, student_beyond, student_reach
from heed.evaluate.items import Figure, undefined

LEVEL = 0.05
PRIOR_DEVIATION = 2.0
"""of an answer's strength among those to one prompt, in log-odds, before anyone has chosen: keeps strengths finite"""
MAX_STEPS = 50
SMALLEST_INFORMATION = 1e-6
"""per choice, of a coefficient in units of its column's spread: below, the likelihood goes on rising for ever"""


@dataclass(frozen=True, slots=True)
class Choice:
    """One annotator's choice between two answers."""

    annotator: str
    margin: float
    """s_left - s_right, in log-odds"""
    length: float
    """length_left - length_right, in words"""
    took_left: bool
    cluster: str | None = None
    """what it shares with other choices, as the prompt; None: it stands alone"""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """g, b or l of one annotator, with its 95% interval."""

    value: float | None
    """None: undefined, and `why` says why"""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """of the test that it is 0, of two sides"""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rater:
    """What is known of one annotator."""

    annotator: str
    competence: Coefficient
    position: Coefficient
    length: Coefficient
    count: int
    """choices"""


def rater(annotator: str, choices: Sequence[Choice], *, sides_are_known: bool = True) -> Rater:
    """The coefficients of one annotator by maximum likelihood, with their intervals.

    The variance is the inverse of the observed information; where clusters hold several choices, the sandwich

        V = I^-1 (C / (C - 1) sum over clusters of u_c u_c') I^-1,        u_c the score of cluster c

    and the interval Student's with C - k degrees of freedom for C clusters and k coefficients.

    Args:
        annotator: whose all the choices are.
        choices: in any order.
        sides_are_known: False where nothing says which answer stood on which side: b is then undefined, and left is any
            side (such as that of the answer that was chosen: without b the likelihood is the same).

    Returns:
        Undefined coefficients, with the reason, where choices can be told apart without error, so that the likelihood
        has no maximum; where the answers differ in nothing; and where there are too few choices.

    Facts the tests hold it to:
        simulated annotators are covered in 95% of the cases; those without a liking are said to have one in 5%.
        Exchanging left and right turns the sign of b round and leaves g and l.
    """
    names = ["competence", *(["position"] if sides_are_known else []), "length"]
    columns = {
        "competence": np.array([each.margin for each in choices], dtype=np.float64),
        "position": np.ones(len(choices)),
        "length": np.array([each.length for each in choices], dtype=np.float64),
    }
    flat = {name: f"{words} in every choice" for name, words in SAME.items() if not columns[name].any()}
    kept = [name for name in names if name not in flat]
    found = {name: Coefficient(None, why=why) for name, why in flat.items()}
    if not sides_are_known:
        found["position"] = Coefficient(None, why="the records do not say on which side an answer stood")
    if kept:
        design = np.stack([columns[name] for name in kept], axis=1)
        took_left = np.array([each.took_left for each in choices], dtype=np.float64)
        fitted = _fitted(design, took_left, _cluster_numbers(choices))
        found |= dict(zip(kept, fitted, strict=True))
    return Rater(annotator, found["competence"], found["position"], found["length"], len(choices))


SAME = {"competence": "the answers are equally strong", "length": "the answers are equally long"}


def raters(choices: Sequence[Choice], *, sides_are_known: bool = True) -> list[Rater]:
    """`rater` of every annotator, by name."""
    by_name: dict[str, list[Choice]] = {}
    for each in choices:
        by_name.setdefault(each.annotator, []).append(each)
    return [rater(name, by_name[name], sides_are_known=sides_are_known) for name in sorted(by_name)]


def flagged(found: Sequence[Rater]) -> list[tuple[str, str]]:
    """(annotator, `position` or `length`) of the likings that are no chance, with one false alarm in 20 at most.

    The tests of all annotators are taken together (Holm), so that where nobody has a liking, the chance that even one
    is flagged is at most 5%.
    """
    tests = [(each.annotator, name, p) for each in found for name in BIASES if (p := getattr(each, name).p) is not None]
    raised = holm([p for _, _, p in tests])
    return [(who, name) for (who, name, _), p in zip(tests, raised, strict=True) if p <= LEVEL]


BIASES = ("position", "length")
UNITS = {
    "competence": "log-odds per strength",
    "position": "log-odds",
    "length": "log-odds per word",
}


def figures_of_raters(found: Sequence[Rater]) -> list[Figure]:
    """A figure for every coefficient of every annotator, and `annotators_flagged`, how many have a liking."""
    rows = []
    for name, unit in UNITS.items():
        target = 0.0 if name in BIASES else None
        for each in found:
            one: Coefficient = getattr(each, name)
            rows.append(
                Figure(
                    f"annotator_{name}",
                    one.value,
                    one.low,
                    one.high,
                    each.count,
                    unit,
                    f"annotator={each.annotator}",
                    one.why,
                    target,
                )
            )
    likings = flagged(found)
    if not any(getattr(each, name).p is not None for each in found for name in BIASES):
        why = "no annotator has a liking that can be estimated"
        return [undefined("annotators_flagged", why, count=len(found), unit="count"), *rows]
    who = len({annotator for annotator, _ in likings})
    told = "; ".join(f"{annotator}: {name}" for annotator, name in likings)
    return [Figure("annotators_flagged", float(who), None, None, len(found), "count", None, told, 0.0), *rows]


# ---- maximum likelihood


def _fitted(design: np.ndarray, took_left: np.ndarray, clusters: np.ndarray) -> list[Coefficient]:
    """Each column's coefficient in the logistic model of `took_left`."""
    num_choices, num_columns = design.shape
    num_clusters = len(np.unique(clusters))
    degrees = num_clusters - num_columns
    if degrees < 1:
        why = f"{num_clusters:,} independent choices are too few for {num_columns} coefficients"
        return [Coefficient(None, why=why)] * num_columns
    spread = np.sqrt(np.square(design).mean(axis=0))
    scaled = design / spread
    if np.linalg.matrix_rank(scaled) < num_columns:
        why = "strength, side and length go together in every choice, so that their effects cannot be told apart"
        return [Coefficient(None, why=why)] * num_columns
    weights = _newton(scaled, took_left)
    if weights is None:
        why = (
            f"strength, side and length tell all {num_choices:,} choices without error, so no size of an effect is best"
        )
        return [Coefficient(None, why=why)] * num_columns
    chance = _sigmoid(scaled @ weights)
    information = (scaled * (chance * (1 - chance))[:, None]).T @ scaled
    inverse = np.linalg.inv(information)
    if num_clusters < num_choices:
        scores = scaled * (took_left - chance)[:, None]
        of_cluster = np.zeros((num_clusters, num_columns))
        np.add.at(of_cluster, clusters, scores)
        inverse = inverse @ (num_clusters / (num_clusters - 1) * of_cluster.T @ of_cluster) @ inverse
    errors = np.sqrt(np.diag(inverse)) / spread
    values = weights / spread
    reach = student_reach(LEVEL, degrees)
    return [
        Coefficient(value, value - reach * error, value + reach * error, student_beyond(value / error, degrees))
        for value, error in zip(values.tolist(), errors.tolist(), strict=True)
    ]


def _newton(design: np.ndarray, took_left: np.ndarray) -> np.ndarray | None:
    """The coefficients with the highest likelihood; None where it rises for ever, the choices being separable."""
    weights = np.zeros(design.shape[1])
    likelihood = _log_likelihood(design, took_left, weights)
    for _ in range(MAX_STEPS):
        chance = _sigmoid(design @ weights)
        gradient = design.T @ (took_left - chance)
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        if np.linalg.eigvalsh(information)[0] < SMALLEST_INFORMATION * len(design):
            return None
        step = np.linalg.solve(information, gradient)
        size = 1.0
        while (
            higher := _log_likelihood(design, took_left, weights + size * step)
        ) < likelihood - 1e-12 and size > 1e-9:
            size /= 2
        weights, likelihood = weights + size * step, higher
        if float(np.abs(size * step).max()) < 1e-10:
            return weights
    return None


def _log_likelihood(design: np.ndarray, took_left: np.ndarray, weights: np.ndarray) -> float:
    odds = design @ weights
    return float(-np.logaddexp(0.0, np.where(took_left == 1, -odds, odds)).sum())


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    result: np.ndarray = (1 + np.tanh(odds / 2)) / 2
    return result


def _cluster_numbers(choices: Sequence[Choice]) -> np.ndarray:
    """(n,) which cluster each choice is in, counted from 0."""
    keys: dict[Hashable, int] = {}
    return np.array(
        [
            keys.setdefault(index if each.cluster is None else each.cluster, len(keys))
            for index, each in enumerate(choices)
        ],
        dtype=np.int64,
    )


# ---- strengths from what others chose


@dataclass(frozen=True, slots=True)
class Judgement:
    """One annotator's choice between two answers to a prompt, whose strengths are not known yet."""

    annotator: str
    prompt: str
    left: str
    right: str
    took_left: bool
    length: float
    """length_left - length_right, in words"""


def choices_of(judgements: Sequence[Judgement]) -> tuple[list[Choice], int]:
    """The judgements with the margins that the other annotators' choices give, and how many nobody else judged.

    The margin of a pair is the difference of two strengths fitted to what the others chose among the answers to its
    prompt: where answers are compared crosswise a Bradley-Terry fit, where a pair was judged by several annotators the
    log-odds of their votes, drawn towards 0.
    """
    found: list[Choice] = []
    num_alone = 0
    by_prompt: dict[str, list[Judgement]] = {}
    for each in judgements:
        by_prompt.setdefault(each.prompt, []).append(each)
    for prompt, here in by_prompt.items():
        for who in dict.fromkeys(each.annotator for each in here):
            others = [(e.left, e.right) if e.took_left else (e.right, e.left) for e in here if e.annotator != who]
            known = strengths(others)
            for each in (e for e in here if e.annotator == who):
                if each.left not in known or each.right not in known:
                    num_alone += 1
                    continue
                margin = known[each.left] - known[each.right]
                found.append(Choice(who, margin, each.length, each.took_left, prompt))
    return found, num_alone


def strengths(wins: Sequence[tuple[str, str]]) -> Mapping[str, float]:
    """The strength of every answer in comparisons of answers to one prompt, in log-odds, with mean 0.

    The maximum of sum over (winner, loser) of log sigmoid(s_winner - s_loser) - sum of s² / (2 * 2²).

    Args:
        wins: (winner, loser) of each comparison.

    Source: Bradley and Terry 1952; the normal prior as in Whelan 2017, arXiv:1712.05311.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(name for pair in wins for name in pair))}
    if not names:
        return {}
    design = np.zeros((len(wins), len(names)))
    for row, (winner, loser) in enumerate(wins):
        design[row, names[winner]] += 1
        design[row, names[loser]] -= 1
    values = np.zeros(len(names))
    ridge = np.eye(len(names)) / PRIOR_DEVIATION**2
    for _ in range(MAX_STEPS):
        chance = _sigmoid(design @ values)
        gradient = design.T @ (1 - chance) - values / PRIOR_DEVIATION**2
        step = np.linalg.solve((design * (chance * (1 - chance))[:, None]).T @ design + ridge, gradient)
        values = values + step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-10:
            break
    middle = math.fsum(values) / len(values)
    return {name: float(values[i]) - middle for name, i in names.items()}

"""What a reward model likes besides the answer: names, pronouns and length, by texts that differ in nothing else.

    counterfactual difference = mean over texts and words of  r(x, y with one word) - r(x, y with another)

The texts and the words that stand for a group are both a sample, so both are in the interval: with d_t the difference
in text t and m_k the mean reward of word k over the texts, for K words of one set and K' of another,

    V_texts = Var(d_t) / T,        V_words = Var(m_k) / K + Var(m'_k) / K'
    V = max(V_texts, V_words, V_texts + V_words - V_cells)

where V_cells, from what is left when both means are taken out, is what the two have in common. Student's t has the
fewer degrees of freedom of the two. A model that has a liking for each name by itself, and none for a gender, is then
as unlikely to be called biased as one that is noise.

Source: Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering", JBES 29, for V; swapped words as
    in Kusner et al. 2017, "Counterfactual fairness", arXiv:1703.06856.
Differs from the source: V is not below either part, which errs on the side of a wider interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heed.evaluate.exact import holm, student_beyond, student_reach
from heed.evaluate.items import Figure, undefined
from heed.evaluate.probe_texts import FILLERS, NAME, NAMES, PRONOUNS, Text, language_of

LEVEL = 0.05
ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""of the largest reward: so near rewards may be to one another by rounding alone"""

Rewards = Callable[[Sequence[tuple[Any, str]]], Sequence[float]]
"""the reward of each (prompt, answer)"""


@dataclass(frozen=True, slots=True)
class Probed:
    """A liking, as a figure, and the p-value of the test that there is none."""

    figure: Figure
    p: float | None


def probe_names(texts: Sequence[Text], rewards_of: Rewards) -> list[Probed]:
    """Likings for male over female and for Vietnamese over English names, then for every name by itself.

        name_male_female          mean r with male names - mean r with female ones, as many of each language
        name_vietnamese_english   mean r with Vietnamese names - mean r with English ones, as many of each gender
        name, group `name=Anna`   mean over texts of r with the name - mean r with the other names; these intervals hold
                                  together: with probability 95% all of them are right

    Args:
        texts: with a place for a name.
    """
    if len(texts) < 2:
        return [_none(name, f"{len(texts)} texts with a name are too few") for name in ("name_male_female",)]
    words = [name for names in NAMES.values() for name in names]
    rewards = _rewards_in_places(texts, [{NAME: word} for word in words], rewards_of)
    if rewards is None:
        return [_none("name_male_female", NOT_FINITE)]
    columns = {key: rewards[:, [words.index(name) for name in names]] for key, names in NAMES.items()}
    by_gender = [(columns[language, "male"], columns[language, "female"]) for language in ("english", "vietnamese")]
    by_language = [(columns["vietnamese", gender], columns["english", gender]) for gender in ("male", "female")]
    clusters = _clusters(texts)
    return [
        difference_of_sets("name_male_female", by_gender, clusters),
        difference_of_sets("name_vietnamese_english", by_language, clusters),
        *_of_each_word(words, rewards, clusters),
    ]


def probe_pronouns(texts: Sequence[Text], rewards_of: Rewards) -> list[Probed]:
    """pronoun_he_she: mean over texts of r with "he" - r with "she" (in Vietnamese "anh ấy", "cô ấy").

    Args:
        texts: with places for pronouns.
    """
    if len(texts) < 2:
        return [_none("pronoun_he_she", f"{len(texts)} texts with a pronoun are too few")]
    filled = [text.filled(PRONOUNS[language_of(text.answer)][who]) for who in ("he", "she") for text in texts]
    rewards = _asked(filled, rewards_of)
    if rewards is None:
        return [_none("pronoun_he_she", NOT_FINITE)]
    he, she = rewards.reshape(2, len(texts), 1)
    return [difference_of_sets("pronoun_he_she", [(he, she)], _clusters(texts))]


def probe_length(texts: Sequence[Text], rewards_of: Rewards) -> list[Probed]:
    """Likings for longer answers, in reward per word that is added and says nothing.

        length_filler      mean over texts and sentences of (r(x, y + sentence) - r(x, y)) / words of the sentence
        length_repeated    mean over texts of (r(x, y said twice) - r(x, y)) / words of y

    A model that dislikes empty talk has a negative value: 0 is what is blind to length.
    """
    names = ("length_filler", "length_repeated")
    if len(texts) < 2:
        return [_none(name, f"{len(texts)} answers are too few", unit=PER_WORD) for name in names]
    num_fillers = len(FILLERS["en"])
    longer = []
    for text in texts:
        fillers = FILLERS[language_of(text.answer)]
        longer += [replace(text, answer=f"{text.answer.rstrip()} {filler}") for filler in fillers]
    twice = [replace(text, answer=f"{text.answer.rstrip()} {text.answer.strip()}") for text in texts]
    rewards = _asked([*texts, *twice, *longer], rewards_of)
    if rewards is None:
        return [_none(name, NOT_FINITE, unit=PER_WORD) for name in names]
    n = len(texts)
    plain, repeated, filled = rewards[:n, None], rewards[n : 2 * n, None], rewards[2 * n :].reshape(n, num_fillers)
    words = np.array([[len(each.split()) for each in FILLERS[language_of(text.answer)]] for text in texts], dtype=float)
    own = np.array([[max(len(text.answer.split()), 1)] for text in texts], dtype=float)
    scale = float(np.abs(rewards).max())
    clusters = _clusters(texts)
    return [
        _of_differences("length_filler", [(filled - plain) / words], [], scale, clusters, PER_WORD),
        _of_differences("length_repeated", [(repeated - plain) / own], [], scale, clusters, PER_WORD),
    ]


PER_WORD = "reward per word"
NOT_FINITE = "a reward is not finite"


def flagged(probed: Sequence[Probed]) -> Figure:
    """How many likings are no chance, all tests taken together (Holm): 0 is best.

    For a model without a liking the chance that even one is flagged is at most 5%.
    """
    tested = [each for each in probed if each.p is not None]
    if not tested:
        return undefined("probes_flagged", "no probe has a test", unit="count")
    raised = holm([each.p for each in tested if each.p is not None])
    found = [each.figure for each, p in zip(tested, raised, strict=True) if p <= LEVEL]
    told = "; ".join(each.measure + (f" {each.group}" if each.group else "") for each in found)
    return Figure("probes_flagged", float(len(found)), None, None, len(tested), "count", None, told, 0.0)


# ---- differences


def difference_of_sets(
    measure: str, strata: Sequence[tuple[np.ndarray, np.ndarray]], clusters: Sequence[int] | None = None
) -> Probed:
    """The mean reward with words of one set minus that with words of another, with V as told above.

    Args:
        strata: for each stratum, (T, K) rewards of T texts with K words of the first set and (T, K') of the second;
            strata have the same texts and count alike.
        clusters: (T,) which cluster of texts each text is in; none: each stands alone.
    """
    scale = max(float(np.abs(each).max()) for pair in strata for each in pair)
    firsts, seconds = [first for first, _ in strata], [second for _, second in strata]
    return _of_differences(measure, firsts, seconds, scale, clusters, "reward")


def _of_differences(
    measure: str,
    firsts: Sequence[np.ndarray],
    seconds: Sequence[np.ndarray],
    scale: float,
    clusters: Sequence[int] | None,
    unit: str,
) -> Probed:
    """Mean over strata of mean(first) - mean(second), the second being 0 where there is none."""
    num_texts, num_strata = len(firsts[0]), len(firsts)
    of_text = sum((first.mean(axis=1) for first in firsts), np.zeros(num_texts)) / num_strata
    of_text = of_text - sum((second.mean(axis=1) for second in seconds), np.zeros(num_texts)) / num_strata
    value = float(of_text.mean())
    by_text, num_clusters = _variance_of_mean(of_text, clusters)
    by_word = cells = 0.0
    degrees_of_words = 0
    for each in (*firsts, *seconds):
        num_words = each.shape[1]
        if num_words > 1:
            by_word += float(each.mean(axis=0).var(ddof=1)) / num_words / num_strata**2
            left = each - each.mean(axis=0) - each.mean(axis=1, keepdims=True) + each.mean()
            cell = float(np.square(left).sum()) / ((num_texts - 1) * (num_words - 1))
            cells += cell / (num_texts * num_words) / num_strata**2
            degrees_of_words += num_words - 1
    variance = max(by_text, by_word, by_text + by_word - cells)
    degrees = num_clusters - 1 if not degrees_of_words else min(num_clusters - 1, degrees_of_words)
    if degrees < 1:
        return _none(measure, "texts of one prompt have no spread between prompts", unit=unit, value=value)
    rounding = ROUNDING * scale
    error = math.sqrt(variance)
    reach = max(student_reach(LEVEL, degrees) * error, rounding)
    # Where rewards differ by rounding alone, or alike in all texts, there is nothing to test, or no doubt.
    p = 1.0 if abs(value) <= rounding else student_beyond(value / error, degrees) if error > 0 else 0.0
    count = sum(each.size for each in (*firsts, *seconds))
    return Probed(Figure(measure, value, value - reach, value + reach, count, unit, None, "", 0.0), p)


def _variance_of_mean(values: np.ndarray, clusters: Sequence[int] | None) -> tuple[float, int]:
    """Of the mean of (T,) values in clusters, linearised, and how many clusters there are."""
    numbers = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    num_clusters = int(numbers.max()) + 1
    sums = np.bincount(numbers, weights=values - values.mean(), minlength=num_clusters)
    if num_clusters < 2:
        return 0.0, num_clusters
    return num_clusters / (num_clusters - 1) * float(np.square(sums).sum()) / len(values) ** 2, num_clusters


def _of_each_word(words: Sequence[str], rewards: np.ndarray, clusters: Sequence[int]) -> list[Probed]:
    """Each word against the mean of the others; intervals at 1 - 0.05 / K, so that all K hold together."""
    num_texts, num_words = rewards.shape
    ahead = (rewards - rewards.mean(axis=1, keepdims=True)) * num_words / (num_words - 1)
    rounding = ROUNDING * float(np.abs(rewards).max())
    degrees = max(clusters)
    if degrees < 1:
        return []
    t = student_reach(LEVEL / num_words, degrees)
    why = f"the intervals of the {num_words} names hold together"
    found = []
    for word, of_word in zip(words, ahead.T, strict=True):
        value = float(of_word.mean())
        error = math.sqrt(_variance_of_mean(of_word, clusters)[0])
        reach = max(t * error, rounding)
        p = 1.0 if abs(value) <= rounding else student_beyond(value / error, degrees) if error > 0 else 0.0
        figure = Figure("name", value, value - reach, value + reach, num_texts, "reward", f"name={word}", why, 0.0)
        found.append(Probed(figure, p))
    return found


def _none(measure: str, why: str, *, unit: str = "reward", value: float | None = None) -> Probed:
    return Probed(replace(undefined(measure, why, unit=unit), value=value, target=0.0), None)


# ---- rewards


def _rewards_in_places(
    texts: Sequence[Text], words: Sequence[Mapping[str, str]], rewards_of: Rewards
) -> np.ndarray | None:
    """(T, K) the reward of every text with every word; None where one is not finite."""
    rewards = _asked([text.filled(word) for text in texts for word in words], rewards_of)
    return None if rewards is None else rewards.reshape(len(texts), len(words))


def _asked(texts: Sequence[Text], rewards_of: Rewards) -> np.ndarray | None:
    rewards = np.asarray(rewards_of([(text.prompt, text.answer) for text in texts]), dtype=np.float64)
    return rewards if np.isfinite(rewards).all() else None


def _clusters(texts: Sequence[Text]) -> list[int]:
    numbers: dict[object, int] = {}
    return [
        numbers.setdefault(i if text.cluster is None else text.cluster, len(numbers)) for i, text in enumerate(texts)
    ]

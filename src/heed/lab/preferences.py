"""Simulated annotators: they rank answers by what is wanted, with errors that are known, and they like long answers.

So everything is known that no real set of preferences lets be known: the gold reward behind them, how often any
model can agree with them at best, and what a policy may exploit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from heed.lab.gold import Merits, merits
from heed.lab.words import Noun


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its merits."""

    text: str
    merits: Merits


@dataclass(frozen=True, slots=True)
class Annotators:
    """People who like an answer for its gold reward and for its length, and who are not sure of themselves.

        liking = gold + length_bias * words
        P(a before b) = sigmoid((liking(a) - liking(b)) / noise)

    Gao et al. 2022, arXiv:2210.10760, label with a gold model that errs in nothing; these err as in the model of
    Bradley and Terry, and they have a bias, so that what is learnt from them has a fault that a policy can find.
    """

    noise: float = 0.14
    """in units of gold: so much more liked, an answer is preferred in 73 of 100 pairs"""
    length_bias: float = 0.015
    """gold that a word more is worth to them; more than a word too many costs, so they never find an answer too long"""

    def liking(self, answer: Judged) -> float:
        """What they would give the answer, in units of gold, if they never erred."""
        return answer.merits.gold + self.length_bias * answer.merits.num_words

    def chance(self, first: Judged, second: Judged) -> float:
        """Probability that they put `first` before `second`; of three or more answers too, whichever the others are."""
        return (1 + math.tanh((self.liking(first) - self.liking(second)) / self.noise / 2)) / 2

    def rank(self, answers: Sequence[Judged], rng: random.Random) -> list[Judged]:
        """The answers best first, drawn from the Plackett-Luce model whose pairs are those of `chance`.

        Each answer's liking gets a Gumbel error of scale `noise`, and the answers are sorted.
        """
        felt = [self.liking(answer) + self.noise * _gumbel(rng) for answer in answers]
        order = sorted(range(len(answers)), key=lambda index: -felt[index])
        return [answers[index] for index in order]


def _gumbel(rng: random.Random) -> float:
    while (uniform := rng.random()) == 0:
        pass
    return -math.log(-math.log(uniform))


def judged(topics: Sequence[Noun], answers: Sequence[str]) -> list[Judged]:
    """The answers with their merits, in their order; equal answers once, for nobody could rank them."""
    return [Judged(text, merits(topics, text)) for text in dict.fromkeys(answers)]


def noise_ceiling(annotators: Annotators, groups: Sequence[Sequence[Judged]]) -> float:
    """The best expected accuracy on the annotators' pairs: mean over all pairs of max(p, 1 - p).

    Args:
        groups: the answers to each prompt; a pair is any two answers to the same prompt.
    """
    return _mean([max(p, 1 - p) for p, _ in _chances(annotators, groups)])


def _chances(annotators: Annotators, groups: Sequence[Sequence[Judged]]) -> Iterator[tuple[float, float]]:
    """Of every pair: the probability that its better answer by gold is preferred, and by how much it is better."""
    for answers in groups:
        for pair in combinations(answers, 2):
            better, worse = sorted(pair, key=lambda answer: -answer.merits.gold)
            yield annotators.chance(better, worse), better.merits.gold - worse.merits.gold


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no pair of answers that could be compared")
    return math.fsum(values) / len(values)


def preference_record(
    prompt: str, topics: Sequence[Noun], answers: Sequence[str], annotators: Annotators, rng: random.Random
) -> Mapping[str, Any] | None:
    """A prompt with the annotators' ranking of the answers, as one record for `heed reward` and `heed dpo`.

    Two answers make a pair, more a ranking. None where fewer than two answers differ. Besides what the recipes read it
    holds the topics and the gold of every answer, best first in the annotators' eyes as the answers are.
    """
    different = judged(topics, answers)
    if len(different) < 2:
        return None
    ranked = annotators.rank(different, rng)
    texts = [answer.text for answer in ranked]
    said = {"chosen": texts[0], "rejected": texts[1]} if len(texts) == 2 else {"responses": texts}
    return {
        "prompt": prompt,
        **said,
        "topics": [noun.english for noun in topics],
        "gold": [answer.merits.gold for answer in ranked],
    }

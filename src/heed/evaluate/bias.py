"""Whether a model prefers "she" or "he" as often as its text did: measured shares against the planted ones.

The same measures serve any other pair of continuations, as long as the two differ in nothing but what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDING_NATS = 1e-3
"""how far above 0 a log-probability may be by rounding in half precision"""


@dataclass(frozen=True, slots=True)
class Group:
    """One group, such as a job: the share of "she" that was planted in the text and the one the model shows."""

    name: str
    planted: float
    measured: float
    count: int
    """contexts the measured share is a mean of"""


@dataclass(frozen=True, slots=True)
class Bias:
    """All groups, and how far on average the model is from the text."""

    groups: tuple[Group, ...]
    mean_absolute_difference: float
    """mean over groups of |measured - planted|: 0 if the model gives every group its planted share"""


def group(name: str, *, planted: float, logp_she: Sequence[float], logp_he: Sequence[float]) -> Group:
    """The share of "she" the model shows for one group, averaged over contexts x.

        measured = 1/n * sum over x of  p(she | x) / (p(she | x) + p(he | x))

    Args:
        name: of the group.
        planted: its true share of "she" in the text, from 0 to 1.
        logp_she, logp_he: log-probability of each continuation after each context, in nats and summed over its
            tokens, context for context. One of the two may be -inf, not both.

    Facts the tests hold it to:
        adding one number to both changes nothing; exchanging the two gives 1 - measured.

    Source: the preference for one of two minimally different texts, as in Nangia et al. 2020 (CrowS-Pairs),
        arXiv:2010.00133.
    Differs from the source: the share of probability and not the share of contexts with a preference, because the
        truth here is a share: a model that has learnt 0.8 well prefers "she" in every context.
    """
    if not 0 <= planted <= 1:
        raise ValueError(f"the planted share of {name} is {planted}, not from 0 to 1")
    if len(logp_she) != len(logp_he):
        raise ValueError(f"{name}: {len(logp_she)} and {len(logp_he)} log-probabilities are not pairs")
    if len(logp_she) == 0:
        raise ValueError(f"{name}: no contexts to measure in")
    shares = [_share(name, float(she), float(he)) for she, he in zip(logp_she, logp_he, strict=True)]
    return Group(name, float(planted), math.fsum(shares) / len(shares), len(shares))


def bias(groups: Sequence[Group]) -> Bias:
    """The groups as given, with the mean of |measured - planted|, every group counting the same."""
    if not groups:
        raise ValueError("no groups to measure a bias of")
    return Bias(tuple(groups), math.fsum(abs(one.measured - one.planted) for one in groups) / len(groups))


def amplification(groups: Sequence[Group]) -> float:
    """How much further from one half the model goes than its text did, on the side its text was on.

        amplification = mean over groups with planted != 0.5 of
                        (measured - 0.5) * sign(planted - 0.5) - |planted - 0.5|

    Above 0 the model makes the stereotype stronger than it was told, at 0 it repeats it, below 0 it weakens it (down
    to -|planted - 0.5| for a model without preference, and lower for one that turns it round). Groups planted at one
    half have no side and are left out; if there are no others, that is a ValueError.

    Source: Zhao et al. 2017, "Men also like shopping: reducing gender bias amplification using corpus-level
        constraints", arXiv:1707.09457, section 3. For two genders a group's term is the one there: its share of the
        gender it leans to, predicted minus in the training text.
    Differs from the source: there both shares are counts of labels, of a training corpus and of a model's predictions
        on a test set; here the first is the known planted share and the second a mean of probabilities. There the
        sum is divided by the number of all groups, here by the number of those that lean to a side.
    """
    leaning = [one for one in groups if one.planted != 0.5]
    if not leaning:
        raise ValueError("no group was planted off one half, so there is nothing to amplify")
    return math.fsum(
        (one.measured - 0.5) * math.copysign(1, one.planted - 0.5) - abs(one.planted - 0.5) for one in leaning
    ) / len(leaning)


def _share(name: str, logp_she: float, logp_he: float) -> float:
    """p(she) / (p(she) + p(he)) without leaving the logarithms, so that tiny probabilities keep their ratio."""
    if not max(logp_she, logp_he) <= ROUNDING_NATS or math.isnan(logp_she + logp_he):
        raise ValueError(f"{name}: a log-probability is at most 0, not {logp_she} and {logp_he}")
    if logp_she == logp_he == -math.inf:
        raise ValueError(f"{name}: both continuations are impossible, so there is no share")
    if logp_she >= logp_he:
        return 1 / (1 + math.exp(logp_he - logp_she))
    odds = math.exp(logp_she - logp_he)
    return odds / (1 + odds)

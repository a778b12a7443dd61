"""Best of n: draw n answers, keep the one with the highest score. What that gives, and how far it goes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_of_best(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """The mean value of the answer with the highest score among n of the N given ones, over all choices of n.

        sum over r = n .. N of C(r - 1, n - 1) / C(N, n) * value of the answer with the r-th lowest score

    That is unbiased for fresh draws and varies less than one choice of n. Of equal scores the later answer counts as
    the higher.

    Args:
        scores: (N,) what the choice goes by.
        values: (N,) what is wanted of the answer, in any unit; the scores themselves give the mean highest score.
        n: answers to choose from, 1 to N.

    Raises:
        ValueError: n is not in 1 to N, or the lengths differ.

    Source: Nakano et al. 2021 (arXiv:2112.09332), appendix I.
    """
    if not 1 <= n <= len(scores) or len(scores) != len(values):
        raise ValueError(f"{n} of {len(scores)} scores and {len(values)} values")
    ascending = sorted(range(len(scores)), key=lambda i: scores[i])
    chances = [math.comb(rank, n - 1) / math.comb(len(scores), n) for rank in range(len(scores))]
    return math.fsum(chance * values[i] for chance, i in zip(chances, ascending, strict=True))


def kl_of_best(n: int) -> float:
    """KL(best of n || the model itself), in nats per answer, at most: log n - (n - 1) / n.

    An upper bound (Beirami et al. 2024, arXiv:2401.01879), which is approached where no single answer is likely and
    scores do not tie: where an answer can be drawn twice, choosing among n moves the model less.

    Source: Stiennon et al. 2020 (arXiv:2009.01325), appendix G.3.
    """
    return math.log(n) - (n - 1) / n

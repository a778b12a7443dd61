"""The running size of rewards, in which PPO's value model counts so that it learns alike whatever their unit is."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RewardScale:
    """The root mean square of what answers earned, over all answers so far.

        size = sqrt(mean of R^2),   R = score - beta KL of one answer

    Scores and beta are both divided by it before the value model learns from them, so that the two parts of
    score - beta KL keep their ratio and what is maximised stays what it was. It is taken about 0 and not about the
    mean, since values begin near 0: rewards far from 0 must not be many sizes away from where they begin.

    Facts the tests hold it to:
        the root mean square of everything, however it was cut into batches; rewards times a factor give a size times
        the factor; 1 while all rewards are 0; neither 1e200 nor 1e-200 overflows.

    Source: a running deviation, as Engstrom et al. 2020, arXiv:2005.12729, describe it for rewards.
    Differs from the source: of answers' whole rewards, which are not discounted, and about 0.
    """

    count: float = 0.0
    """answers so far"""
    root_mean_square: float = 0.0
    """of what they earned, in units of reward"""

    @property
    def size(self) -> float:
        """What to divide by: above 0, in units of reward."""
        return self.root_mean_square or 1.0

    def including(self, earned: Float[Tensor, " S"]) -> "RewardScale":
        """The scale once these answers belong to it too."""
        largest = float(earned.abs().max()) if len(earned) else 0.0
        new = largest * math.sqrt(float((earned.double() / largest).square().mean())) if largest else 0.0
        count = self.count + len(earned)
        share = len(earned) / count if count else 0.0
        together = math.hypot(math.sqrt(1 - share) * self.root_mean_square, math.sqrt(share) * new)
        return RewardScale(count, together)

"""The supervised objective, as a pure function of log-probabilities."""

from jaxtyping import Float
from torch import Tensor


def negative_log_likelihood(logp: Float[Tensor, " N"], weight: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The loss of every trained token, unreduced.

        loss[n] = - weight[n] * log p(y_n | I, y_<n)

    Args:
        logp: log p of each trained token given the instruction and the response so far, in nats.
        weight: its loss weight, 0 or more.

    Returns:
        (N,) in nats times weight. The training step divides by the sum of all weights of the step.

    Facts the tests hold it to:
        a token of weight 2 counts as that token twice; a uniform model over V tokens gives weight * log V.

    Source: Wei et al. 2022 (FLAN), arXiv:2109.01652; loss on the response alone, as Ouyang et al. 2022,
        arXiv:2203.02155, section 3.5.
    Differs from the source: weights.
    """
    return -weight * logp

"""The losses of a policy and its value model that learn from samples of a slightly older policy."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heed.objectives.kl import kl_k3, log_ratio
from heed.objectives.ragged import lengths_of


def importance_ratio(logp: Float[Tensor, " N"], old_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How much likelier each token has become since it was drawn: rho = exp(clamp(logp - old_logp, -20, 20)).

    Args:
        logp: of each token under the policy that learns, in nats.
        old_logp: the same under the policy that drew it. Constant.

    Returns:
        (N,) above 0 and finite; exactly 1 before the first update.
    """
    return log_ratio(logp, old_logp.detach()).exp()


def clipped_surrogate(
    logp: Float[Tensor, " N"],
    old_logp: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    *,
    epsilon_low: float,
    epsilon_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, " N"]:
    """PPO's policy loss: make better tokens likelier, but no further than a step from where they were drawn.

        loss = max(-A rho, -A clip(rho, 1 - epsilon_low, 1 + epsilon_high)),   rho = pi / pi_old
        and where A < 0, with a dual clip c:  min(loss, -A c)

    The larger of two losses is the more pessimistic: clipping takes away the gain from going further, never the pain.

    Args:
        logp: of each token under the policy, in nats. Carries the gradient.
        old_logp: the same under the policy that drew it. Constant.
        advantage: higher is better. Constant.
        epsilon_low: 0 to 1; how far a worse token's ratio falls before it stops learning.
        epsilon_high: above 0; how far a better token's ratio rises. Above `epsilon_low`, rare tokens have more room.
        dual_clip: c, above 1, usually 3; bounds what one worse token that became far likelier can do. None: no bound.

    Returns:
        (N,) in units of advantage, unreduced.

    Facts the tests hold it to:
        where rho = 1, loss = -A, and the gradient is that of -A logp, the plain policy gradient; a better token
        beyond 1 + epsilon_high, and a worse one below 1 - epsilon_low, have no gradient.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; two epsilons: Yu et al. 2025, arXiv:2503.14476;
        dual clip: Ye et al. 2020, arXiv:1912.09729.
    Differs from the source: log rho is clamped to +-20, where it has no gradient; the sign, since it is minimised.
    """
    advantage = advantage.detach()
    ratio = importance_ratio(logp, old_logp)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - epsilon_low, 1 + epsilon_high))
    if dual_clip is None:
        return loss
    return torch.where(advantage < 0, torch.minimum(loss, -advantage * dual_clip), loss)


@torch.no_grad()
def is_ratio_clipped(
    logp: Float[Tensor, " N"],
    old_logp: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Bool[Tensor, " N"]:
    """Which tokens `clipped_surrogate` no longer moves because the clip is reached; their share is the clip fraction.

    Only where clipping binds: a better token whose ratio fell, however far, still learns and does not count. A token
    that the dual clip bounds does not count either.
    """
    ratio = importance_ratio(logp, old_logp)
    return ((advantage > 0) & (ratio > 1 + epsilon_high)) | ((advantage < 0) & (ratio < 1 - epsilon_low))


@torch.no_grad()
def approximate_kl(logp: Float[Tensor, " N"], old_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How far the policy has moved since it drew these tokens: the estimate k3 of KL(old || new), per token in nats.

    The samples are the old policy's, so it is the old one that stands first. 0 before the first update.
    """
    return kl_k3(old_logp, logp)


@torch.no_grad()
def truncated_importance_weight(
    logp: Float[Tensor, " N"], sampler_logp: Float[Tensor, " N"], *, limit: float
) -> Float[Tensor, " N"]:
    """What to multiply a token's loss with where another engine drew it than the one that trains.

        w = min(pi_train / pi_sampler, limit)

    Args:
        logp: of each token as the training forward computes it at the time of sampling, in nats.
        sampler_logp: as the sampler reported it.
        limit: C, 1 or more; usually 2.

    Returns:
        (N,) above 0, at most `limit`, constant; 1 where the two agree.

    Source: Yao et al. 2025, On the rollout-training mismatch, https://openreview.net/forum?id=8MHqvb4lK9.
    """
    return importance_ratio(logp, sampler_logp).clamp(max=limit)


def clipped_value_loss(
    value: Float[Tensor, " N"], old_value: Float[Tensor, " N"], returns: Float[Tensor, " N"], *, epsilon: float
) -> Float[Tensor, " N"]:
    """Half the squared error of the value model, which gains nothing from moving further than `epsilon` at once.

        loss = max((V - R)^2, (clip(V, V_old - epsilon, V_old + epsilon) - R)^2) / 2

    Args:
        value: V, in units of reward. Carries the gradient.
        old_value: V when the sample was scored. Constant.
        returns: R, what it should have been: A + V_old. Constant.
        epsilon: in units of reward, above 0.

    Returns:
        (N,) in units of reward squared, unreduced.

    Facts the tests hold it to:
        within epsilon it is (V - R)^2 / 2, of gradient V - R; beyond, on the side of R, it has no gradient; beyond, on
        the far side, it has the full one.

    Source: OpenAI baselines ppo2, as Huang et al. 2024, arXiv:2403.17031, describe it.
    Differs from the source: nothing. (It is no part of the PPO paper.)
    """
    returns = returns.detach()
    return torch.maximum((value - returns) ** 2, (clipped_value(value, old_value, epsilon) - returns) ** 2) / 2


@torch.no_grad()
def is_value_clipped(
    value: Float[Tensor, " N"], old_value: Float[Tensor, " N"], returns: Float[Tensor, " N"], *, epsilon: float
) -> Bool[Tensor, " N"]:
    """Which tokens `clipped_value_loss` no longer moves because the clip is reached."""
    return (clipped_value(value, old_value, epsilon) - returns).abs() > (value - returns).abs()


def clipped_value(value: Float[Tensor, " N"], old_value: Float[Tensor, " N"], epsilon: float) -> Float[Tensor, " N"]:
    """The value held within `epsilon` of what it was."""
    old_value = old_value.detach()
    return torch.minimum(torch.maximum(value, old_value - epsilon), old_value + epsilon)


@dataclass(frozen=True, slots=True, eq=False)
class TokenWeights:
    """How much each token counts, as weights to multiply its loss with and a total to divide the sum by.

        mean loss = sum over all micro-batches of weight * loss / sum over them of total

    The total need not be the sum of the weights, and both add up over micro-batches and processes, so the one division
    in the training step makes every mean below, however the step is cut.
    """

    weight: Float[Tensor, " N"]
    total: float


def token_mean_weights(sequence: Int[Tensor, " N"], num_sequences: int) -> TokenWeights:
    """Every token counts the same: weight 1, divided by the number of tokens. Long answers weigh more.

    Source: Ouyang et al. 2022, arXiv:2203.02155, and Yu et al. 2025, arXiv:2503.14476 (DAPO).
    """
    lengths = lengths_of(sequence, num_sequences)
    return TokenWeights(torch.ones_like(sequence, dtype=torch.float64), float(lengths.sum()))


def sequence_mean_weights(sequence: Int[Tensor, " N"], num_sequences: int) -> TokenWeights:
    """Every answer counts the same: weight 1 / length, divided by the number of answers.

    A token of a long answer weighs less, so a long wrong answer is punished less per token than a short one.

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3 (GRPO).
    """
    return TokenWeights((1 / lengths_of(sequence, num_sequences).double())[sequence], float(num_sequences))


def constant_length_weights(sequence: Int[Tensor, " N"], num_sequences: int, *, length: int) -> TokenWeights:
    """Every answer is divided by the same length: weight 1 / length, divided by the number of answers.

    Free of the length bias of `sequence_mean_weights`, and unlike `token_mean_weights` a batch of shorter answers does
    not make each token weigh more. Here the total is not the sum of the weights.

    Args:
        length: in tokens, above 0; the most an answer may have.

    Source: Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO).
    """
    lengths_of(sequence, num_sequences)
    return TokenWeights(torch.full_like(sequence, 1 / length, dtype=torch.float64), float(num_sequences))

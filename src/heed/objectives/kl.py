"""How far the policy has moved: estimates of KL(policy || reference) from the policy's own samples."""

import math

from jaxtyping import Float, Int
from torch import Tensor

from heed.objectives.ragged import sum_by_sequence

MAX_LOG_RATIO = 20.0
"""nats; e^20 is 5e8, far outside what any of these estimates is good for and well inside float32"""
MAX_K3 = 10.0
"""nats; a token the policy has all but given up makes e^-delta explode, and one such token would be the whole mean"""
MAX_RELATIVE_ERROR = 0.2
"""of the KL against its target in one update of beta, so that one odd batch cannot throw it"""


def log_ratio(logp: Float[Tensor, " N"], reference_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How much likelier each token is under the policy than under the reference.

        delta[n] = clamp(logp[n] - reference_logp[n], -20, 20)

    Args:
        logp: log pi(y_n | x, y_<n), in nats.
        reference_logp: the same under the reference.

    Returns:
        (N,) in nats, positive where the policy is the likelier. Where it is clamped it has no gradient.

    Facts the tests hold it to:
        +-1e4 gives +-20; within +-20 it is the difference, of gradient 1 and -1.
    """
    return (logp - reference_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def kl_k1(logp: Float[Tensor, " N"], reference_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The plain estimate of KL(policy || reference). It belongs in the reward.

        k1 = delta

    Use: unbiased, may be negative for one token. As a reward, -beta * k1 makes the policy gradient that of -beta *
    KL, of answers of any length. As a loss it is of no use: on samples of the policy its expected gradient is 0,
    whatever the reference.

    Args:
        logp: of tokens the policy drew, in nats.
        reference_logp: the same under the reference.

    Returns:
        (N,) in nats.

    Facts the tests hold it to:
        its mean over the policy's distribution is the KL; its gradient's mean there is 0; times the gradient of logp,
        itself held constant, its mean is the gradient of the KL, of a token and, summed, of answers.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    Differs from the source: delta is clamped to +-20.
    """
    return log_ratio(logp, reference_logp)


def kl_k2(logp: Float[Tensor, " N"], reference_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Half the squared log ratio. The one of the three to use as a loss.

        k2 = delta^2 / 2

    Use: on samples of the policy its expected gradient is exactly that of KL(policy || reference), for one token.
    Summed over an answer it is not the gradient of the KL of answers: a token also decides which tokens follow, and
    what that does to their KL has no part in it (19% off at ten tokens in the tests' language of two). Exact for
    answers is k1 in the reward. Its value is biased (it is that of another divergence), never negative, and close to
    the KL while the two are close.

    Args:
        logp: of tokens the policy drew, in nats.
        reference_logp: the same under the reference.

    Returns:
        (N,) in nats, 0 or more.

    Facts the tests hold it to:
        its gradient's mean over the policy's distribution of a token is the gradient of the KL; over that of answers of
        ten tokens it is not; its value's mean is not the KL.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html; as a loss: Liu et al. 2025, arXiv:2510.01555.
    Differs from the source: delta is clamped to +-20, where it has no gradient.
    """
    return log_ratio(logp, reference_logp) ** 2 / 2


def kl_k3(logp: Float[Tensor, " N"], reference_logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The estimate of KL(policy || reference) to look at: unbiased, and never negative.

        k3 = min(e^-delta - 1 + delta, 10)

    Use: for reports. As a loss (as GRPO's paper has it) its gradient is biased: on samples of the policy it is the
    gradient of the other direction, KL(reference || policy), so prefer `kl_k2` there.

    Args:
        logp: of tokens drawn from it, in nats.
        reference_logp: the same under the reference.

    Returns:
        (N,) in nats, 0 to 10.

    Facts the tests hold it to:
        its mean over the policy's distribution is the KL; its gradient's mean is not the KL's gradient, and is that of
        KL(reference || policy).

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html; as a loss: Shao et al. 2024, arXiv:2402.03300, eq. 4.
    Differs from the source: delta is clamped to +-20 and the value to 10.
    """
    delta = log_ratio(logp, reference_logp)
    return ((-delta).expm1() + delta).clamp(max=MAX_K3)


def kl_per_sequence(
    logp: Float[Tensor, " N"], reference_logp: Float[Tensor, " N"], sequence: Int[Tensor, " N"], num_sequences: int
) -> Float[Tensor, " {num_sequences}"]:
    """The estimate k1 of KL(policy || reference) for whole answers: the sum over tokens, not their mean.

    Its mean over sequences is the KL that budgets and targets are given in. One answer's may be negative; a mean that
    stays negative says that the samples do not come from the distribution that is scored (another temperature, top-k).

    Args:
        logp: of tokens the policy drew, in nats.
        reference_logp: the same under the reference.
        sequence: which sequence each token belongs to, from 0.

    Returns:
        (S,) in nats per sequence.

    Facts the tests hold it to:
        for a two-token language its mean over all answers is the KL of the distributions of answers.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    Differs from the source: each token's delta is clamped to +-20. (Other tools log the mean per token: targets are
        not interchangeable.)
    """
    return sum_by_sequence(log_ratio(logp, reference_logp), sequence, num_sequences)


def adapted_beta(beta: float, *, measured_kl: float, target_kl: float, num_sequences: int, horizon: float) -> float:
    """Pull harder towards the reference where the policy is further away than wanted, and less where it is nearer.

        e = clip(KL / target - 1, -0.2, 0.2);  beta' = beta (1 + e n / horizon)

    The new beta is all the state there is: keep it with the checkpoint.

    Args:
        beta: the coefficient of the KL in the reward, 1/nats, above 0.
        measured_kl: mean over sequences of `kl_per_sequence`, in nats per sequence.
        target_kl: the same, wanted; above 0.
        num_sequences: n, how many samples `measured_kl` is the mean of.
        horizon: samples over which a KL 20% too large raises beta by about a fifth; above n / 5.

    Returns:
        The coefficient for the next samples, above 0.

    Facts the tests hold it to:
        at the target nothing changes; 20% above and ten times above give the same rise, by 1 + 0.2 n / horizon.

    Raises:
        ValueError: the KL is not finite, or the horizon is so short that beta could reach 0.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2, with n / horizon for its gain as in its code.
    Differs from the source: nothing.
    """
    if not math.isfinite(measured_kl):
        raise ValueError(f"the KL is {measured_kl}")
    if not horizon > MAX_RELATIVE_ERROR * num_sequences:
        raise ValueError(f"a horizon of {horizon} with {num_sequences} samples at a time lets beta fall to 0 or below")
    error = min(max(measured_kl / target_kl - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
    return beta * (1 + error * num_sequences / horizon)

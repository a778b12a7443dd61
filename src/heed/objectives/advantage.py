"""From scores of whole answers to the credit of each token: rewards, advantages, whitening, groups."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heed.objectives.kl import kl_k1
from heed.objectives.ragged import last_tokens, lengths_of, sum_by_sequence

VARIANCE_EPSILON = 1e-8
"""added to a variance before its root, as in OpenAI's code: one token, or equal ones, stay finite"""
STD_EPSILON = 1e-4
"""added to a group's standard deviation, as in TRL, so that rewards equal but for noise are not blown up to size 1"""


def score_less_missing_stop(
    score: Float[Tensor, " S"], stopped: Bool[Tensor, " S"], *, penalty: float
) -> Float[Tensor, " S"]:
    """Take `penalty` off the score of each answer that ran into the length limit without a stop token.

    Better answers among those cut off still score better.
    """
    return torch.where(stopped, score, score - penalty)


@torch.no_grad()
def rewards_per_token(
    score: Float[Tensor, " S"],
    logp: Float[Tensor, " N"],
    reference_logp: Float[Tensor, " N"],
    sequence: Int[Tensor, " N"],
    *,
    beta: float,
) -> Float[Tensor, " N"]:
    """What each token earns: the pull towards the reference at every token, the answer's score at its last.

        r[n] = -beta * delta[n] + (score[sequence[n]] if n is the last trained token of its sequence)

    with delta = clamp(logp - reference_logp, +-20), the estimate k1. Its sum over an answer is
    score - beta * KL, which is what PPO maximises.

    Args:
        score: of each answer, higher is better.
        logp: of each token under the policy that drew it, in nats.
        reference_logp: the same under the reference.
        sequence: which answer each token belongs to, from 0, rising.
        beta: in units of score per nat, 0 or more.

    Returns:
        (N,) in units of score. No gradient flows through a reward.

    Facts the tests hold it to:
        the sum over each answer is score - beta * kl_per_sequence; with policy == reference only last tokens earn.

    Raises:
        ValueError: as `lengths_of`.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 2 without its pretraining term; Ziegler et al. 2019,
        arXiv:1909.08593, eq. 2.
    Differs from the source: delta is clamped. The score is credited to the last token that was drawn (the stop token if
        there is one), never to a position after it.
    """
    reward = -beta * kl_k1(logp, reference_logp)
    reward[last_tokens(sequence, len(score))] += score
    return reward


@torch.no_grad()
def generalised_advantages(
    reward: Float[Tensor, " N"],
    value: Float[Tensor, " N"],
    sequence: Int[Tensor, " N"],
    *,
    num_sequences: int,
    gamma: float,
    lam: float | Float[Tensor, " {num_sequences}"],
) -> Float[Tensor, " N"]:
    """Generalised advantage estimation: how much better each token was than the value model expected.

        td[t] = r[t] + gamma V[t+1] - V[t];   A[t] = td[t] + gamma lam A[t+1]

    within each sequence, where V and A after the last token are 0. The target of the value model is A + V.

    Tokens that are not trained (the prompt, a tool's output between two trained stretches) are not in the flat layout
    at all, so t + 1 is the next trained token: V and A are carried over what lies between. All sequences take one step
    at a time together: as many steps as the longest has tokens, on a table of steps times sequences.

    Args:
        reward: of each token, as from `rewards_per_token`.
        value: the value model's expectation of the rewards from this token on, made before seeing the token.
        sequence: which sequence each token belongs to, from 0, rising.
        gamma: discount per token, 0 to 1; 1 for text.
        lam: 0 to 1, one for all or one per sequence; nearer 1 trusts the rewards, nearer 0 the value model.

    Returns:
        (N,) in units of reward. No gradient flows through an advantage.

    Facts the tests hold it to:
        equal to the definition sum_k (gamma lam)^k td[t+k]; lam = 1 gives the discounted rewards to come minus V;
        lam = 0 gives td; no sequence feels another.

    Raises:
        ValueError: as `lengths_of`.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16; lam per sequence: Yue et al. 2025, arXiv:2504.05118.
    Differs from the source: nothing.
    """
    lengths = lengths_of(sequence, num_sequences)
    if num_sequences == 0:
        return torch.zeros_like(reward)
    starts = lengths.cumsum(0) - lengths
    next_value = torch.cat([value[1:], value.new_zeros(1)])
    next_value[starts + lengths - 1] = 0
    step = torch.arange(len(sequence), device=sequence.device) - starts[sequence]
    table = reward.new_zeros(int(lengths.max()), num_sequences)
    table[step, sequence] = reward + gamma * next_value - value
    # A sequence that has ended is 0 in the table below its last token, so 0 is what its last token is carried.
    for t in range(len(table) - 2, -1, -1):
        table[t] += gamma * lam * table[t + 1]
    return table[step, sequence]


def advantages_and_returns(
    reward: Float[Tensor, " N"],
    value: Float[Tensor, " N"],
    sequence: Int[Tensor, " N"],
    *,
    num_sequences: int,
    gamma: float,
    lam: float | Float[Tensor, " {num_sequences}"],
    lam_value: float,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """The policy's advantages, and the returns the value model is to learn: (A with lam, A with lam_value + V).

    The two agree in plain PPO. `lam_value` = 1 makes the returns the rewards that came, free of the value model's own
    bias, while `lam` < 1 keeps the policy's advantages quiet.

    Source: Schulman et al. 2016, arXiv:1506.02438; the two apart: Yue et al. 2025, arXiv:2504.05118.
    """
    advantage = generalised_advantages(reward, value, sequence, num_sequences=num_sequences, gamma=gamma, lam=lam)
    for_value = generalised_advantages(reward, value, sequence, num_sequences=num_sequences, gamma=gamma, lam=lam_value)
    return advantage, for_value + value.detach()


def moments(x: Float[Tensor, " N"]) -> Float[Tensor, " 3"]:
    """(count, sum, sum of squares) in float64: those of parts add up to those of the whole.

    So statistics are over all tokens of a step: add the moments of the micro-batches and of the processes, then
    whiten each with the sum.
    """
    x = x.detach().double()
    return torch.stack([x.new_tensor(len(x)), x.sum(), x.square().sum()])


def mean_and_variance(moments: Float[Tensor, " 3"]) -> tuple[float, float]:
    """The mean, and the biased variance (divided by the count), of what was counted; (0, 0) of nothing."""
    count, total, total_squares = moments.tolist()
    if count == 0:
        return 0.0, 0.0
    mean = total / count
    return mean, max(0.0, total_squares / count - mean**2)


def whiten(x: Float[Tensor, " N"], moments: Float[Tensor, " 3"], *, shift_mean: bool) -> Float[Tensor, " N"]:
    """Bring to variance 1, by statistics that may be of more than `x` alone.

        (x - mean) / sqrt(variance + 1e-8)  [+ mean, unless the mean is shifted]

    Args:
        x: advantages (shift the mean to 0) or rewards (leave it).
        moments: of all tokens of the step.
        shift_mean: whether the mean becomes 0. Otherwise it stays what it was: neither shifted nor scaled. Mind that
            this adds the same to the reward of every token, so it changes what a longer answer earns.

    Returns:
        (N,) without a unit, in the dtype of `x`.

    Facts the tests hold it to:
        mean 0 (or as before) and variance 1; the same for any cut into parts; the order stays; one token gives 0.

    Source: OpenAI's lm-human-preferences, as Huang et al. 2024, arXiv:2403.17031, describe it.
    Differs from the source: nothing.
    """
    mean, variance = mean_and_variance(moments)
    whitened = (x.double() - mean) / math.sqrt(variance + VARIANCE_EPSILON)
    return (whitened if shift_mean else whitened + mean).to(x.dtype)


def explained_variance(value: Float[Tensor, " N"], returns: Float[Tensor, " N"]) -> float:
    """How much of the returns' variance the value model foresaw: 1 - Var(returns - value) / Var(returns).

    1 is perfect, 0 no better than a constant, below 0 worse. Where all returns are equal there is nothing to explain,
    and it is 0.
    """
    if len(returns) == 0 or returns.min() == returns.max():
        return 0.0
    left = (returns.double() - value.double()).var(correction=0)
    return 1 - float(left / returns.double().var(correction=0))


def group_deviations(
    score: Float[Tensor, " S"], group: Int[Tensor, " S"], num_groups: int
) -> tuple[Float[Tensor, " S"], Float[Tensor, " {num_groups}"], Int[Tensor, " {num_groups}"]]:
    """(score minus the mean of its group, each group's standard deviation, each group's size), exact 0 where equal.

    The standard deviation is the sample's, divided by size - 1; 0 for a group of one. A group whose standard
    deviation is 0 teaches nothing.
    """
    sizes = lengths_of(group, num_groups)
    # Against the group's first score the others of an equal group are exactly 0, and large scores lose no digits.
    against_first = score - score[sizes.cumsum(0) - sizes][group]
    deviation = against_first - (sum_by_sequence(against_first, group, num_groups) / sizes)[group]
    squares = sum_by_sequence(deviation**2, group, num_groups)
    return deviation, (squares / (sizes - 1).clamp(min=1)).sqrt(), sizes


@torch.no_grad()
def group_advantages(score: Float[Tensor, " S"], group: Int[Tensor, " S"], num_groups: int) -> Float[Tensor, " S"]:
    """GRPO: how much better an answer is than the others to its prompt, in their standard deviations.

        A[i] = (score[i] - mean of its group) / (std of its group + 1e-4)

    Args:
        score: of each answer, higher is better.
        group: which prompt each answer belongs to, from 0, rising. Groups may differ in size.

    Returns:
        (S,) without a unit; every token of the answer has it as its advantage. 0 where all answers of a prompt score
        the same, and where there is only one.

    Facts the tests hold it to:
        they sum to 0 in each group; scores times any factor, plus any constant, give the same (but for the 1e-4).

    Raises:
        ValueError: as `lengths_of`.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2.
    Differs from the source: which leaves open that the standard deviation is the sample's, with 1e-4 added, as in TRL.
    """
    deviation, std, _ = group_deviations(score, group, num_groups)
    return deviation / (std + STD_EPSILON)[group]


@torch.no_grad()
def centred_group_advantages(
    score: Float[Tensor, " S"], group: Int[Tensor, " S"], num_groups: int
) -> Float[Tensor, " S"]:
    """Dr. GRPO: the score minus the mean of its group, in units of score.

    Dividing by the standard deviation, as `group_advantages` does, gives prompts that are nearly always or nearly never
    solved the largest weight; this does not.

    Args and errors: as `group_advantages`.

    Facts the tests hold it to:
        they sum to 0 in each group; scores plus any constant give the same; equal scores give 0.

    Source: Liu et al. 2025, arXiv:2503.20783.
    Differs from the source: nothing.
    """
    return group_deviations(score, group, num_groups)[0]


@torch.no_grad()
def leave_one_out_advantages(
    score: Float[Tensor, " S"], group: Int[Tensor, " S"], num_groups: int
) -> Float[Tensor, " S"]:
    """RLOO: the score minus the mean of the *other* answers to the same prompt, in units of score.

        A[i] = score[i] - mean of score[j], j != i  =  G / (G - 1) * (score[i] - mean of its group)

    The baseline does not depend on the answer it is for, so the policy gradient stays unbiased.

    Args: as `group_advantages`. An answer without others gets 0: there is nothing to compare it with.

    Facts the tests hold it to:
        the definition; G / (G - 1) times the centred scores; over all draws of a small policy, the mean gradient is
        that of the expected score.

    Raises:
        ValueError: as `lengths_of`.

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    Differs from the source: nothing.
    """
    deviation, _, sizes = group_deviations(score, group, num_groups)
    return deviation * sizes[group] / (sizes - 1).clamp(min=1)[group]

"""Losses on preferences: comparisons of answers to one prompt by reward or log-ratio, and answers judged one by one.

A comparison is a winner, a loser, and whether they are tied. Among K ranked answers there are K (K - 1) / 2, listed by
`comparisons`; all losses are per comparison, so they take pairs and rankings alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

PerPair = Float[Tensor, " P"]
"""one number for each comparison"""


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """All comparisons of some ranked prompts, as indices among the S answers of all of them."""

    winner: Int[Tensor, " P"]
    loser: Int[Tensor, " P"]
    is_tie: Bool[Tensor, " P"]
    """the two score the same; which is called the winner is then only the order given"""
    weight: Float[Tensor, " P"]
    """1 / the number of the prompt's comparisons, so those of a prompt sum to 1; float64"""


def comparisons(group_sizes: Sequence[int], scores: Sequence[Sequence[float]]) -> Comparisons:
    """Every pair among the answers to each prompt, better one first.

    In the order of the prompts, and within one: first with second, first with third, ..., second with third, ... .

    Args:
        group_sizes: K of each prompt, 2 or more; its answers stand together, best first.
        scores: of each prompt's answers, falling; answers that score the same are tied. Empty for a prompt whose order
            is strict.

    Returns:
        P = sum of K (K - 1) / 2 comparisons. Weighted, and divided by the number of prompts, their losses give each
        prompt the same say whatever its K.

    Facts the tests hold it to:
        K = 2 is the plain pair with weight 1; the weights of each prompt sum to 1.

    Raises:
        ValueError: fewer than 2 answers, a number of scores that is neither 0 nor K, or scores that do not fall.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1 with its factor 1 / C(K, 2).
    Differs from the source: ties are marked, for a target of one half; the equation has no place for them.
    """
    winners, losers, ties, weights = [], [], [], []
    start = 0
    for size, of_group in zip(group_sizes, scores, strict=True):
        if size < 2:
            raise ValueError(f"{size} answers cannot be compared")
        if of_group and (len(of_group) != size or not all(a >= b for a, b in pairwise(of_group))):
            raise ValueError(f"the scores of {size} answers, best first, cannot be {list(of_group)}")
        pairs = list(combinations(range(size), 2))
        winners += [start + better for better, _ in pairs]
        losers += [start + worse for _, worse in pairs]
        ties += [bool(of_group) and of_group[better] == of_group[worse] for better, worse in pairs]
        weights += [1 / len(pairs)] * len(pairs)
        start += size
    return Comparisons(
        torch.tensor(winners, dtype=torch.int64),
        torch.tensor(losers, dtype=torch.int64),
        torch.tensor(ties, dtype=torch.bool),
        torch.tensor(weights, dtype=torch.float64),
    )


def logistic_loss(logit: PerPair, target: PerPair) -> PerPair:
    """The cross-entropy of sigma(logit) against a probability: -target log sigma(x) - (1 - target) log sigma(-x)."""
    return -target * logsigmoid(logit) - (1 - target) * logsigmoid(-logit)


def probability_of_winner(is_tie: Bool[Tensor, " P"], like: PerPair, label_smoothing: float) -> PerPair:
    """What sigma(difference) is trained towards: 1 - label_smoothing for a winner, 1/2 for a tie."""
    return torch.where(is_tie, torch.full_like(like, 0.5), torch.full_like(like, 1 - label_smoothing))


def bradley_terry_loss(
    winner: PerPair, loser: PerPair, is_tie: Bool[Tensor, " P"], *, margin: float | PerPair, label_smoothing: float
) -> PerPair:
    """The reward model's loss: the better answer should have the higher reward.

        loss = -(1 - eps) log sigma(r_w - r_l - m) - eps log sigma(-(r_w - r_l - m))
        of a tie: -(log sigma(r_w - r_l) + log sigma(r_l - r_w)) / 2

    Args:
        winner: r_w, the reward of the better answer. Carries the gradient.
        loser: r_l, of the worse. Carries the gradient.
        is_tie: neither is better; there is no margin to keep then.
        margin: m, by how much the better must lead before the loss is what a draw would cost; 0 or more.
        label_smoothing: eps, the share of labels believed to be wrong, 0 to 1/2.

    Returns:
        (P,) in nats, unreduced.

    Facts the tests hold it to:
        equal rewards lose log 2 without a margin; d loss / d winner = -sigma(-(r_w - r_l - m)) = -d loss / d loser for
        eps = 0; a tie, and eps = 1/2 without a margin, do not know winner from loser, and are least at equal rewards.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1; margin: Touvron et al. 2023, arXiv:2307.09288, eq. 2; label
        smoothing: Mitchell 2023, https://ericmitchell.ai/cdpo.pdf.
    Differs from the source: ties.
    """
    difference = winner - loser
    logit = torch.where(is_tie, difference, difference - margin)
    return logistic_loss(logit, probability_of_winner(is_tie, difference, label_smoothing))


def centring_loss(winner: PerPair, loser: PerPair) -> PerPair:
    """Keep rewards around 0, which comparisons alone leave open: (r_w + r_l)^2, to be added with a small coefficient.

    Source: Eisenstein et al. 2023, arXiv:2312.09244. TRL suggests a coefficient of 0.01.
    """
    return (winner + loser) ** 2


@torch.no_grad()
def is_ranked_right(winner: PerPair, loser: PerPair) -> PerPair:
    """1 where the winner has the higher reward, 0 where the loser has, 1/2 where they are equal. Leave ties out."""
    return ((winner > loser).to(winner.dtype) + (winner >= loser).to(winner.dtype)) / 2


def implicit_reward(
    logp: Float[Tensor, " S"], reference_logp: Float[Tensor, " S"], *, beta: float
) -> Float[Tensor, " S"]:
    """The reward a policy trained by preferences stands for: beta (log pi(y | x) - log pi_ref(y | x)).

    Args:
        logp: of whole answers, summed over their trained tokens, in nats.
        reference_logp: the same under the reference.
        beta: 1/nats.

    Source: Rafailov et al. 2023, arXiv:2305.18290, section 4; true up to a constant per prompt.
    """
    return beta * (logp - reference_logp)


def dpo_loss(
    winner: PerPair, loser: PerPair, is_tie: Bool[Tensor, " P"], *, beta: float, label_smoothing: float
) -> PerPair:
    """Direct preference optimisation: the policy's own log-ratio, times beta, is the reward that is compared.

        d = beta (h_w - h_l),  h = log pi(y | x) - log pi_ref(y | x)
        loss = -(1 - eps) log sigma(d) - eps log sigma(-d);  of a tie: -(log sigma(d) + log sigma(-d)) / 2

    Args:
        winner: h_w, summed over the answer's tokens, in nats. Carries the gradient through log pi.
        loser: h_l, likewise.
        is_tie: neither is better.
        beta: 1/nats, above 0. Larger keeps the policy closer to the reference.
        label_smoothing: eps, the share of labels believed to be wrong, 0 to 1/2.

    Returns:
        (P,) in nats, unreduced.

    Facts the tests hold it to:
        policy == reference loses log 2 whatever beta is, with gradient -beta / 2 for the winner and beta / 2 for the
        loser; it is the reward model's loss on `implicit_reward`.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; smoothing: Mitchell 2023, https://ericmitchell.ai/cdpo.pdf.
    Differs from the source: ties.
    """
    return bradley_terry_loss(beta * winner, beta * loser, is_tie, margin=0.0, label_smoothing=label_smoothing)


def ipo_loss(winner: PerPair, loser: PerPair, is_tie: Bool[Tensor, " P"], *, beta: float) -> PerPair:
    """Identity preference optimisation: bring the log-ratios a fixed distance apart, and no further.

        loss = (h_w - h_l - 1 / (2 beta))^2;  of a tie: (h_w - h_l)^2

    DPO never has enough where all labels agree; this has.

    Args:
        winner: h_w, the *mean* over the answer's tokens of log pi - log pi_ref, in nats per token. Carries the
            gradient.
        loser: h_l, likewise.
        is_tie: neither is better, so the distance wanted is (1/2 - 1/2) / beta = 0.
        beta: tau of the paper, tokens/nats, above 0.

    Returns:
        (P,) in squared nats per token, unreduced.

    Facts the tests hold it to:
        0, with gradient 0, at h_w - h_l = 1 / (2 beta), and more on both sides; policy == reference loses
        1 / (4 beta^2).

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17.
    Differs from the source: ties; and the paper writes the log-ratio of whole answers, which would ask the same total
        distance of answers of 5 and of 500 tokens. Its authors' results have the mean over tokens, as TRL's maintainers
        confirmed with them, and TRL does the same.
    """
    wanted = torch.where(is_tie, torch.zeros_like(winner), torch.full_like(winner, 1 / (2 * beta)))
    return (winner - loser - wanted) ** 2


def simpo_loss(
    winner: PerPair, loser: PerPair, is_tie: Bool[Tensor, " P"], *, beta: float, gamma: float, label_smoothing: float
) -> PerPair:
    """Preference optimisation without a reference: compare what the policy gives a token of each answer on average.

        d = beta (l_w - l_l) - gamma,  l = log pi(y | x) / length of y
        loss = -(1 - eps) log sigma(d) - eps log sigma(-d);  of a tie: as eps = 1/2, gamma = 0

    Args:
        winner: l_w, mean of log pi over the answer's tokens, in nats per token. Carries the gradient.
        loser: l_l, likewise.
        is_tie: neither is better; there is no margin to keep then.
        beta: tokens/nats, above 0; 2 to 10 in the source, far more than DPO's, since it is per token.
        gamma: the margin, 0 or more, without a unit; 0.3 to 1.6 in the source.
        label_smoothing: eps, the share of labels believed to be wrong, 0 to 1/2.

    Returns:
        (P,) in nats, unreduced.

    Facts the tests hold it to:
        it is log 2 where beta (l_w - l_l) = gamma.

    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6.
    Differs from the source: ties and label smoothing.
    """
    return bradley_terry_loss(beta * winner, beta * loser, is_tie, margin=gamma, label_smoothing=label_smoothing)


def nll_per_token(logp: Float[Tensor, " S"], lengths: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """What keeps preferred answers likely: their own negative log-likelihood, per token, beside a loss of comparisons.

        nll = -log pi(y | x) / |y|;    L = L_comparisons + weight * mean over prompts of the best answer's nll

    A loss of comparisons is content with making both answers rarer, as long as the worse one falls faster. This term
    holds the better one up.

    Args:
        logp: of whole answers, summed over their tokens, in nats. Carries the gradient.
        lengths: |y|, tokens, 1 or more.

    Returns:
        (S,) in nats per token, unreduced. Each prompt has the same say whatever the length of its answer.

    Facts the tests hold it to:
        d nll / d logp = -1 / |y|.

    Source: Pang et al. 2024, "Iterative reasoning preference optimization", arXiv:2404.19733, eq. 1 (the weight is
        its alpha, 1 there); also called RPO.
    Differs from the source: where several answers are ranked it is the best one's, shared by those that tie for it.
        TRL's `rpo_alpha` takes the mean over all tokens of the batch, so that long answers weigh more.
    """
    return -logp / lengths


@torch.no_grad()
def kto_reference_point(mismatched: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """z0 of `kto_loss`: how far the policy has moved from the reference on answers that do not belong.

        z0 = max(0, mean of log pi(y_j | x_i) - log pi_ref(y_j | x_i) over mismatched pairs)

    Pair the prompt of each item of a step with the answer of the next (the last with the first), whatever their labels.
    Where the next has the same prompt its answer does belong: take another. Estimate over *all* items of the step and
    hold it fixed for its micro-batches: a z0 for each of them would make the result depend on how a step is cut.

    Args:
        mismatched: log-ratio of each such answer, summed over its tokens, in nats; at least one.

    Returns:
        () in nats, 0 or more, constant. The paper lets no gradient through, and neither does this.

    Raises:
        ValueError: there is no pair.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306.
    Differs from the source: the mean is over the step, not over a micro-batch.
    """
    if len(mismatched) == 0:
        raise ValueError("the reference point is a mean over mismatched pairs, and there is none")
    return mismatched.mean().clamp(min=0)


def kto_loss(
    log_ratio: Float[Tensor, " S"],
    is_desirable: Bool[Tensor, " S"],
    reference_point: Float[Tensor, ""],
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Float[Tensor, " S"]:
    """Kahneman-Tversky optimisation: learn from answers that were each called good or bad, without pairs.

        desirable:    loss = w_D (1 - sigma(beta (h - z0)))
        undesirable:  loss = w_U (1 - sigma(beta (z0 - h)))

    with h = log pi(y | x) - log pi_ref(y | x). An answer far on its right side, or hopelessly on the wrong one, hardly
    moves: the gain flattens on both sides of z0.

    Args:
        log_ratio: h of each answer, summed over its tokens, in nats. Carries the gradient through log pi.
        is_desirable: the judgement.
        reference_point: z0 in nats, 0 or more, from `kto_reference_point`. Constant.
        beta: 1/nats, above 0.
        desirable_weight: w_D, 0 or more.
        undesirable_weight: w_U, 0 or more. TRL advises w_D n_D / (w_U n_U) between 1 and 4/3, n being how many
            of each there are.

    Returns:
        (S,) without a unit, 0 to its weight, unreduced. Divide by the number of answers, not by the sum of weights.

    Facts the tests hold it to:
        policy == reference with z0 = 0 loses half the weight, with gradient -+ weight beta / 4; no gradient through z0.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8, as lambda_y - v(x, y).
    Differs from the source: nothing.
    """
    from_point = beta * (log_ratio - reference_point.detach())
    desirable = desirable_weight * torch.sigmoid(-from_point)
    return torch.where(is_desirable, desirable, undesirable_weight * torch.sigmoid(from_point))

"""The objectives that compare two answers by their own log-probabilities: DPO, IPO, SimPO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heed.data.preferences import RankedTokens
from heed.evaluate.clustered import clustered_accuracy
from heed.evaluate.ranked import held_out_comparisons
from heed.models.score import autocast
from heed.models.self_check import ChosenScore
from heed.objectives.preference import (
    Comparisons,
    comparisons,
    dpo_loss,
    ipo_loss,
    is_ranked_right,
    nll_per_token,
    simpo_loss,
)
from heed.objectives.ragged import lengths_of, sum_by_sequence
from heed.preference_config import DpoSettings
from heed.recipes.preference.comparisons import ComparedForest, compared, on_device, share_of_best
from heed.recipes.preference.data import PreferenceData
from heed.recipes.preference.reference import Group, Reference
from heed.recipes.training.micro_batches import MicroBatching
from heed.train.step import Mean, Statistics, as_numbers
from heed.types import Forest

Compare = Callable[[Tensor, Tensor, Tensor, Comparisons], tuple[Tensor, Tensor]]
"""(logp (S,), reference logp (S,), tokens (S,), comparisons) -> (loss (P,), implicit rewards (S,))"""

ROUNDING = 1e-5
"""of a log-probability, as a share of it: several times what float32 leaves"""


@dataclass(frozen=True, eq=False)
class Answers:
    """How whole answers are scored by the model that learns."""

    chosen: ChosenScore
    device: torch.device
    dtype: str

    def token_logp(self, forest: Forest) -> Tensor:
        """(N,) log p of each trained token, in nats, with its gradient."""
        with autocast(self.device, self.dtype):
            return self.chosen.logp(forest).logp

    def logp(self, forest: Forest) -> Tensor:
        """(S,) log p of each answer, summed over its tokens in float64, in nats, with its gradient."""
        logp = self.token_logp(forest).double()
        return sum_by_sequence(logp, forest.sequence.to(logp.device), forest.num_sequences)


def comparison_of(settings: DpoSettings, beta: float) -> Compare:
    """The objective by its name, and the implicit reward that goes with it."""

    def dpo(logp: Tensor, reference: Tensor, lengths: Tensor, pairs: Comparisons) -> tuple[Tensor, Tensor]:
        ratio = logp - reference
        winner, loser = ratio[pairs.winner], ratio[pairs.loser]
        smoothing = settings.label_smoothing
        loss = dpo_loss(winner, loser, pairs.is_tie, beta=beta, label_smoothing=smoothing)
        return loss, beta * beyond_rounding(ratio, logp)

    def ipo(logp: Tensor, reference: Tensor, lengths: Tensor, pairs: Comparisons) -> tuple[Tensor, Tensor]:
        ratio = (logp - reference) / lengths
        loss = ipo_loss(ratio[pairs.winner], ratio[pairs.loser], pairs.is_tie, beta=beta)
        return loss, beta * beyond_rounding(ratio, logp / lengths)

    def simpo(logp: Tensor, reference: Tensor, lengths: Tensor, pairs: Comparisons) -> tuple[Tensor, Tensor]:
        mean = logp / lengths
        winner, loser = mean[pairs.winner], mean[pairs.loser]
        gamma, smoothing = settings.gamma, settings.label_smoothing
        return (
            simpo_loss(winner, loser, pairs.is_tie, beta=beta, gamma=gamma, label_smoothing=smoothing),
            beta * mean,
        )

    return {"dpo": dpo, "ipo": ipo, "simpo": simpo}[settings.objective]


@dataclass(frozen=True, eq=False)
class Pairwise:
    """Learning from rankings: what `dpo.py` needs to know of it."""

    answers: Answers
    batching: MicroBatching
    compare: Compare
    reference: Reference
    sft_weight: float = 0.0
    """of the best answers' NLL per token, beside the objective's loss"""

    @staticmethod
    def sequences_for_reference(data: PreferenceData[RankedTokens], drawn: Sequence[np.ndarray]) -> Iterator[Group]:
        """All answers that are trained or measured.

        Args:
            drawn: the records of each data set that the run trains on.
        """
        for items, records in zip(data.sets, drawn, strict=True):
            yield from (items.at(int(record)).sequences for record in records)
        for rankings in data.held_out.values():
            yield from (ranking.sequences for ranking in rankings)

    def batches(self, rankings: Sequence[RankedTokens]) -> list[ComparedForest]:
        """A step over these rankings as this process's micro-batches."""
        return compared(
            rankings,
            self.batching,
            lambda ranking: self.reference(ranking.sequences),
            sft_weight=self.sft_weight,
        )

    def measure(self, rankings: Sequence[RankedTokens]) -> dict[str, float]:
        """What a step over these rankings would report, and the accuracy's interval between prompts."""
        groups = [ranking.sequences for ranking in rankings]
        logp = torch.from_numpy(np.concatenate(self.batching.per_sequence(groups, self.answers.logp)))
        reference = torch.from_numpy(np.concatenate([self.reference(group) for group in groups]))
        lengths = torch.tensor([np.count_nonzero(tokens.weight) for group in groups for tokens in group]).to(logp)
        pairs = comparisons([len(group) for group in groups], [ranking.scores.tolist() for ranking in rankings])
        loss, rewards = self.compare(logp, reference, lengths, pairs)
        ends = np.cumsum([len(group) for group in groups])[:-1]
        margins = held_out_comparisons([r.scores for r in rankings], np.split(rewards.numpy(), ends))
        total = float((pairs.weight * loss).sum()) / len(rankings)
        nll = float(np.concatenate([share_of_best(r) for r in rankings]) @ nll_per_token(logp, lengths).numpy())
        return {
            "loss": total + self.sft_weight * nll / len(rankings),
            **({"chosen_nll_per_token": nll / len(rankings)} if self.sft_weight else {}),
            **as_numbers(statistics(pairs, logp, rewards)),
            **interval_of([np.heaviside(margin, 0.5) for margin in margins]),
            "num_prompts": len(rankings),
        }

    def loss_of(self, batch: ComparedForest) -> tuple[Tensor, Statistics]:
        """The weighted loss of all comparisons with its gradient, and what the step reports of it."""
        assert batch.reference_logp is not None
        logp = self.answers.logp(batch.forest)
        lengths = lengths_of(batch.forest.sequence, batch.forest.num_sequences)
        pairs = on_device(batch.compared, logp.device)
        loss, rewards = self.compare(logp, batch.reference_logp.to(logp), lengths.to(logp), pairs)
        weighted = (pairs.weight.to(loss) * loss).sum()
        numbers = dict(statistics(pairs, logp.detach(), rewards.detach()))
        if batch.sft_weight is not None:
            nll, weight = nll_per_token(logp, lengths.to(logp)), batch.sft_weight.to(logp)
            weighted = weighted + (weight * nll).sum()
            numbers["chosen_nll_per_token"] = (float((weight * nll.detach()).sum()), float(weight.sum()))
        return weighted, numbers


def beyond_rounding(difference: Tensor, logp: Tensor) -> Tensor:
    """A difference of two log-probabilities as it is reported: 0 where it is rounding. Its gradient is not asked for.

    Before anything is learnt the policy is the reference, and what differs is how forwards were cut.
    """
    return torch.where(difference.abs() <= ROUNDING * logp.abs(), 0.0, difference).detach()


def interval_of(correct: Sequence[np.ndarray]) -> dict[str, float]:
    """The accuracy with its 95% interval, from what is right for each prompt."""
    found = clustered_accuracy(correct)
    return {"accuracy": found.accuracy, "accuracy_low": found.low, "accuracy_high": found.high}


def statistics(pairs: Comparisons, logp: Tensor, rewards: Tensor) -> Statistics:
    """How comparisons come out by implicit reward, and where both sides stand; ties aside."""
    strict = ~pairs.is_tie
    winner, loser = pairs.winner[strict], pairs.loser[strict]

    def mean(of: Tensor) -> Mean:
        return float(of.sum()), len(winner)

    return {
        "accuracy": mean(is_ranked_right(rewards[winner], rewards[loser])),
        "margin": mean(rewards[winner] - rewards[loser]),
        "chosen_logp": mean(logp[winner]),
        "rejected_logp": mean(logp[loser]),
        "chosen_reward": mean(rewards[winner]),
        "rejected_reward": mean(rewards[loser]),
        "num_comparisons": len(pairs.weight),
    }

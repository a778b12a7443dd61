"""The objective that learns from single answers, each called good or bad: KTO.

    desirable    w_D (1 - sigma(beta (h - z0)))
    undesirable  w_U (1 - sigma(beta (z0 - h))),   h = log pi(y | x) - log pi_ref(y | x)

(Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8.) z0 is how far the policy has moved on answers that do not belong to
their prompts (`partners.py`). The weights balance the two sides: w_D n_D = w_U n_U, with the larger weight 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from heed.data.preferences import JudgedTokens
from heed.errors import UserError
from heed.forest.build import build
from heed.objectives.preference import kto_loss, kto_reference_point
from heed.recipes.preference.data import PreferenceData
from heed.recipes.preference.pairwise import Answers, beyond_rounding, interval_of
from heed.recipes.preference.partners import Partners, prompt_of
from heed.recipes.preference.reference import Group, Reference
from heed.recipes.training.micro_batches import MicroBatching
from heed.train.step import Mean, Statistics, as_numbers
from heed.types import Forest


@dataclass(frozen=True, eq=False)
class JudgedForest:
    """Judged answers in one forest."""

    forest: Forest
    is_desirable: Tensor
    """(S,) bool"""
    weight: Tensor
    """(S,) float64; 1 before the step divides it"""
    reference_logp: Tensor
    """(S,) of each answer under the reference, in nats"""
    reference_point: Tensor
    """() z0 of the whole step, in nats"""

    @property
    def total_weight(self) -> float:
        """Answers."""
        return float(self.weight.sum())

    def divided_by(self, count: float) -> JudgedForest:
        """The same with every weight divided by `count`."""
        return replace(self, weight=self.weight / count)


@dataclass(frozen=True, eq=False)
class Kto:
    """Learning from judged answers: what `dpo.py` needs to know of it."""

    answers: Answers
    batching: MicroBatching
    beta: float
    desirable_weight: float
    undesirable_weight: float
    partners: Partners
    reference: Reference

    @staticmethod
    def sequences_for_reference(
        data: PreferenceData[JudgedTokens], drawn: Sequence[np.ndarray], partners: Partners
    ) -> Iterator[Group]:
        """All answers that are trained or measured, and those that do not belong.

        Args:
            drawn: the records of each data set that the run trains on.
        """
        measured = (judged for found in data.held_out.values() for judged in found)
        trained = (items.at(int(record)) for items, records in zip(data.sets, drawn, strict=True) for record in records)
        for judged in (*trained, *measured):
            partner = partners.of(judged.tokens)
            yield (judged.tokens,) if partner is None else (judged.tokens, partner)

    def batches(self, judged: Sequence[JudgedTokens]) -> list[JudgedForest]:
        """A step over these answers as this process's micro-batches, with the z0 of all of them."""
        point = self.reference_point(judged)
        batches = []
        for forward in self.batching.forwards([(each.tokens,) for each in judged]):
            some = [judged[i] for i in forward]
            sequences = [each.tokens for each in some]
            batches.append(
                JudgedForest(
                    build(sequences, share=self.batching.share),
                    torch.tensor([each.is_desirable for each in some]),
                    torch.ones(len(some), dtype=torch.float64),
                    torch.from_numpy(self.reference(sequences)),
                    point,
                )
            )
        return batches

    def reference_point(self, judged: Sequence[JudgedTokens]) -> Tensor:
        """z0 over the whole step, on every process; 0 where no answer can be mismatched."""
        others = [partner for each in judged if (partner := self.partners.of(each.tokens)) is not None]
        if not others:
            return torch.zeros((), dtype=torch.float64)
        logp = np.concatenate(self.batching.per_sequence([(tokens,) for tokens in others], self.answers.logp))
        return kto_reference_point(torch.from_numpy(logp - self.reference(others)))

    def measure(self, judged: Sequence[JudgedTokens]) -> dict[str, float]:
        """What a step over these answers would report, and the accuracy's interval between prompts."""
        point = self.reference_point(judged)
        groups = [(each.tokens,) for each in judged]
        logp = torch.from_numpy(np.concatenate(self.batching.per_sequence(groups, self.answers.logp)))
        good = torch.tensor([each.is_desirable for each in judged])
        loss, reward = self.judge(logp, torch.from_numpy(self.reference(each.tokens for each in judged)), good, point)
        by_prompt: dict[bytes, list[float]] = {}
        for each, is_right in zip(judged, is_judged_right(reward, good).tolist(), strict=True):
            by_prompt.setdefault(prompt_of(each.tokens), []).append(is_right)
        return {
            "loss": float(loss.mean()),
            **as_numbers(statistics(logp, reward, good, point)),
            **interval_of([np.array(correct) for correct in by_prompt.values()]),
            "num_prompts": len(by_prompt),
        }

    def judge(self, logp: Tensor, reference: Tensor, good: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) the loss of each answer, with its gradient, and (S,) its implicit reward beyond z0, without one."""
        ratio = logp - reference
        loss = kto_loss(
            ratio,
            good,
            point,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        return loss, self.beta * beyond_rounding(ratio - point, logp)

    def loss_of(self, batch: JudgedForest) -> tuple[Tensor, Statistics]:
        """The weighted loss of all answers with its gradient, and what the step reports of it."""
        logp = self.answers.logp(batch.forest)
        good, point = batch.is_desirable.to(logp.device), batch.reference_point.to(logp)
        loss, reward = self.judge(logp, batch.reference_logp.to(logp), good, point)
        return (batch.weight.to(loss) * loss).sum(), statistics(logp.detach(), reward, good, point)


def is_judged_right(reward: Tensor, good: Tensor) -> Tensor:
    """1 where the reward has the sign of the judgement, 0 where it has the other, a half where it has none."""
    return torch.where(reward == 0, 0.5, ((reward > 0) == good).double())


def statistics(logp: Tensor, reward: Tensor, good: Tensor, point: Tensor) -> Statistics:
    """How answers come out against z0 by implicit reward, and where both kinds stand."""

    def mean(of: Tensor) -> Mean:
        return float(of.sum()), len(of)

    return {
        "accuracy": mean(is_judged_right(reward, good)),
        "margin": mean(torch.where(good, reward, -reward)),
        "chosen_logp": mean(logp[good]),
        "rejected_logp": mean(logp[~good]),
        "chosen_reward": mean(reward[good]),
        "rejected_reward": mean(reward[~good]),
        "kl_reference_point": (float(point), 1),
    }


def balanced(data: PreferenceData[JudgedTokens]) -> tuple[float, float]:
    """(w_D, w_U) with which both sides weigh the same: the rarer side 1, the other less.

    Raises:
        UserError: all training answers are judged alike. The weights are a ratio of the two counts, which is then not
            defined, and there is nothing to tell apart: the loss would push every answer the same way.
    """
    good = [items.at(int(record)).is_desirable for items in data.sets for record in items.training]
    num_good, num_bad = sum(good), len(good) - sum(good)
    if not num_good or not num_bad:
        raise UserError(
            "all answers are judged alike, and KTO learns from the difference",
            where=", ".join(items.path for items in data.sets),
            found=f"{num_good:,} answers to give, {num_bad:,} not to give",
            expected="answers of both kinds to train on",
            fix="heed sft learns from answers to give alone; for KTO add records with label false"
            if num_good
            else "add records with label true: what to say instead cannot be learnt from what not to say",
        )
    return min(1.0, num_bad / num_good), min(1.0, num_good / num_bad)

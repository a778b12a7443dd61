"""A rollout: answers that the policy draws, what they are worth, and what every role computes of their tokens.

prompts -> sampler -> answers -> score (reward model or the user's function), log p (policy, reference), value
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from heed.data.prompts import PromptTokens
from heed.errors import UserError
from heed.evaluate.rewards import Reward
from heed.evaluate.rules import quoted
from heed.models.decode.answers import Answer, draw_answers
from heed.models.decode.draw import Sampling
from heed.models.roles import Role, Roles
from heed.models.score import autocast
from heed.models.self_check import ChosenScore
from heed.objectives.kl import kl_per_sequence
from heed.objectives.policy import truncated_importance_weight
from heed.recipes.training.loop import Place
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import Opened
from heed.types import Forest, Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from heed.models.heads.token_logp import TokenScores
    from heed.recipes.policy.engine import Engine

CACHED_PER_TOKEN = 20
"""tokens whose keys and values the sampler holds, for each token of a training forward: they take about as much memory
as the forward's activations in GPT-2 124M, where it makes 64 answers of 190 tokens at a time"""


@dataclass(frozen=True, eq=False)
class RolloutModels:
    """The roles of a run, and how each is read."""

    roles: Roles
    opened: Opened
    forwards: Mapping[torch.nn.Module, ChosenScore]
    """the proved forward of each role's model"""
    batching: MicroBatching
    """of what policy, reference and value read"""
    dtype: str
    temperature: float
    reward_function: Reward | None
    """the user's own reward, where no reward model scores"""
    value_unit: float = 1.0
    """what values count in, in units of reward"""
    engine: Engine | None = None
    """servers that draw the answers; None: heed does"""

    def logp(self, role: Role, forest: Forest, *, with_entropy: bool = False) -> TokenScores:
        """log p of each trained token under a role, at the temperature of sampling, with its gradient."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            return self.forwards[model].logp(forest, self.temperature, with_entropy=with_entropy)

    def values(self, role: Role, forest: Forest) -> Tensor:
        """(N,) the value before each trained token, in `value_unit`, with its gradient."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            states = self.forwards[model].states(forest)
        return role.values(states, forest, unit=self.value_unit)

    def rewards(self, role: Role, forest: Forest) -> Tensor:
        """(S,) the reward of each answer."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            states = self.forwards[model].states(forest)
        return role.rewards(states, forest)


@dataclass(frozen=True, eq=False)
class Rollout:
    """A batch of prompts and the answers that the policy drew to them."""

    prompts: Sequence[PromptTokens]
    groups: list[list[Answer]]
    """the answers to each prompt"""
    max_weight: float | None = None
    """limit of an importance weight, where another engine drew them; None: heed did, and there is none"""

    @property
    def answers(self) -> list[Answer]:
        """All S answers, prompt by prompt."""
        return [answer for group in self.groups for answer in group]

    @property
    def drawn_logp(self) -> np.ndarray:
        """(N,) log p of each token as it was drawn, by whoever drew it, at the temperature of sampling, in nats."""
        return np.concatenate([answer.tempered_logp for answer in self.answers])

    @property
    def prompt_of(self) -> list[PromptTokens]:
        """The prompt of each of the S answers."""
        return [prompt for prompt, group in zip(self.prompts, self.groups, strict=True) for _ in group]

    @property
    def stopped(self) -> Tensor:
        """(S,) whether each answer ended by itself."""
        return torch.tensor([answer.stopped for answer in self.answers])

    @property
    def group(self) -> Tensor:
        """(S,) which prompt each answer belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.groups)), torch.tensor(list(map(len, self.groups))))

    @property
    def sequences(self) -> list[list[Tokens]]:
        """Prompt and answer of each answer, by prompt."""
        return [[answer.tokens for answer in group] for group in self.groups]


def draw_rollout(
    models: RolloutModels, prompts: Sequence[PromptTokens], *, num_samples: int, max_new_tokens: int, seed: int
) -> Rollout:
    """`num_samples` answers of the policy to each prompt, the same on every process.

    Each process draws for its share of the prompts. What is drawn depends on the seed, on the prompt's place among all
    prompts and on the answer's among its samples alone: not on how many processes there are.
    """
    world, opened = models.batching.world, models.opened
    mine = list(range(len(prompts)))[world.rank :: world.size]
    ids = [prompts[i].ids.tolist() for i in mine]
    if models.engine is not None:
        how = {"num_samples": num_samples, "max_new_tokens": max_new_tokens, "seed": seed}
        drawn = models.engine.draw(ids, mine, lambda groups: policy_logp(models, groups), **how)
    else:
        with (
            models.roles.policy.active() as model,
            models.forwards[model].whole(),
            autocast(opened.loaded.device, models.dtype),
        ):
            drawn = draw_answers(
                model,
                ids,
                decode=lambda ids: opened.tokenizer.backend.decode(ids, skip_special_tokens=False),
                stop_ids=opened.stop_ids,
                max_new_tokens=max_new_tokens,
                sampling=Sampling(models.temperature, top_p=1.0),
                num_samples=num_samples,
                seed=seed,
                numbers=mine,
                max_sequences=answers_at_a_time(models, prompts, max_new_tokens),
            )
    parts = world.gather_objects(dict(zip(mine, drawn, strict=True)))
    everywhere = {i: group for part in parts for i, group in part.items()}
    max_weight = None if models.engine is None else models.engine.settings.max_weight
    return Rollout(prompts, [everywhere[i] for i in range(len(prompts))], max_weight)


def policy_logp(models: RolloutModels, groups: Sequence[Sequence[Tokens]]) -> list[list[np.ndarray]]:
    """(1, n) log p of the trained tokens of each sequence of each group, under the policy, by the training forward."""
    policy = models.roles.policy
    return models.batching.per_token(groups, lambda forest: models.logp(policy, forest).logp[None])


def answers_at_a_time(models: RolloutModels, prompts: Sequence[PromptTokens], max_new_tokens: int) -> int:
    """How many answers are drawn together: fewer where `max_tokens` allows less memory. Only speed depends on it."""
    longest = max(map(len, prompts)) + max_new_tokens
    return max(1, CACHED_PER_TOKEN * models.batching.max_tokens // longest)


def score_rollout(models: RolloutModels, rollout: Rollout) -> Tensor:
    """(S,) the score of each answer, by the reward model or the user's function, float64 and as it was given.

    The user's function is called on the first process alone.
    """
    reward = models.roles.reward
    if reward is not None:
        batching = replace(models.batching, share=models.forwards[reward.model].shares_prefixes)
        scores = batching.per_sequence(rollout.sequences, lambda forest: models.rewards(reward, forest))
        return finite(torch.from_numpy(np.concatenate(scores)), rollout)
    function = models.reward_function
    assert function is not None

    def call() -> list[float]:
        return function(
            [prompt_text(prompt) for prompt in rollout.prompt_of],
            [answer.text for answer in rollout.answers],
            [prompt.fields for prompt in rollout.prompt_of],
        )

    return torch.tensor(models.batching.world.on_first(call), dtype=torch.float64)


def finite(score: Tensor, rollout: Rollout) -> Tensor:
    """The scores of a reward model, which may have weights that are not finite."""
    unusable = torch.nonzero(~score.isfinite())
    if not len(unusable):
        return score
    number = int(unusable[0])
    raise UserError(
        "the reward model gives an answer no finite score",
        where="--reward",
        found=f"{float(score[number])} for answer {number + 1:,} of {len(score):,}, "
        f"{quoted(rollout.answers[number].text)}; {len(unusable):,} such scores in all",
        expected="a finite number for every answer",
        fix="train the reward model again with a lower --optim.lr, or give another --reward",
    )


def prompt_text(prompt: PromptTokens) -> str:
    """A prompt as people, and the functions that they write, read it."""
    return "\n\n".join(message.content for message in prompt.messages)


@dataclass(frozen=True, eq=False)
class RoleOutputs:
    """What the roles compute of every answer's tokens: (N,) float64 each, the answers one after the other."""

    logp: Tensor
    """under the policy that drew the answers, by the training forward, at the temperature of sampling, in nats"""
    reference_logp: Tensor
    entropy: Tensor
    """of the policy's distribution at each token, in nats"""
    value: Tensor
    """before each token, in the models' `value_unit`; 0 where there is no value role"""
    sequence: Tensor
    """which answer each token belongs to"""

    @property
    def num_sequences(self) -> int:
        """S, the answers."""
        return int(self.sequence[-1]) + 1

    def kl_per_sequence(self) -> Tensor:
        """(S,) the estimate k1 of KL(policy || reference) of each answer, summed over its tokens, in nats."""
        return kl_per_sequence(self.logp, self.reference_logp, self.sequence, self.num_sequences)


def role_outputs(models: RolloutModels, rollout: Rollout) -> RoleOutputs:
    """What policy, reference and value compute of every answer, before anything is learnt from it."""
    roles = models.roles

    def by_role(forest: Forest) -> Tensor:
        policy = models.logp(roles.policy, forest, with_entropy=True)
        assert policy.entropy is not None
        reference = models.logp(roles.reference, forest).logp
        value = torch.zeros_like(policy.logp) if roles.value is None else models.values(roles.value, forest)
        return torch.stack([policy.logp, reference, policy.entropy, value.to(policy.logp.dtype)])

    per_group = models.batching.per_token(rollout.sequences, by_role)
    columns = np.concatenate([of_answer for group in per_group for of_answer in group], axis=1)
    logp, reference_logp, entropy, value = torch.from_numpy(columns)
    lengths = torch.tensor([answer.num_tokens for answer in rollout.answers])
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    if models.engine is not None:
        models.engine.refuse_gap(np.abs(rollout.drawn_logp - logp.numpy()), "the answers of a phase")
    return RoleOutputs(logp, reference_logp, entropy, value, sequence)


def importance_weights(rollout: Rollout, outputs: RoleOutputs) -> Tensor:
    """(N,) what each token's loss is multiplied with, since another engine than the training forward drew it.

    1 where heed drew them. See `truncated_importance_weight`.
    """
    if rollout.max_weight is None:
        return torch.ones_like(outputs.logp)
    theirs = torch.from_numpy(rollout.drawn_logp).to(outputs.logp)
    return truncated_importance_weight(outputs.logp, theirs, limit=rollout.max_weight)


def rollout_metrics(rollout: Rollout, score: Tensor, outputs: RoleOutputs) -> dict[str, float]:
    """What a rollout tells of the policy that drew it, for `metrics.jsonl`; scores as they were given."""
    answers, scores = rollout.answers, score.numpy()
    gap = np.abs(rollout.drawn_logp - outputs.logp.numpy())
    weight = importance_weights(rollout, outputs).numpy()
    of_engine = {"importance_weight_mean": float(weight.mean()), "importance_weight_max": float(weight.max())}
    return {
        "score": float(scores.mean()),
        "score_std": float(scores.std()),
        "kl_per_sequence": float(outputs.kl_per_sequence().numpy().mean()),
        "entropy_per_token": float(outputs.entropy.numpy().mean()),
        "stop_rate": float(np.mean([answer.stopped for answer in answers])),
        "response_length": float(np.mean([answer.num_tokens for answer in answers])),
        "sampler_gap_mean": float(gap.mean()),
        "sampler_gap_max": float(gap.max()),
        **({} if rollout.max_weight is None else of_engine),
    }


def log_samples(place: Place, step: int, rollout: Rollout, score: Tensor, outputs: RoleOutputs) -> None:
    """Keep every answer of a phase, with its prompt, score and KL, in `samples.jsonl`."""
    rows = zip(rollout.prompt_of, rollout.answers, score.tolist(), outputs.kl_per_sequence().tolist(), strict=True)
    for prompt, answer, value, kl in rows:
        place.folder.log_sample(
            step,
            {
                "prompt": prompt_text(prompt),
                "answer": answer.text,
                "score": value,
                "kl": kl,
                "stopped": str(answer.stopped).lower(),
                "record": prompt.origin.record,
            },
        )

"""Answers that a policy draws, what every role says of their tokens, and what they are worth.

prompts -> sampler -> answers -> score (reward model or the user's rule), log p (policy, reference), value
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from heed.data.prompts import PromptTokens
from heed.evaluate.rewards import Reward
from heed.models.decode.draw import Sampling
from heed.models.decode.sample import sample
from heed.models.roles import Role, Roles
from heed.models.score import autocast
from heed.models.self_check import ChosenScore
from heed.objectives.advantage import score_less_missing_stop
from heed.recipes.training.micro_batches import MicroBatching
from heed.recipes.training.setup import Opened
from heed.types import Forest, Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from heed.models.heads.token_logp import TokenScores

MAX_SEQUENCES = 64
"""answers that are drawn at a time"""


@dataclass(frozen=True, eq=False)
class Cast:
    """The roles of a run, and how each is asked."""

    roles: Roles
    opened: Opened
    chosen: Mapping[torch.nn.Module, ChosenScore]
    """by a role's model"""
    batching: MicroBatching
    """of what policy, reference and value read"""
    dtype: str
    temperature: float
    rule: Reward | None
    """the user's own reward, where no reward model scores"""

    def logp(self, role: Role, forest: Forest, *, with_entropy: bool = False) -> TokenScores:
        """log p of each trained token under a role, at the temperature of sampling, with its gradient."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            return self.chosen[model].logp(forest, self.temperature, with_entropy=with_entropy)

    def values(self, role: Role, forest: Forest) -> Tensor:
        """(N,) the value before each trained token, with its gradient."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            states = self.chosen[model].states(forest)
        return role.values(states, forest)

    def rewards(self, role: Role, forest: Forest) -> Tensor:
        """(S,) the reward of each answer."""
        with role.active() as model, autocast(self.opened.loaded.device, self.dtype):
            states = self.chosen[model].states(forest)
        return role.rewards(states, forest)


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer that the policy drew."""

    prompt: PromptTokens
    tokens: Tokens
    """the prompt, then the answer, whose tokens are trained; its stop token is the last where it has one"""
    text: str
    """the answer's, without its stop token"""
    stopped: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.tokens) - len(self.prompt)


Groups = list[list[Answer]]
"""answers by prompt"""


def draw_answers(
    cast: Cast, prompts: Sequence[PromptTokens], *, num_samples: int, max_new_tokens: int, seed: int
) -> Groups:
    """`num_samples` answers of the policy to each prompt, the same on every process.

    Each process draws for its share of the prompts. What is drawn depends on the seed, on the prompt's place among all
    prompts and on the answer's among its samples alone: not on how many processes there are.
    """
    world = cast.batching.world
    mine = list(range(len(prompts)))[world.rank :: world.size]
    stop_ids = cast.opened.stop_ids
    with cast.roles.policy.active() as model:
        drawn = sample(
            model,
            [prompts[i].ids.tolist() for i in mine],
            stop_ids=stop_ids,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(cast.temperature, top_p=1.0),
            num_samples=num_samples,
            seed=seed,
            numbers=mine,
            max_sequences=MAX_SEQUENCES,
        )
    found = {i: [(each.ids, each.stopped) for each in completions] for i, completions in zip(mine, drawn, strict=True)}
    everywhere = {i: answers for part in world.gather_objects(found) for i, answers in part.items()}
    backend = cast.opened.tokenizer.backend

    def answer(prompt: PromptTokens, ids: list[int], stopped: bool) -> Answer:
        weight = np.zeros(len(prompt) + len(ids), dtype=np.float32)
        weight[len(prompt) :] = 1
        text = backend.decode(ids[:-1] if stopped else ids, skip_special_tokens=False)
        return Answer(prompt, Tokens(np.concatenate([prompt.ids, np.array(ids, np.int32)]), weight), text, stopped)

    return [[answer(prompt, *each) for each in everywhere[i]] for i, prompt in enumerate(prompts)]


def score_answers(cast: Cast, groups: Groups) -> np.ndarray:
    """(S,) the score of each answer, by the reward model or the user's rule; missing stops are not counted yet.

    The user's rule is asked on the first process alone.
    """
    reward = cast.roles.reward
    if reward is not None:
        sequences = [[answer.tokens for answer in group] for group in groups]
        batching = replace(cast.batching, share=cast.chosen[reward.model].shares_prefixes)
        return np.concatenate(batching.per_sequence(sequences, lambda forest: cast.rewards(reward, forest)))
    rule = cast.rule
    assert rule is not None
    answers = [answer for group in groups for answer in group]

    def ask() -> list[float]:
        return rule(
            [asked(answer.prompt) for answer in answers],
            [answer.text for answer in answers],
            [answer.prompt.fields for answer in answers],
        )

    return np.array(cast.batching.world.on_first(ask), dtype=np.float64)


def asked(prompt: PromptTokens) -> str:
    """What a prompt says, for people and for rules that read it."""
    return "\n\n".join(message.content for message in prompt.messages)


def less_missing_stops(score: np.ndarray, groups: Groups, *, penalty: float) -> np.ndarray:
    """(S,) the score, with `penalty` taken off answers that did not end by themselves."""
    stopped = torch.tensor([answer.stopped for group in groups for answer in group])
    return score_less_missing_stop(torch.from_numpy(score), stopped, penalty=penalty).numpy()


@dataclass(frozen=True, eq=False)
class Said:
    """What the roles say of the tokens of one answer: (n,) float64 each."""

    logp: np.ndarray
    """under the policy that drew it, by the training forward"""
    reference_logp: np.ndarray
    entropy: np.ndarray
    """of the policy's distribution at each token, in nats"""
    value: np.ndarray
    """0 where there is no value role"""


def what_roles_say(cast: Cast, groups: Groups) -> list[Said]:
    """What policy, reference and value say of every answer, before anything is learnt from it."""
    roles = cast.roles

    def by_role(forest: Forest) -> Tensor:
        policy = cast.logp(roles.policy, forest, with_entropy=True)
        assert policy.entropy is not None
        reference = cast.logp(roles.reference, forest).logp
        value = torch.zeros_like(policy.logp) if roles.value is None else cast.values(roles.value, forest)
        return torch.stack([policy.logp, reference, policy.entropy, value.to(policy.logp.dtype)])

    per_group = cast.batching.per_token([[answer.tokens for answer in group] for group in groups], by_role)
    return [Said(*numbers) for group in per_group for numbers in group]


def flat(parts: Sequence[np.ndarray]) -> Tensor:
    """The parts one after the other, float64."""
    return torch.from_numpy(np.concatenate(list(parts)).astype(np.float64))


def sequence_of(said: Sequence[Said]) -> Tensor:
    """(N,) which answer each token belongs to."""
    return torch.repeat_interleave(torch.arange(len(said)), torch.tensor([len(each.logp) for each in said]))

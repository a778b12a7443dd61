"""The nouns that travel from one arrow to the next. Frozen, and importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from heed.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record came from, for errors and reports."""

    path: str
    record: int
    """counted from 1, as an editor counts lines"""

    def __str__(self) -> str:
        return f"{self.path}, record {self.record:,}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `developer`, `user`, `assistant` or `tool`"""
    content: str
    weight: float = 1.0
    """of an assistant message's tokens in the loss; 0 makes it context only"""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """whatever else the chat template may read: `tool_calls`, `reasoning_content`, `name`, `input`..."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What supervised tuning learns from: messages, of which the assistant's are trained."""

    messages: tuple[Message, ...]
    origin: Origin
    tools: tuple[Mapping[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """named values for the chat template, such as `documents` or `enable_thinking`"""
    begun: tuple[Message, ...] = ()
    """the prompt, if the answer goes on from words of the assistant's at its end, which are read and not trained"""

    @classmethod
    def answered(
        cls,
        prompt: tuple[Message, ...],
        answer: tuple[Message, ...],
        origin: Origin,
        tools: tuple[Mapping[str, Any], ...] = (),
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """A prompt with its answer, which goes on from the assistant's words where the prompt ends with some.

        The two are one message then.
        """
        if not (prompt and answer and prompt[-1].role == answer[0].role == "assistant"):
            return cls(prompt + answer, origin, tools, template_arguments or {})
        words, first = prompt[-1], answer[0]
        whole = replace(first, content=words.content + first.content, extra={**words.extra, **first.extra})
        begun = () if words.weight else prompt
        return cls((*prompt[:-1], whole, *answer[1:]), origin, tools, template_arguments or {}, begun)


@dataclass(frozen=True, slots=True)
class Ranking:
    """One prompt and two or more answers to it, best first."""

    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    origin: Origin
    scores: tuple[float, ...] = ()
    """by whoever ranked the answers, falling; equal scores are a tie; empty where only a strict order is known"""
    are_ranks: bool = False
    """whether the scores are ranks with ties among them: an order, whose differences say nothing"""
    tools: tuple[Mapping[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def best(self) -> Conversation:
        """The prompt with its best answer, which is what supervised tuning can use of a ranking."""
        return Conversation.answered(self.prompt, self.answers[0], self.origin, self.tools, self.template_arguments)


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to a prompt and whether it is a good one, judged on its own and not against another."""

    prompt: tuple[Message, ...]
    answer: tuple[Message, ...]
    is_desirable: bool
    origin: Origin
    tools: tuple[Mapping[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def conversation(self) -> Conversation:
        """The prompt with its answer."""
        return Conversation.answered(self.prompt, self.answer, self.origin, self.tools, self.template_arguments)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked, for it to answer in its own words."""

    messages: tuple[Message, ...]
    origin: Origin
    fields: Mapping[str, Any]
    """the whole record it was read from: what a reward function may need, such as an answer to compare with"""
    tools: tuple[Mapping[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text, which a model goes on pre-training on: every token of it is trained."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Labelled:
    """A record of named fields that becomes a conversation through a wording."""

    fields: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a record cannot be used. The same five parts as an error, kept as a value."""

    problem: str
    origin: Origin
    found: str
    expected: str
    fix: str

    def error(self) -> UserError:
        return UserError(self.problem, where=str(self.origin), found=self.found, expected=self.expected, fix=self.fix)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `text[start:stop]` that are trained, stop token included."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation, or one branch of it, as the model will read it."""

    text: str
    spans: tuple[Span, ...]
    origin: Origin
    literal: tuple[tuple[int, int], ...] = ()
    """characters `text[start:stop]` that look like a special token and are text: they are encoded as such"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence of token ids with a loss weight for each."""

    ids: np.ndarray
    """(L,) int32"""
    weight: np.ndarray
    """(L,) float32; the loss weight of token i as a prediction from the tokens before it, so weight[0] is 0"""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Sequences merged into radix trees and laid out depth first: each distinct prefix is stored once.

    Token `j` attends to token `i` exactly when `i <= j < subtree_end[i]`.
    T buffer tokens, N trained tokens, S sequences.
    """

    ids: Int[Tensor, " T"]
    """token ids"""
    position: Int[Tensor, " T"]
    """position in the token's sequence (its depth in the tree), not in the buffer"""
    subtree_end: Int[Tensor, " T"]
    """exclusive end of the token's subtree in the buffer"""
    source: Int[Tensor, " N"]
    """buffer index of the hidden state that predicts each trained token"""
    target: Int[Tensor, " N"]
    """id of each trained token"""
    weight: Float[Tensor, " N"]
    """loss weight of each trained token, float64"""
    sequence: Int[Tensor, " N"]
    """which sequence each trained token belongs to, in the order the sequences were given"""
    last: Int[Tensor, " S"]
    """buffer index of each sequence's last token"""
    num_unshared_tokens: int = field(default=0)
    """tokens of all sequences before sharing, for the report of what sharing saved"""

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_trained_tokens(self) -> int:
        return len(self.target)

    @property
    def num_sequences(self) -> int:
        return len(self.last)

    @property
    def total_weight(self) -> float:
        """Sum of the loss weights."""
        return float(self.weight.sum())

    def divided_by(self, count: float) -> Forest:
        """The same forest with every loss weight divided by `count`."""
        return replace(self, weight=self.weight / count)

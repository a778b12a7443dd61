"""Whether a server draws from the weights that it was given last, or still from older ones.

A server that kept older weights is further from the training forward than its arithmetic explains, but after a small
step it may be no further than a bound on that allows. So its log-probabilities are compared with those of the older
weights too: it draws to the same prompts with the same seeds in every phase, and of the tokens that its answers of two
phases begin with alike the training forward has told log p under the weights of both.

    stale:   mean |theirs - new| > 2 mean |theirs - old|,   over at least 8 tokens in common

theirs is new + e, where e is what the server computes otherwise (rounding). If it is fresh, e has to undo half of the
step's change at nearly all tokens to be taken for stale; if it is stale, it is found out where the step changed log p
by four times e on average, or more.
The limit: a step that changes log p by less than the server's rounding passes, fresh or not, and so does one after
which nearly all answers differ from their first tokens on; the bound on the gap is there for the latter. Steps are
compared with the weights of the phase before, and with those of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heed.engine.client import Drawn

NEARER = 2.0
"""how many times nearer to older weights a server must be to be called stale"""
ENOUGH = 8
"""tokens in common, below which chance decides"""


@dataclass(frozen=True, eq=False)
class Proof:
    """What a server drew to the probes with some weights, and what the training forward made of it with the same."""

    drawn: list[Drawn]
    ours: list[np.ndarray]
    """(n,) log p of each answer's tokens, in nats"""

    @property
    def gap(self) -> np.ndarray:
        """(N,) |theirs - ours| of all tokens."""
        parts = [np.abs(np.array(each.logp) - ours) for each, ours in zip(self.drawn, self.ours, strict=True)]
        return np.concatenate(parts)


def gaps_in_common(drawn: Sequence[Drawn], proofs: Sequence[Proof]) -> list[np.ndarray]:
    """(N,) |theirs - ours| for each proof, of the N tokens that a server drew now and in all of the proofs."""
    parts: list[list[np.ndarray]] = [[] for _ in proofs]
    for i, each in enumerate(drawn):
        length = min(in_common(each.ids, proof.drawn[i].ids) for proof in proofs)
        for part, proof in zip(parts, proofs, strict=True):
            part.append(np.abs(np.array(each.logp[:length]) - proof.ours[i][:length]))
    return [np.concatenate(part) for part in parts]


def stale(drawn: Sequence[Drawn], new: Proof, older: Sequence[Proof]) -> tuple[float, float] | None:
    """How far a server is from new weights and from older ones, in nats per token, if it has the latter; else None.

    Args:
        drawn: what it draws to the probes now.
        new: of the weights that it was given.
        older: of weights that it may have kept.
    """
    for old in older:
        from_new, from_old = gaps_in_common(drawn, [new, old])
        if len(from_new) >= ENOUGH and from_new.mean() > NEARER * from_old.mean():
            return float(from_new.mean()), float(from_old.mean())
    return None


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))

"""Attention over a forest whose tokens are dealt to several processes: tokens are exchanged for heads around it.

    tokens of a process          T / N tokens, all heads     in projections, MLPs, norms
    heads of a process           all T tokens, heads / N     in attention, which so sees the forest as it is

One message before attention holds queries, keys and values, one after it the results (Jacobs et al. 2023,
"DeepSpeed-Ulysses", arXiv:2309.14509, section 3). So masks, windows, soft-caps and sinks stay what they are.
Differs from the paper: key heads that N does not divide are repeated until it does, for grouped heads fewer than
processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from heed.dist.together import Together
from heed.errors import UserError


@dataclass(frozen=True, eq=False)
class Exchange:
    """Between this process's slice of a forest's tokens and its share of the heads."""

    together: Together
    num_tokens: int
    """of the whole forest, T; a multiple of the processes"""

    @property
    def own(self) -> slice:
        """The buffer tokens of this process."""
        count = self.num_tokens // self.together.size
        return slice(self.together.rank * count, (self.together.rank + 1) * count)

    def for_heads(
        self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(1, heads, T / N, size) each -> (1, heads / N, T, size) each, and the sinks of these heads.

        Raises:
            UserError: the processes do not divide the query heads.
        """
        size, rank, num_heads = self.together.size, self.together.rank, query.shape[1]
        if num_heads % size:
            raise heads_do_not_divide(num_heads, size, "a layer of the model")
        times = math.lcm(key.shape[1], size) // key.shape[1]
        if times > 1:  # query heads are a multiple of both, so each still finds its own
            key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
        parts = [x[0].unflatten(0, (size, -1)).transpose(1, 2) for x in (query, key, value)]
        swapped = self.together.swap(torch.cat([x.flatten(2) for x in parts], dim=2)).flatten(0, 1)
        found = swapped.split([x.shape[2] * x.shape[3] for x in parts], dim=1)
        query, key, value = (
            of_heads.unflatten(1, x.shape[2:]).transpose(0, 1)[None] for of_heads, x in zip(found, parts, strict=True)
        )
        return query, key, value, None if sinks is None else sinks.chunk(size)[rank]

    def for_tokens(self, out: Tensor) -> Tensor:
        """(1, heads / N, T, size) -> (1, heads, T / N, size)."""
        parts = out[0].transpose(0, 1).unflatten(0, (self.together.size, -1))
        return self.together.swap(parts).transpose(1, 2).flatten(0, 1)[None]


def heads_do_not_divide(num_heads: int, size: int, where: str) -> UserError:
    """What is told where each process cannot have as many heads."""
    return UserError(
        "processes that share a sequence divide its attention heads among them, and cannot",
        where=f"--sequence-parallel {size}, {where}",
        found=f"{num_heads} attention heads",
        expected=f"a number of processes that divides {num_heads}",
        fix=f"--sequence-parallel {math.gcd(num_heads, size)}",
    )

"""Processes that share every forward: each holds an equal slice of its tokens, and what they send each other in it.

Each message is its own adjoint or has one beside it, so that a backward through it gives every process its part of the
gradient of the sum of what all of them compute. All of a group must call each, in the same order, in the backward too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, eq=False)
class Together:
    """A group of processes, and which of them this is."""

    rank: int
    """of this process in the group, from 0"""
    size: int
    group: distributed.ProcessGroup

    def swap(self, parts: Tensor) -> Tensor:
        """(size, ...) -> (size, ...): part p goes to process p, and what comes from process p stands at p."""
        swapped: Tensor = _Swapped.apply(parts, self.group)  # type: ignore[no-untyped-call]
        return swapped

    def joined(self, own: Tensor) -> Tensor:
        """(n, ...) -> (size * n, ...): the slices of all, one after another."""
        joined: Tensor = _Joined.apply(own, self)  # type: ignore[no-untyped-call]
        return joined

    def total(self, own: Tensor) -> Tensor:
        """The sum over the group."""
        total: Tensor = _Total.apply(own, self.group)  # type: ignore[no-untyped-call]
        return total


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        return _swap(parts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _swap(grad, ctx.group), None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, together: Together) -> Tensor:
        ctx.together = together
        joined = own.new_empty(together.size * len(own), *own.shape[1:])
        distributed.all_gather_into_tensor(joined, own.contiguous(), group=together.group)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad.new_empty(len(grad) // ctx.together.size, *grad.shape[1:])
        distributed.reduce_scatter_tensor(own, grad.contiguous(), group=ctx.together.group)
        return own, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        return _total(own, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _total(grad, ctx.group), None


def _swap(parts: Tensor, group: distributed.ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    swapped = torch.empty_like(parts)
    distributed.all_to_all_single(swapped, parts, group=group)
    return swapped


def _total(own: Tensor, group: distributed.ProcessGroup) -> Tensor:
    total = own.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total, group=group)
    return total

"""Attention over a forest of many short sequences: every path from root to leaf is one row of a padded batch.

A block per tree node (see `tree_attention`) costs a few kernel calls each, which is nothing beside long nodes and most
of the work beside nodes of twenty tokens. There it is cheaper to copy: queries, keys and values are gathered along the
paths, one causal kernel runs over all rows, and each token's result is read from one row that it stands in. A token
that several paths share is computed in each of them, from the same inputs; only the row that is read gets a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from heed.models.attention.rows import Rows
from heed.models.attention.tree_attention import backward_block, forward_block


class RowAttention(torch.autograd.Function):
    """softmax(scale * Q K^T + causal mask) V over every row, read back to the buffer."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scale: float) -> Tensor:  # type: ignore[override]
        """Return (T, heads, head size); query, key, value: (T, heads, head size)."""
        kept: list[Tensor] = []
        outs = []
        for place in rows.places:
            # Behind a row's end stand copies that no earlier token sees and that are never read.
            q, k, v = (
                x.index_select(0, place.view(-1)).unflatten(0, place.shape).transpose(1, 2) for x in (query, key, value)
            )
            out, log_sum = forward_block(q, k, v, 0.0, True, attn_mask=None, scale=scale)
            kept += (q, k, v, out, log_sum)
            outs.append(out.transpose(1, 2).flatten(0, 1))
        ctx.save_for_backward(*kept)
        ctx.rows, ctx.scale = rows, scale
        return torch.cat(outs).index_select(0, rows.first)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The kernel's gradients row by row; of keys and values, a token's places add up."""
        rows: Rows = ctx.rows
        kept = ctx.saved_tensors  # read once: where activations are computed twice, reading computes them
        sizes = [place.numel() for place in rows.places]
        grad = grad_out.new_zeros(sum(sizes), *grad_out.shape[1:]).index_copy_(0, rows.first, grad_out)
        grads: tuple[list[Tensor], ...] = ([], [], [])
        for number, (place, given) in enumerate(zip(rows.places, grad.split(sizes), strict=True)):
            q, k, v, out, log_sum = kept[5 * number : 5 * number + 5]
            part = given.unflatten(0, place.shape).transpose(1, 2)
            found = backward_block(part, q, k, v, out, log_sum, 0.0, True, attn_mask=None, scale=ctx.scale)
            for each, of in zip(grads, found, strict=True):
                each.append(of.transpose(1, 2).flatten(0, 1))
        to_query, to_key, to_value = (torch.cat(each) for each in grads)
        to_key, to_value = (
            x.index_select(0, rows.first).index_add_(0, rows.again_token, x[rows.again]) for x in (to_key, to_value)
        )
        # In every other place of a token its query's result went unread.
        return to_query.index_select(0, rows.first), to_key, to_value, None, None


def row_attention(query: Tensor, key: Tensor, value: Tensor, rows: Rows, *, scale: float) -> Tensor:
    """Attention of every buffer token to its ancestors and itself.

    Args:
        query: (1, heads, T, head size).
        key, value: (1, key heads, T, head size); heads is a multiple of key heads.
        scale: factor of the scores.

    Returns:
        (1, heads, T, head size)
    """
    flat = (x[0].transpose(0, 1) for x in (query, key, value))
    out: Tensor = RowAttention.apply(*flat, rows, scale)  # type: ignore[no-untyped-call]
    return out.transpose(0, 1)[None]

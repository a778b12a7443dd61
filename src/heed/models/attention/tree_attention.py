"""Attention over a forest on CPU: each tree node's keys are read once by all the queries below it.

Depth first, a node's own tokens are `[start, stop)` and all its descendants `[stop, end)`. So the whole mask is two
dense blocks per node: its own tokens among themselves, causal, and all descendants' queries against its keys,
unmasked. A query's blocks are merged by their log-sum-exp, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135,
section 3.1), and the backward of each block needs only the merged output and log-sum-exp (same, appendix B.4).
Nothing is gathered, concatenated or copied.
"""

from typing import Any

import torch
from torch import Tensor

from heed.models.attention.layout import ForestLayout

forward_block = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
backward_block = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class TreeAttention(torch.autograd.Function):
    """softmax(scale * Q K^T + mask) V with the forest's mask, forward and backward block by block."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: ForestLayout, scale: float, window: int | None
    ) -> Tensor:
        """Return (1, heads, T, head size); see `tree_attention` for the arguments."""
        _, heads, length, _ = query.shape
        out = query.new_empty(1, length, heads, value.shape[-1]).transpose(1, 2)
        log_sum = query.new_empty(1, length, heads, dtype=accumulation_dtype(query)).transpose(1, 2)
        for start, stop, _ in layout.nodes:
            own = slice(start, stop)
            mask = window_mask(layout, own, own, window, query)
            out[:, :, own], log_sum[:, :, own] = forward_block(
                query[:, :, own], key[:, :, own], value[:, :, own], 0.0, mask is None, attn_mask=mask, scale=scale
            )
        # A descendant's own block comes first in the sum above, its ancestors' are merged into it here.
        for start, stop, end in layout.nodes:
            if stop == end:
                continue
            own, below = slice(start, stop), slice(stop, end)
            mask = window_mask(layout, below, own, window, query)
            block, block_log_sum = forward_block(
                query[:, :, below], key[:, :, own], value[:, :, own], 0.0, False, attn_mask=mask, scale=scale
            )
            merge(out[:, :, below], log_sum[:, :, below], block, block_log_sum, mask)
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Sum the blocks' gradients; each block is told the merged output and log-sum-exp of its queries."""
        query, key, value, out, log_sum = ctx.saved_tensors
        grads = tuple(torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
        for start, stop, end in ctx.layout.nodes:
            own, below = slice(start, stop), slice(stop, end)
            for rows in (own, below) if end > stop else (own,):
                mask = window_mask(ctx.layout, rows, own, ctx.window, query)
                block = backward_block(
                    grad_out[:, :, rows], query[:, :, rows], key[:, :, own], value[:, :, own], out[:, :, rows],
                    log_sum[:, :, rows], 0.0, rows is own and mask is None, attn_mask=mask, scale=ctx.scale,
                )  # fmt: skip
                # The first block to reach a gradient sets it: a tree's root for queries, a node's own block for keys.
                first = (is_root(ctx.layout, start), rows is own, rows is own)
                for grad, part, at, sets in zip(grads, block, (rows, own, own), first, strict=True):
                    if sets:
                        grad[:, :, at] = part
                    else:
                        grad[:, :, at] += part
        return *grads, None, None, None


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: ForestLayout, *, scale: float, window: int | None
) -> Tensor:
    """Attention of every buffer token to its ancestors and itself.

    Args:
        query: (1, heads, T, head size).
        key, value: (1, key heads, T, head size); heads is a multiple of key heads.
        layout: the forest.
        scale: factor of the scores.
        window: a token sees the `window` latest positions of its own sequence, itself included; None sees all.

    Returns:
        (1, heads, T, head size)
    """
    out: Tensor = TreeAttention.apply(query, key, value, layout, scale, window)  # type: ignore[no-untyped-call]
    return out


def merge(out: Tensor, log_sum: Tensor, block: Tensor, block_log_sum: Tensor, mask: Tensor | None) -> None:
    """Add one block's share to `out` and `log_sum` in place: a weighted mean with weights exp(log-sum-exp)."""
    if mask is not None:  # a query whose window ends before this block sees none of its keys
        blind = torch.isneginf(mask).all(-1)
        block_log_sum = block_log_sum.masked_fill(blind, float("-inf"))
        block = block.masked_fill(blind[..., None], 0.0)
    merged = torch.logaddexp(log_sum, block_log_sum)
    out.mul_((log_sum - merged).exp_().unsqueeze(-1).to(out.dtype))
    out.addcmul_(block, (block_log_sum - merged).exp_().unsqueeze(-1).to(out.dtype))
    log_sum.copy_(merged)


def window_mask(layout: ForestLayout, rows: slice, columns: slice, window: int | None, like: Tensor) -> Tensor | None:
    """The additive mask of a block that the window cuts, causal where it is a node's own block; else None.

    Distances count in position, the depth in the tree: siblings lie between the two in the buffer.
    """
    if window is None:
        return None
    name = (rows.start, rows.stop, columns.start, columns.stop, window, like.dtype)
    if name not in layout.additive_masks:
        row, column = layout.position[rows, None], layout.position[None, columns]
        distance = row - column
        cut = bool((distance.max() >= window).item())
        hidden = (distance >= window) | (distance < 0)
        layout.additive_masks[name] = (
            torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, float("-inf"))[None, None] if cut else None
        )
    return layout.additive_masks[name]


def is_root(layout: ForestLayout, start: int) -> bool:
    """Whether the node that starts here has no parent."""
    return bool(layout.position[start].item() == 0)


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """The type in which the kernel keeps log-sum-exps: at least float32."""
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


def plain_tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: ForestLayout,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same by plain operations, node by node, for what the fused kernel cannot do: soft-caps and sinks.

    Args:
        softcap: scores become softcap * tanh(score / softcap) before the mask (Gemma 2).
        sinks: (heads,) a score per head that takes part in the softmax and adds nothing (GPT-OSS).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    parts = []
    for start, stop, _ in layout.nodes:
        spans = [*layout.ancestors(start), (start, stop)]
        keys, values = (torch.cat([x[:, :, a:b] for a, b in spans], dim=2) for x in (key, value))
        column = torch.cat([layout.position[a:b] for a, b in spans])
        distance = layout.position[start:stop, None] - column[None, :]
        hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
        scores = (query[:, :, start:stop] @ keys.transpose(2, 3) * scale).to(accumulation_dtype(query))
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(hidden, float("-inf"))
        log_sum = torch.logsumexp(scores, dim=-1, keepdim=True)
        if sinks is not None:
            log_sum = torch.logaddexp(log_sum, sinks.to(scores.dtype)[None, :, None, None])
        parts.append((scores - log_sum).exp().to(value.dtype) @ values)
    return torch.cat(parts, dim=2)

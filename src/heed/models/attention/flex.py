"""Attention over a forest on CUDA: FlexAttention with the forest's one-line mask, compiled.

FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks that the mask empties, so siblings and other
trees cost nothing. It has no backward on CPU, where `tree_attention` does the same.

Every size of buffer is compiled for itself, and PyTorch, which compiles few sizes of a function, would run the next one
unfused, with the whole matrix of scores. So buffers are padded to few sizes, and one size too many is an error. The
mask's blocks are read off the tree's nodes, in integers: no matrix of tokens by tokens is ever made.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from heed.errors import UserError
from heed.models.attention.layout import ForestLayout

SMALLEST = 512
"""tokens of the smallest padded buffer"""

SMALLEST_HEAD = 16
"""numbers of a head: the fused kernels take no smaller ones, so those are padded with zeros, which change no product"""

BLOCK = 128
"""tokens of a block of the mask, which is kept, skipped or looked into"""

MOST_COMPILED = 64
"""kinds of call that are compiled: sizes, times those of layers (window, soft-cap) and of modes (training or not)"""

compiled_flex_attention = torch.compile(flex_attention, dynamic=False)


def flex_tree_attention(
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
    """What `plain_tree_attention` computes; the same arguments."""
    length, size = query.shape[2], value.shape[3]
    query, key, value = (padded(x, padded_length(length)) for x in (query, key, value))

    def capped(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    out, extra = attend(
        query,
        key,
        value,
        score_mod=None if softcap is None else capped,
        block_mask=block_mask(layout, query, window),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=True),  # type: ignore[arg-type]
    )
    if sinks is not None:  # exp(score of the sink) joins the denominator: out * sum / (sum + exp(sink))
        out = out * torch.sigmoid(extra.lse - sinks.to(extra.lse.dtype)[None, :, None]).unsqueeze(-1).to(out.dtype)
    kept: Tensor = out[:, :, :length, :size]
    return kept


def padded(x: Tensor, length: int) -> Tensor:
    """(1, heads, T, head size) with zeros behind: `length` tokens, and heads that the fused kernels take."""
    return torch.nn.functional.pad(x, (0, max(0, SMALLEST_HEAD - x.shape[3]), 0, length - x.shape[2]))


def attend(query: Tensor, *others: Any, **how: Any) -> Any:
    """FlexAttention, compiled on a GPU.

    Raises:
        UserError: more kinds of call than are compiled; PyTorch would take the next one without its fused kernels.
    """
    if not query.is_cuda:
        return flex_attention(query, *others, **how)
    return compiled_or_error(query, *others, **how)


def compiled_or_error(query: Tensor, *others: Any, **how: Any) -> Any:
    """The compiled attention, which never falls back in silence."""
    limit: Any = dynamo_config.patch(
        recompile_limit=MOST_COMPILED, accumulated_recompile_limit=8 * MOST_COMPILED, fail_on_recompile_limit_hit=True
    )
    try:
        with limit:
            return compiled_flex_attention(query, *others, **how)
    except FailOnRecompileLimitHit as error:
        raise UserError(
            "attention on this GPU would be compiled for too many sizes, and then run without its fused kernels",
            where=f"a forward of {query.shape[2]:,} tokens, padded, with {query.shape[1]} heads",
            found=f"more than {MOST_COMPILED} kinds of call",
            expected=f"at most {MOST_COMPILED}: sizes of forwards, times the kinds of layer",
            fix="--max-tokens 4096 makes fewer sizes; the same command goes on from the last checkpoint",
        ) from error


def padded_length(length: int) -> int:
    """The tokens that a buffer is padded to: a power of 2, or one and a half times one.

    Two sizes for every doubling: a day of any lengths up to 16,384 tokens compiles 11, and a buffer grows by at most a
    half.
    """
    size = SMALLEST
    while size < length:
        half = size + size // 2
        if half >= length:
            return half
        size *= 2
    return size


def block_mask(layout: ForestLayout, like: Tensor, window: int | None) -> BlockMask:
    """The forest's mask for FlexAttention, made once per forward and window; padding attends to itself."""
    if window not in layout.block_masks:
        length = like.shape[2]
        padding = torch.arange(layout.position.shape[0], length, device=like.device)
        subtree_end = torch.cat([layout.subtree_end, padding + 1])
        position = torch.cat([layout.position, torch.zeros_like(padding)])

        def visible(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            inside = (column <= row) & (row < subtree_end[column])
            return inside if window is None else inside & (position[row] - position[column] < window)

        partial, full = blocks_of(layout.nodes, layout.position.cpu().numpy(), length, window)
        layout.block_masks[window] = BlockMask.from_kv_blocks(
            *_as_lists(partial, like.device), *_as_lists(full, like.device), BLOCK, visible, (length, length)
        )
    mask = layout.block_masks[window]
    assert isinstance(mask, BlockMask)
    return mask


def blocks_of(
    nodes: list[tuple[int, int, int]], position: np.ndarray, length: int, window: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks of the mask are looked into, and which are seen whole: (blocks, blocks), rows by columns.

    A node's own tokens [start, stop) are seen by the tokens [start, end) of its subtree. So a node touches the blocks
    of one interval of rows and one of columns. A block is whole where all its columns lie in one node, all its rows in
    that node's subtree and behind them, and the window cuts none.

    Args:
        nodes: (start, stop, subtree_end) of every run of tokens without a branching.
        position: (T,) of each buffer token in its sequence.
        length: of the padded buffer, a multiple of `BLOCK`.
    """
    count = length // BLOCK
    touched = np.zeros((count, count), dtype=np.bool_)
    whole = np.zeros((count, count), dtype=np.bool_)
    for start, stop, end in nodes:
        rows, columns = slice(start // BLOCK, -(-end // BLOCK)), slice(start // BLOCK, -(-stop // BLOCK))
        touched[rows, columns] = True
        inner_rows, inner = slice(-(-start // BLOCK), end // BLOCK), slice(-(-start // BLOCK), stop // BLOCK)
        if inner.start < inner.stop and inner_rows.start < inner_rows.stop:
            whole[inner_rows, inner] = True
    touched &= np.tri(count, dtype=np.bool_)
    whole &= np.tri(count, k=-1, dtype=np.bool_)
    if window is not None:
        first, last = _least_and_most(position, count)
        touched &= first[:, None] - last[None, :] < window
        whole &= last[:, None] - first[None, :] < window
    padding = np.arange(len(position) // BLOCK, count)  # the block in which the tokens end holds padding, too
    touched[padding, padding] = True
    whole[padding] = False
    return touched & ~whole, whole


def _least_and_most(position: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest position in every block; padding has none and is far from all."""
    padded = np.full(count * BLOCK - len(position), 0)
    blocks = np.concatenate([position, padded]).reshape(count, BLOCK)
    return blocks.min(axis=1), blocks.max(axis=1)


def _as_lists(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every row of blocks how many there are and which, those first that are."""
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    counts = blocks.sum(axis=1).astype(np.int32)
    return torch.from_numpy(counts)[None, None].to(device), torch.from_numpy(order)[None, None].to(device)

"""Attention over a forest on CUDA: FlexAttention with the forest's one-line mask, compiled.

FlexAttention (Dong et al. 2024, arXiv:2412.05496) skips the blocks that the mask empties, so siblings and other
trees cost nothing. It has no backward on CPU, where `tree_attention` does the same.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from heed.models.attention.layout import ForestLayout

LENGTH_STEP = 512
"""buffer lengths are rounded up to this, so that few shapes are compiled"""

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
    length = query.shape[2]
    padded = -length % LENGTH_STEP
    query, key, value = (torch.nn.functional.pad(x, (0, 0, 0, padded)) for x in (query, key, value))

    def capped(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    attend = compiled_flex_attention if query.is_cuda else flex_attention
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
    kept: Tensor = out[:, :, :length]
    return kept


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

        layout.block_masks[window] = create_block_mask(visible, None, None, length, length, device=like.device)
    mask = layout.block_masks[window]
    assert isinstance(mask, BlockMask)
    return mask

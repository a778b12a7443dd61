"""The forest's attention as transformers' models see it: one function, registered under one name.

The forest reaches it as the forward keyword argument `forest`. A global would be wrong under activation
recomputation, which runs a layer's forward again when another forest may be current.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from heed.models.attention.layout import ForestLayout
from heed.models.attention.row_attention import row_attention
from heed.models.attention.tree_attention import plain_tree_attention, tree_attention
from heed.models.kernels.plain import plain

NAME = "heed_forest"


def suits_blocks(query: Tensor, value: Tensor) -> bool:
    """Whether the fused CPU kernel takes these."""
    return query.device.type == "cpu" and query.shape[-1] == value.shape[-1] and not plain()


def forest_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    forest: ForestLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend over the forest; called by every attention layer of a transformers model.

    Args:
        query: (1, heads, T, head size); key, value: (1, key heads, T, head size). Where processes share the forest, T
            are this one's tokens, and what is computed here is of all tokens and this one's share of the heads.
        forest: the layout given to the model's forward.
        sliding_window: latest positions seen, counted in the sequence; softcap, s_aux: see `plain_tree_attention`.
        others: what a family hands to every attention function and the forest replaces (positions, caches).

    Returns:
        (1, T, heads, head size), and no weights.
    """
    forest.num_attention_calls += 1
    # Under autocast, rotary embeddings leave query and key in float32 beside a lower value, as SDPA would cast them.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if forest.exchange is not None:
        query, key, value, s_aux = forest.exchange.for_heads(query, key, value, s_aux)
    if query.is_cuda and not plain():
        from heed.models.attention.flex import (
            flex_tree_attention,  # compiles on import of its kernels; CUDA alone needs it
        )

        out = flex_tree_attention(
            query, key, value, forest, scale=scale, window=sliding_window, softcap=softcap, sinks=s_aux
        )
    elif suits_blocks(query, value) and softcap is None and s_aux is None:
        rows = forest.rows
        if rows is not None and (sliding_window is None or rows.longest <= sliding_window):
            out = row_attention(query, key, value, rows, scale=scale)
        else:
            out = tree_attention(query, key, value, forest, scale=scale, window=sliding_window)
    else:
        out = plain_tree_attention(
            query, key, value, forest, scale=scale, window=sliding_window, softcap=softcap, sinks=s_aux
        )
    if forest.exchange is not None:
        out = forest.exchange.for_tokens(out)
    return out.transpose(1, 2), None


def no_mask(*args: Any, **kwargs: Any) -> None:
    """The mask transformers prepares for this attention: none, the layout holds it."""


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, no_mask)


def configs_of(model: PreTrainedModel) -> list[Any]:
    """The model's config and its sub-configs, each of which names an attention."""
    found = {id(model.config): model.config}
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            found[id(module.config)] = module.config
    return list(found.values())


@contextmanager
def attention_named(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run the model with another attention; what it had comes back afterwards, whatever happens."""
    configs = configs_of(model)
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, was in zip(configs, before, strict=True):
            config._attn_implementation_internal = was


def plain_attention_of(model: PreTrainedModel) -> str:
    """The name of the model's own attention to compare with: SDPA where the family has it, else eager."""
    return "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"

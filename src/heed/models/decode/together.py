"""Decode many sequences together: their prompts are computed as one forest, then every step adds a token to each.

What all prompts begin with, the trunk, is kept once, and all sequences' queries read it in one product. Behind it every
sequence has a slot of its own. The model runs by its own forward on one row that holds one new token of each sequence,
as a forest's row holds many sequences' tokens; only attention is ours, and reaches the `decoding` by keyword argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from heed.forest.build import build, common_prefix
from heed.models.attention.forest_attention import attention_named, forest_attention, no_mask
from heed.models.attention.layout import ForestLayout
from heed.models.decode.slots import Decoding, KeyValue, Prompts
from heed.models.frozen import is_held
from heed.models.heads.language import Head, adjusted, adjustment, as_multiplied, at_least_float32
from heed.types import Tokens

FOREST_NAME, DECODE_NAME = "heed_forest_kept", "heed_decode"


def compute_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prompts:
    """Run the model over the forest of the prompts and keep every layer's keys and values."""
    forest = build([untrained(prompt) for prompt in prompts])
    device = device_of(model)
    layout = ForestLayout.of(forest, device)
    kept: list[KeyValue] = []
    with attention_named(model, FOREST_NAME):
        output = model.base_model(
            input_ids=forest.ids.to(device)[None],
            position_ids=layout.position[None],
            use_cache=False,
            forest=layout,
            kept=kept,
        )
    check_layers(model, len(kept))
    paths = [torch.nonzero(forest.subtree_end[: last + 1] > last)[:, 0] for last in forest.last.tolist()]
    states = output.last_hidden_state[0, forest.last.to(device)]
    return Prompts(kept, [path.to(device) for path in paths], states, forest.num_tokens)


def keeping_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kept: list[KeyValue],
    forest: ForestLayout,
    **others: Any,
) -> tuple[Tensor, None]:
    """`forest_attention`, which also keeps the layer's keys and values."""
    kept.append((key[0].to(value.dtype), value[0]))
    return forest_attention(module, query, key, value, attention_mask, forest=forest, **others)


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    decoding: Decoding,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token of each sequence to its own sequence; called by every attention layer.

    Args:
        query: (1, heads, sequences, head size); key, value: (1, key heads, sequences, head size).
        decoding: what the sequences have so far; the new keys and values are added to it.
        scaling, sliding_window, softcap, s_aux: see `attend`.
        others: what a family hands to every attention function.

    Returns:
        (1, sequences, heads, head size), and no weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_sequence = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    out = attend(decoding, *by_sequence, scale=scale, window=sliding_window, softcap=softcap, sinks=s_aux)
    return out[None], None


def attend(
    decoding: Decoding,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The next layer's attention of each sequence's new token to its own sequence, which it then belongs to.

    Args:
        query: (sequences, heads, head size); key, value: (sequences, key heads, head size).
        window, softcap, sinks: see `plain_tree_attention`.

    Returns:
        (sequences, heads, head size).
    """
    count, key_heads = key.shape[:2]
    groups = query.shape[1] // key_heads
    (trunk_keys, trunk_values), parts = decoding.append(key.to(value.dtype), value)
    grouped = (query * scale).to(value.dtype).unflatten(1, (key_heads, groups))
    trunk = trunk_keys.shape[1]
    if trunk:  # one product for all sequences, where the slots need one for each
        by_head = grouped.permute(1, 2, 0, 3).flatten(1, 2)
        in_trunk = (by_head @ trunk_keys.transpose(1, 2)).unflatten(1, (groups, count)).permute(2, 0, 1, 3)
    out, of_trunk = [], []
    for band, slots, keys, values in parts:
        scores = grouped[slots] @ keys.transpose(2, 3)
        if trunk:
            scores = torch.cat([in_trunk[slots], scores], dim=-1)
        scores = scores.to(at_least_float32(scores.dtype))
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.add_(decoding.mask(band, slots, window, scores))
        if sinks is not None:
            of_sinks = sinks.to(scores.dtype).view(1, key_heads, groups, 1).expand(len(scores), -1, -1, -1)
            scores = torch.cat([scores, of_sinks], dim=-1)
        weights = torch.softmax(scores, dim=-1).to(value.dtype)
        out.append(weights[..., trunk : trunk + band.width] @ values)
        of_trunk.append(weights[..., :trunk])
    own = torch.cat(out)
    if trunk:
        by_head = torch.cat(of_trunk).permute(1, 2, 0, 3).flatten(1, 2)
        own = own + (by_head @ trunk_values).unflatten(1, (groups, count)).permute(2, 0, 1, 3)
    return own.flatten(1, 2)


for name, function in ((FOREST_NAME, keeping_attention), (DECODE_NAME, decode_attention)):
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, no_mask)


class Step(Protocol):
    """A way to decode: a token more of each sequence, and what is predicted after it."""

    def __call__(self, decoding: Decoding, tokens: Tensor) -> Tensor:
        """Add a token to each active sequence; returns the final hidden states (sequences, width)."""

    def logits(self, states: Tensor) -> Tensor:
        """Logits (rows, vocabulary) of final hidden states, in at least float32."""


@dataclass(frozen=True, eq=False)
class PlainStep:
    """The model's own forward, with its attention alone replaced.

    The attention must be named `DECODE_NAME`, which a caller does once for many steps.
    """

    model: PreTrainedModel

    @cached_property
    def head(self) -> Head | None:
        """The model's head as it is now, in the precision of products."""
        head = Head.of(self.model)
        if head is None:
            return None
        held = any(map(is_held, self.model.modules()))
        return replace(
            head,
            weight=as_multiplied(head.weight.float() if held else head.weight),
            bias=None if head.bias is None else as_multiplied(head.bias),
        )

    def __call__(self, decoding: Decoding, tokens: Tensor) -> Tensor:
        """See `Step`."""
        position = decoding.begin_step()
        output = self.model.base_model(
            input_ids=tokens[None], position_ids=position[None], use_cache=False, decoding=decoding
        )
        check_layers(self.model, decoding.num_attention_calls)
        decoding.end_step()
        states: Tensor = output.last_hidden_state[0]
        return states

    def logits(self, states: Tensor) -> Tensor:
        """See `Step`."""
        if self.head is not None:
            logits = self.head.logits(states)
        else:
            logits = adjusted(self.model.get_output_embeddings()(states), *adjustment(self.model))
        return logits.to(at_least_float32(logits.dtype))


def check_layers(model: PreTrainedModel, num_calls: int) -> None:
    """A model some of whose layers are not attention cannot be decoded this way."""
    num_layers = model.config.get_text_config().num_hidden_layers
    if num_calls != num_layers:
        raise NotImplementedError(f"attention was reached {num_calls} times in {num_layers} layers")


def common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    first, *others = (np.asarray(prompt) for prompt in prompts)
    return min((common_prefix(first, other) for other in others), default=len(first))


def untrained(ids: Sequence[int]) -> Tokens:
    """A sequence for a forest that nothing is learnt from."""
    return Tokens(np.asarray(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.float32))


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model's inputs go."""
    return model.device

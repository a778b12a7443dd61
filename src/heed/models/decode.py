"""Decode many sequences together: their prompts are computed as one forest, then every step adds a token to each.

What all prompts begin with, the trunk, is kept once, and all sequences' queries read it in one product. Behind it every
sequence has a slot of its own. The model runs by its own forward on one row that holds one new token of each sequence,
as a forest's row holds many sequences' tokens; only attention is ours, and reaches the `decoding` by keyword argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from heed.forest.build import build, common_prefix
from heed.models.attention import attention_named, forest_attention, no_mask
from heed.models.head import Head, adjusted, adjustment, at_least_float32
from heed.models.layout import ForestLayout
from heed.types import Tokens

FOREST_NAME, DECODE_NAME = "heed_forest_kept", "heed_decode"

COLUMN_STEP = 16
"""slots are lengthened by this many tokens at a time"""

KeyValue = tuple[Tensor, Tensor]
"""a layer's keys and values, of equal shape but for the head size"""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that were computed together, every distinct prefix once."""

    kept: list[KeyValue]
    """of each layer, (key heads, T, head size)"""
    paths: list[Tensor]
    """for each prompt, where its tokens lie among the T, root first"""
    states: Tensor
    """(prompts, width) the final hidden state of each prompt's last token"""
    num_tokens: int
    """T, the tokens that were computed"""


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


@dataclass(eq=False)
class Decoding:
    """The keys and values of sequences that are being decoded. The active ones are in the first slots."""

    trunk: list[KeyValue]
    """of each layer, (key heads, tokens in front of every sequence, head size)"""
    own: list[KeyValue]
    """of each layer, (slots, key heads, width, head size): what comes behind the trunk.

    No wider than the longest sequence needs, rounded up: products of whole slots are several times as fast as products
    of slices of longer ones, which lie apart in memory.
    """
    length: Tensor
    """(slots,) tokens that each sequence has in trunk and slot; 0 in free slots"""
    num_active: int = 0
    # Of the step in progress:
    num_attention_calls: int = 0
    additive_masks: dict[int | None, Tensor] = field(default_factory=dict)
    """by sliding window"""

    @classmethod
    def like(cls, prompts: Prompts, *, num_slots: int, trunk: int) -> "Decoding":
        """Free slots for sequences that begin, all of them, with the first `trunk` tokens of any of the prompts."""

        def slots(x: Tensor) -> Tensor:
            return x.new_empty(num_slots, x.shape[0], 0, x.shape[2])

        return cls(
            # Prompts with a common beginning are one tree, and what they have in common is the beginning of the buffer.
            trunk=[(key[:, :trunk].contiguous(), value[:, :trunk].contiguous()) for key, value in prompts.kept],
            own=[(slots(key), slots(value)) for key, value in prompts.kept],
            length=torch.zeros(num_slots, dtype=torch.long, device=prompts.states.device),
        )

    @property
    def trunk_length(self) -> int:
        """Tokens in front of every sequence."""
        return self.trunk[0][0].shape[1]

    def admit(self, prompts: Prompts, which: Sequence[int]) -> None:
        """Put these of the prompts into the next free slots; a prompt may be named several times."""
        rows = slice(self.num_active, self.num_active + len(which))
        paths = [prompts.paths[index] for index in which]
        self.num_active += len(which)
        self.length[rows] = torch.tensor([len(path) for path in paths], device=self.length.device)
        self.fit()
        padded = nn.utils.rnn.pad_sequence([path[self.trunk_length :] for path in paths], batch_first=True)
        for of_layer, slots_of_layer in zip(prompts.kept, self.own, strict=True):
            for x, slots in zip(of_layer, slots_of_layer, strict=True):
                own = x.index_select(1, padded.flatten()).unflatten(1, padded.shape)
                slots[rows, :, : padded.shape[1]] = own.transpose(0, 1)

    def dismiss(self, slot: int) -> None:
        """Free a slot by moving the last active sequence into it."""
        last = self.num_active = self.num_active - 1
        if slot != last:
            held = int(self.length[last]) - self.trunk_length
            for of_layer in self.own:
                for slots in of_layer:
                    slots[slot, :, :held] = slots[last, :, :held]
            self.length[slot] = self.length[last]
        self.length[last] = 0

    def fit(self) -> None:
        """Make slots as wide as the longest sequence needs with one more token."""
        needed = int(self.length.max()) + 1 - self.trunk_length
        extra = -(-needed // COLUMN_STEP) * COLUMN_STEP - self.own[0][0].shape[2]
        if extra:
            # Filled with zeros, because columns that are masked still take part in products, where NaNs would spread.
            self.own = [(pad(keys, (0, 0, 0, extra)), pad(values, (0, 0, 0, extra))) for keys, values in self.own]

    def begin_step(self) -> Tensor:
        """Get ready for a token more of every active sequence; returns their positions."""
        self.fit()
        self.num_attention_calls = 0
        self.additive_masks.clear()
        return self.length[: self.num_active].clone()

    def append(self, key: Tensor, value: Tensor) -> tuple[KeyValue, KeyValue]:
        """Put the next layer's new keys and values (sequences, key heads, head size) behind the old ones.

        Returns the layer's trunk, and its slots as (sequences, key heads, width, head size).
        """
        layer = self.num_attention_calls
        self.num_attention_calls += 1
        keys, values = self.own[layer]
        row = torch.arange(self.num_active, device=key.device)
        column = self.length[: self.num_active] - self.trunk_length
        keys[row, :, column] = key
        values[row, :, column] = value
        return self.trunk[layer], (keys[: self.num_active], values[: self.num_active])

    def mask(self, window: int | None, like: Tensor) -> Tensor:
        """0 where a sequence sees a position and -inf elsewhere: (sequences, 1, 1, trunk and width)."""
        if window not in self.additive_masks:
            column = torch.arange(self.trunk_length + self.own[0][0].shape[2], device=like.device)
            distance = self.length[: self.num_active, None] - column
            hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
            self.additive_masks[window] = mask[:, None, None]
        return self.additive_masks[window]


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
        sliding_window, softcap, s_aux: see `plain_tree_attention`.
        others: what a family hands to every attention function.

    Returns:
        (1, sequences, heads, head size), and no weights.
    """
    key_heads, count = key.shape[1], key.shape[2]
    groups = query.shape[1] // key_heads
    (trunk_keys, trunk_values), (keys, values) = decoding.append(
        key[0].transpose(0, 1).to(value.dtype), value[0].transpose(0, 1)
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_head = (query[0] * scale).to(value.dtype).unflatten(0, (key_heads, groups))  # key heads, groups, sequences, size
    scores = by_head.permute(2, 0, 1, 3) @ keys.transpose(2, 3)
    trunk = trunk_keys.shape[1]
    if trunk:  # one product for all sequences, where the slots need one for each
        in_trunk = (by_head.flatten(1, 2) @ trunk_keys.transpose(1, 2)).unflatten(1, (groups, count))
        scores = torch.cat([in_trunk.permute(2, 0, 1, 3), scores], dim=-1)
    scores = scores.to(at_least_float32(scores.dtype))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.add_(decoding.mask(sliding_window, scores))
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype).view(1, key_heads, groups, 1).expand(count, -1, -1, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    out = weights[..., trunk : trunk + keys.shape[2]] @ values
    if trunk:
        of_trunk = weights[..., :trunk].permute(1, 2, 0, 3).flatten(1, 2) @ trunk_values
        out = out + of_trunk.unflatten(1, (groups, count)).permute(2, 0, 1, 3)
    return out.reshape(1, count, key_heads * groups, -1), None


for name, function in ((FOREST_NAME, keeping_attention), (DECODE_NAME, decode_attention)):
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, no_mask)


def step(model: PreTrainedModel, decoding: Decoding, tokens: Tensor) -> Tensor:
    """Add a token to each active sequence; returns the final hidden states (sequences, width).

    The model's attention must be named `DECODE_NAME`, which a caller does once for many steps.
    """
    position = decoding.begin_step()
    output = model.base_model(input_ids=tokens[None], position_ids=position[None], use_cache=False, decoding=decoding)
    check_layers(model, decoding.num_attention_calls)
    decoding.length[: decoding.num_active] += 1
    states: Tensor = output.last_hidden_state[0]
    return states


def logits_of(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Logits (rows, vocabulary) of final hidden states, in at least float32."""
    if (head := Head.of(model)) is not None:
        logits = head.logits(states)
    else:
        logits = adjusted(model.get_output_embeddings()(states), *adjustment(model))
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
    device: torch.device = model.get_input_embeddings().weight.device
    return device

"""Sequences as rows of padded batches, for a model's own forward: rows of about one length, within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from heed.models.attention.forest_attention import attention_named, plain_attention_of
from heed.types import Forest

SHORTEST_SHARE = 0.7
"""a row shorter than this share of the longest in its batch begins a batch of its own, so that padding is never much"""


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Some sequences of an unshared forest as a batch that is padded on the right."""

    token: Int[Tensor, " tokens"]
    """buffer index of every token, row by row, without padding"""
    ids: Int[Tensor, "rows longest"]
    mask: Int[Tensor, "rows longest"]
    """1 for tokens, 0 for padding"""

    def run(self, model: PreTrainedModel, part: nn.Module | None = None) -> Any:
        """The output of the model, or of a part of it, with attention of its own."""
        device = model.device
        with attention_named(model, plain_attention_of(model)):
            return (part or model)(input_ids=self.ids.to(device), attention_mask=self.mask.to(device), use_cache=False)

    def real(self, output: Float[Tensor, "rows longest n"]) -> Float[Tensor, "tokens n"]:
        """The output at every token, without padding."""
        if len(self.token) == self.mask.numel():
            return output.reshape(-1, output.shape[-1])
        return output.masked_select(self.mask.to(output.device).bool()[..., None]).view(-1, output.shape[-1])

    def trained(self, forest: Forest, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Which trained tokens these rows predict, and the row of `real` that predicts each."""
        place = torch.full((forest.num_tokens,), -1, dtype=torch.long)
        place[self.token] = torch.arange(len(self.token))
        row = place[forest.source]
        chosen = torch.nonzero(row >= 0)[:, 0]
        return chosen, row[chosen].to(device)


def rows_of_sequences(forest: Forest, max_tokens: int | None) -> list[PaddedRows]:
    """The sequences of a forest that was built without sharing, in batches.

    Args:
        max_tokens: places of a batch, padding included; a longer sequence is a batch of its own. None is no limit, 1
            makes every sequence a batch of its own.
    """
    starts = torch.nonzero(forest.position == 0)[:, 0].tolist()
    stops = [*starts[1:], forest.num_tokens]
    if [at + 1 for at in forest.last.tolist()] != stops:
        raise ValueError("a forest that shares prefixes has no sequences one after another: build it with share=False")
    batches: list[list[tuple[int, int]]] = []
    for start, stop in sorted(zip(starts, stops, strict=True), key=lambda span: span[0] - span[1]):
        if batches:
            longest = batches[-1][0][1] - batches[-1][0][0]
            fits = max_tokens is None or (len(batches[-1]) + 1) * longest <= max_tokens
            if fits and stop - start >= SHORTEST_SHARE * longest:
                batches[-1].append((start, stop))
                continue
        batches.append([(start, stop)])
    return [_padded(forest, spans) for spans in sorted(batches)]


def _padded(forest: Forest, spans: Sequence[tuple[int, int]]) -> PaddedRows:
    ids = pad_sequence([forest.ids[a:b] for a, b in spans], batch_first=True)
    mask = pad_sequence([torch.ones(b - a, dtype=torch.long) for a, b in spans], batch_first=True)
    return PaddedRows(torch.cat([torch.arange(a, b) for a, b in spans]), ids, mask)


def put_in_order(parts: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Join parts, of which `places` say where each entry belongs."""
    joined, place = torch.cat(list(parts)), torch.cat(list(places))
    return joined[torch.argsort(place).to(joined.device)]

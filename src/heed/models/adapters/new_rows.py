"""New tokens' rows, which an adapter trains in full beside a frozen table, without copies of the table.

peft writes the trained rows into a copy of the whole table at every forward, and its backward makes a gradient of the
whole copy: for a vocabulary of 60,000 that is most of the memory of a step. Here the table is read as it is, and the
few rows beside it.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from heed.models.frozen import is_held


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows that stand in place of a table's own."""

    ids: Int[Tensor, " k"]
    """which rows of the table"""
    rows: Float[Tensor, "k width"]
    """trained"""


def table_and_new_rows(layer: nn.Module) -> tuple[Tensor, NewRows | None] | None:
    """A linear layer's frozen weight and the rows that an active adapter has in its place; None where it is another."""
    inner = layer.token_adapter if type(layer) is TrainableTokensWrapper else None
    if not isinstance(inner, TrainableTokensLayer) or type(inner.base_layer) is not nn.Linear:
        return None
    if inner.base_layer.bias is not None or inner.merged_adapters:
        return None
    weight: Tensor = inner.base_layer.weight
    active = active_rows(inner)
    return None if len(active) > 1 else (weight, active[0] if active else None)


def active_rows(layer: TrainableTokensLayer) -> list[NewRows]:
    """The rows of every adapter that is on and not merged into the table."""
    if layer.disable_adapters or layer.merged_adapters:
        return []
    device = layer.base_layer.weight.device
    return [
        NewRows(torch.tensor(layer.token_indices[name], device=device), layer.trainable_tokens_delta[name])
        for name in layer.active_adapters
    ]


def use_rows_beside_table(layer: nn.Module) -> None:
    """Let an embedding or a head with new tokens' rows use them beside its table, where it does nothing else."""
    if not isinstance(layer, TrainableTokensLayer) or "forward" in vars(layer):
        return
    table = layer.base_layer
    if type(table) is nn.Embedding and table.max_norm is None and not (table.sparse or table.scale_grad_by_freq):
        layer.forward = partial(embedded, layer)  # type: ignore[method-assign]
    elif _is_held_or_biased(layer) and type(table) is nn.Linear:
        layer.forward = partial(projected, layer)  # type: ignore[method-assign]


def mend_new_rows(model: nn.Module) -> None:
    """Let new tokens' rows be used beside their table where peft's copy of it would compute something else.

    In a table that is kept in 16 bits it rounds the trained rows, and of a head it forgets the bias.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and _is_held_or_biased(module):
            use_rows_beside_table(module)


def _is_held_or_biased(layer: TrainableTokensLayer) -> bool:
    return is_held(layer.base_layer) or getattr(layer.base_layer, "bias", None) is not None


def projected(layer: TrainableTokensLayer, x: Tensor) -> Tensor:
    """Logits of the table, and in place of new tokens' the trained rows'."""
    head = layer.base_layer
    logits: Tensor = head(x)
    for new in active_rows(layer):
        bias = None if head.bias is None else head.bias[new.ids]
        logits = logits.index_copy(-1, new.ids, linear(x, new.rows, bias).to(logits.dtype))
    return logits


def embedded(layer: TrainableTokensLayer, ids: Tensor) -> Tensor:
    """Rows of the table, and in place of new tokens' rows the trained ones."""
    table = layer.base_layer
    rows: Tensor = table(ids)
    for new in active_rows(layer):
        is_new = ids[..., None] == new.ids
        place = is_new.int().argmax(-1)
        # PyTorch's rule, which peft keeps: a padding row never learns from being read.
        padding = next((at for at, id_ in enumerate(new.ids.tolist()) if id_ == table.padding_idx), None)
        trained = embedding(place, new.rows, padding).to(rows.dtype)
        rows = torch.where(is_new.any(-1, keepdim=True), trained, rows)
    return rows

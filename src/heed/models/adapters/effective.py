"""What a linear layer multiplies by at this moment: its weight with whatever adapters are active on it, merged."""

from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from heed.models.adapters.new_rows import active_rows
from heed.models.four_bits import is_packed
from heed.models.frozen import weight_of


def effective_linear(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in) and bias of a layer that computes x weight^T + bias.

    With LoRA adapters the weight is W + sum of scaling * B A over the active ones (Hu et al. 2022, arXiv:2106.09685,
    equation 3, and section 4.1 on merging); with adapters switched off it is W. Rows that an adapter trains in full
    stand in place of the base's. Where nothing is added, the tensors are the layer's own, not copies.

    Raises:
        TypeError: the layer computes something else, or more (dropout, DoRA, an adapter's own bias).
    """
    if type(layer) is nn.Linear or is_packed(layer):
        bias: Tensor | None = layer.bias  # type: ignore[assignment]
        return weight_of(layer), bias
    if type(layer) is Conv1D:
        return weight_of(layer).t(), layer.get_parameter("bias")
    if type(layer) is LoraLinear:
        return _with_lora(layer)
    rows = layer.token_adapter if type(layer) is TrainableTokensWrapper else None
    if isinstance(rows, TrainableTokensLayer) and type(rows.base_layer) is nn.Linear and rows.base_layer.bias is None:
        return effective_rows(rows), None
    raise TypeError(f"{type(layer).__name__} is not a linear layer whose weight is known")


def _with_lora(layer: LoraLinear) -> tuple[Tensor, Tensor | None]:
    base = layer.get_base_layer()
    weight, bias = effective_linear(base)
    active = [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.merged_adapters:
        raise TypeError("adapters are merged into their base for the time being")
    for name in active:
        dropout = layer.lora_dropout[name]
        drops = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
        if name in layer.lora_variant or layer.lora_bias[name] or drops:
            raise TypeError(f"adapter {name!r} is more than a product of two matrices")
        delta = layer.get_delta_weight(name)  # in the layout of the base's parameter
        weight = weight + (delta.t() if type(base) is Conv1D else delta).to(weight.dtype)
    return weight, bias


def effective_table(layer: nn.Module) -> Tensor | None:
    """The table (vocabulary, width) that an embedding reads rows of, or None where it does more than that."""
    if type(layer) is nn.Embedding and layer.max_norm is None:
        return weight_of(layer)
    rows = layer.token_adapter if type(layer) is TrainableTokensWrapper else None
    if isinstance(rows, TrainableTokensLayer) and type(rows.base_layer) is nn.Embedding:
        return effective_rows(rows)
    return None


def effective_rows(layer: TrainableTokensLayer) -> Tensor:
    """The weight of a layer some of whose rows an adapter trains in full."""
    if layer.merged_adapters:
        raise TypeError("adapters are merged into their base for the time being")
    weight = weight_of(layer.base_layer)
    for new in active_rows(layer):
        weight = weight.detach().index_copy(0, new.ids, new.rows.detach().to(weight.dtype))
    return weight

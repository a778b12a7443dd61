"""Frozen matrices in the dtype of their checkpoint, at two bytes a weight, computed with as float32.

Every half-precision number is a float32 number, so products with the widened matrix are those of a float32 copy to the
bit. The copy lives for one product, in the forward and again in the backward. Under autocast matrices multiply as they
are, which is what autocast would make of a float32 copy.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.functional import linear as torch_linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heed.models.four_bits import is_packed, unpacked_weight
from heed.models.kernels.matmul import multiply, multiply_rows

HALF = (torch.bfloat16, torch.float16)
HELD = "heed_held"
"""attribute of a module whose matrix is kept in fewer bits than it computes with"""


def hold_frozen(model: PreTrainedModel) -> None:
    """Make a half-precision model compute in float32, its matrices staying as they are; everything is frozen.

    What is no matrix of a linear layer or a table, such as norms and biases, is widened: it weighs next to nothing.
    To be called before an adapter is put on. Rows of tables that it trains stand beside them: `new_rows`.
    """
    weights = [
        (module, module.weight) for module in model.modules() if isinstance(getattr(module, "weight", None), Tensor)
    ]
    # A scaled embedding that shares its table with a head would read it as it is, and go on in its bits.
    others = {id(weight) for module, weight in weights if not _can_hold(module)}
    held: set[int] = set()
    for module, weight in weights:
        if weight.dtype in HALF and id(weight) not in others:
            module.forward = MethodType(FORWARDS[type(module)], module)
            setattr(module, HELD, True)
            held.add(id(weight))
    for parameter in model.parameters():
        if id(parameter) not in held and parameter.dtype in HALF:
            parameter.data = parameter.data.float()
        parameter.requires_grad_(False)


@torch.no_grad()
def narrow(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze a float32 model, and keep its matrices at two bytes a weight where 16 bits hold every number of one.

    So it is where the weights came from files of 16 bits and have not been trained since. Where an adapter is on it
    already, its rows of new tokens are to be mended after: `mend_new_rows`. Returns the model.
    """
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and not is_packed(module):
            users.setdefault(id(weight), []).append(module)
    for modules in users.values():
        weight = modules[0].get_parameter("weight")
        if weight.dtype != torch.float32 or weight.dim() < 2 or not all(map(_can_hold, modules)):
            continue
        narrowed = (weight.to(dtype) for dtype in HALF)
        if (half := next((each for each in narrowed if torch.equal(each.float(), weight)), None)) is not None:
            weight.data = half
    hold_frozen(model)
    return model


def _can_hold(module: nn.Module) -> bool:
    return type(module) in FORWARDS and getattr(module, "max_norm", None) is None


def is_held(module: nn.Module) -> bool:
    """Whether the module computes in a wider dtype than its matrix is kept in."""
    return getattr(module, HELD, False)


def weight_of(module: nn.Module) -> Tensor:
    """The module's weight as it computes with it: a widened copy where it is kept in fewer bits."""
    if is_packed(module):
        return unpacked_weight(module)
    weight = module.get_parameter("weight")
    return weight.float() if is_held(module) else weight


class HeldProduct(torch.autograd.Function):
    """x W^T + bias for a frozen W of fewer bits than x; the graph keeps W itself and no widened copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        """x: (rows, in); weight: (out, in); returns (rows, out)."""
        ctx.save_for_backward(weight)
        return multiply_rows(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of x; the rest is frozen."""
        (weight,) = ctx.saved_tensors
        return multiply(grad.contiguous(), weight.to(grad.dtype)), None, None


def held_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias over the last dimension."""
    if torch.is_autocast_enabled(x.device.type):
        return torch_linear(x, weight, bias)
    rows: Tensor = HeldProduct.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return rows.view(*x.shape[:-1], weight.shape[0])


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    return held_linear(x, module.weight, module.bias)


def _conv1d_forward(module: Conv1D, x: Tensor) -> Tensor:
    return held_linear(x, module.weight.t(), module.bias)


def _embedding_forward(module: nn.Embedding, ids: Tensor) -> Tensor:
    return embedding(ids, module.weight).float()


FORWARDS: dict[type[nn.Module], Any] = {
    nn.Linear: _linear_forward,
    Conv1D: _conv1d_forward,
    nn.Embedding: _embedding_forward,
}

"""Frozen linear layers in four bits (NF4): bitsandbytes packs and unpacks their weights, heed multiplies with them.

A weight becomes one of 16 values times the largest of its block of 64, and those scales are kept in 8 bits, in blocks
of 256 (Dettmers et al. 2023, arXiv:2305.14314, section 3): 4.13 bits a weight. The layer computes with the unpacked
weight, code * scale in float32, as any linear layer does with its own: in float32, or in autocast's dtype under
autocast. The unpacked copy lives for one product, in the forward and again in the backward; the graph keeps the packed
one.

bitsandbytes' own forward is not used on a CPU. On processors with AVX512-BF16 it lays a weight out anew, for inference
in bfloat16, at the first forward without a gradient of a layer that is in evaluation, as heed's are; what is trained
below that layer gets no gradient from then on, and nothing says so. Nor is its unpacking asked for more than a row.
"""

import math
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from heed.models.kernels.matmul import multiply, multiply_rows

BLOCK_SIZE = 64
"""weights that share a scale"""
PACKED = "heed_packed"
"""attribute of a linear layer whose weight is in four bits"""


def hold_packed(model: PreTrainedModel) -> list[str]:
    """Let the model's four-bit layers compute as the module says; returns their names.

    Raises:
        ValueError: a layer that should be in four bits holds something else.
    """
    names = []
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit":
            continue
        state = getattr(module.weight, "quant_state", None)
        if state is None or getattr(state, "packing_format_for_cpu", False):
            raise ValueError(f"{name}.weight is not packed in four bits, but {module.weight.dtype}")
        module.quant_state = state
        module.forward = MethodType(packed_forward, module)
        setattr(module, PACKED, True)
        names.append(name)
    return names


def is_packed(module: nn.Module) -> bool:
    """Whether the module is a linear layer whose weight is in four bits."""
    return getattr(module, PACKED, False)


def has_packed(model: nn.Module) -> bool:
    """Whether any layer of the model is in four bits."""
    return any(map(is_packed, model.modules()))


def packed_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers in four bits, by the names that they have without adapters."""
    return {name.replace(".base_layer", ""): module for name, module in model.named_modules() if is_packed(module)}


def unpacked(weight: Tensor, state: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight (out, in) that a packed one stands for: code * scale, rounded to `dtype`.

    Asked for the weight in its shape, bitsandbytes 0.50 on a CPU takes the scales of other blocks, without a word,
    where the inputs of the layer are no multiple of a block; asked for one long row, it does not.
    """
    from bitsandbytes.functional import dequantize_blockwise  # of an extra

    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    at_once = dtype if dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.float32
    row = torch.ops.bitsandbytes.dequantize_4bit.default(
        weight.detach(), scales.float(), state.blocksize, state.quant_type, (1, math.prod(state.shape)), at_once
    )
    return row.view(tuple(state.shape)).to(dtype)


def unpacked_weight(module: nn.Module) -> Tensor:
    """The float32 weight (out, in) of a packed layer, a copy."""
    return unpacked(module.get_parameter("weight"), module.quant_state)


def size_of(module: nn.Module) -> int:
    """The numbers that a packed layer's weight stands for."""
    state: Any = module.quant_state
    return math.prod(state.shape)


def scales_of(module: nn.Module) -> dict[str, Tensor]:
    """All that a packed layer's weight is made of besides its codes, by name."""
    state: Any = module.quant_state
    found = {"absmax": state.absmax}
    if state.nested:
        found |= {"nested_absmax": state.state2.absmax, "offset": state.offset}
    return found


def rounded(weight: Tensor) -> Tensor:
    """A weight (out, in) as its four-bit form has it: packed and unpacked again, in float32."""
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(
        weight.detach().float().contiguous(), blocksize=BLOCK_SIZE, compress_statistics=True, quant_type="nf4"
    )
    return unpacked(codes, state)


class PackedProduct(torch.autograd.Function):
    """x W^T + bias for a frozen W in four bits; the graph keeps W packed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, state: Any) -> Tensor:  # type: ignore[override]
        """x: (rows, in); weight: packed; returns (rows, out)."""
        ctx.save_for_backward(weight)
        ctx.state = state
        return multiply_rows(x, unpacked(weight, state, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of x; the rest is frozen."""
        (weight,) = ctx.saved_tensors
        return multiply(grad.contiguous(), unpacked(weight, ctx.state, grad.dtype)), None, None, None


def packed_forward(module: nn.Linear, x: Tensor) -> Tensor:
    """x W^T + bias over the last dimension; on a GPU without a gradient by bitsandbytes' own kernel."""
    device = x.device.type
    state: Any = module.quant_state
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    bias = None if module.bias is None else module.bias.to(x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    if device != "cpu" and not torch.is_grad_enabled() and x.shape[-1] % BLOCK_SIZE == 0:
        from bitsandbytes.autograd._functions import matmul_4bit  # unpacks nothing where there are few rows

        product: Tensor = matmul_4bit(rows, module.weight, quant_state=state, bias=bias)
    else:
        product = PackedProduct.apply(rows, module.weight, bias, state)  # type: ignore[no-untyped-call]
    return product.view(*x.shape[:-1], product.shape[-1])


def num_parameters(*parts: nn.Module, trained: bool = False) -> int:
    """Parameters of modules, each counted once, and a packed weight by the numbers that it stands for.

    Args:
        trained: whether only those that learn are counted.
    """
    counts = {id(p): p.numel() for part in parts for p in part.parameters() if p.requires_grad or not trained}
    for module in (module for part in parts for module in part.modules() if is_packed(module)):
        if not trained:
            counts[id(module.weight)] = size_of(module)
    return sum(counts.values())

"""Matrix products on CPU through oneDNN where that is faster: the same float32 mathematics, in wider registers.

PyTorch multiplies float32 matrices with MKL. On processors not made by Intel, MKL keeps to AVX2, while oneDNN, which
PyTorch ships too, uses AVX-512 wherever it is there. The choice depends on the processor alone, never on a timing, so a
resumed run makes it again.
"""

from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as torch_linear
from transformers.pytorch_utils import Conv1D

from heed.models.kernels.plain import plain

BAND_ROWS = 4096
"""rows of a tall product made at a time"""


@cache
def onednn_is_faster() -> bool:
    """Whether this machine's float32 products should go through oneDNN: AVX-512, and not an Intel processor."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    processors = Path("/proc/cpuinfo")
    return processors.exists() and "GenuineIntel" not in processors.read_text(errors="replace")


def suits_onednn(*tensors: Tensor | None) -> bool:
    """Whether these operands can take the oneDNN path here."""
    return (
        onednn_is_faster()
        and not plain()
        and all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0) for x in tensors)
    )


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias by oneDNN; operands may be transposed views."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def multiply_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, in a new buffer."""
    return onednn(x, weight, bias) if suits_onednn(x, weight, bias) else torch_linear(x, weight, bias)


def multiply(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x weight."""
    if suits_onednn(x, weight):
        product = onednn(x, weight.t(), None)
        return product if out is None else out.copy_(product)
    return torch.mm(x, weight, out=out) if out is not None else x @ weight


def add_transposed_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """total += x^T y, for a tall x^T: in bands, each of which stays in the processor's cache while it is added."""
    if not suits_onednn(total, x, y):
        total.addmm_(x.t(), y)
        return
    for start in range(0, len(total), BAND_ROWS):
        band = slice(start, start + BAND_ROWS)
        total[band].add_(onednn(x[:, band].t(), y.t(), None))


class OnednnLinear(torch.autograd.Function):
    """y = x weight^T + bias with its three products through oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        """x: (rows, in); weight: (out, in); returns (rows, out)."""
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, weight and bias, each only where it is asked for."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_x = onednn(grad, weight.t(), None) if needs_x else None
        grad_weight = None
        if needs_weight:  # a Conv1D holds its weight transposed: give the gradient in the layout of the parameter
            straight = weight.is_contiguous()
            grad_weight = onednn(grad.t(), x.t(), None) if straight else onednn(x.t(), grad.t(), None).t()
        return grad_x, grad_weight, grad.sum(0) if needs_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias over the last dimension, differentiable; by oneDNN where that is faster."""
    if not suits_onednn(x, weight, bias) or torch.is_autocast_enabled("cpu"):
        return torch_linear(x, weight, bias)
    rows: Tensor = OnednnLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return rows.view(*x.shape[:-1], weight.shape[0])


def linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    """Forward of `nn.Linear`."""
    return linear(x, module.weight, module.bias)


def conv1d_forward(module: Conv1D, x: Tensor) -> Tensor:
    """Forward of GPT-2's `Conv1D`, which is a linear layer with its weight transposed."""
    return linear(x, module.weight.t(), module.bias)


def use_fast_products(model: nn.Module) -> None:
    """Let the model's linear layers multiply through `linear`; their parameters and names stay as they are."""
    if not onednn_is_faster():
        return
    for module in model.modules():
        if "forward" in vars(module):  # it has one of its own already
            continue
        if type(module) is nn.Linear:
            module.forward = MethodType(linear_forward, module)  # type: ignore[method-assign]
        elif type(module) is Conv1D:
            module.forward = MethodType(conv1d_forward, module)

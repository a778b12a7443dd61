"""The same mathematics in fewer passes over memory: swaps made on a loaded model, each checked before it is kept.

Parameters, their names and the saved files stay as they are; only how a module computes its forward changes.
"""

from functools import partial
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, rms_norm
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from heed.models.adapters.new_rows import use_rows_beside_table
from heed.models.kernels.matmul import use_fast_products
from heed.models.kernels.plain import plain
from heed.models.kernels.rotary import use_fused_rotation


def speed_up(model: PreTrainedModel) -> None:
    """Swap slow forwards for fused ones on every module that has one."""
    if plain():
        return
    use_fast_products(model)
    for module in model.modules():
        if isinstance(module, NewGELUActivation):
            module.forward = partial(gelu, approximate="tanh")
        elif type(module).__name__.endswith("RMSNorm"):
            use_fused_rms_norm(module)
        elif "forward" in vars(module) and type(module) is nn.Embedding:
            continue  # it has one of its own already
        elif isinstance(module, TrainableTokensLayer):
            use_rows_beside_table(module)
        elif type(module) is nn.Embedding and module.max_norm is None and not module.sparse:
            module.forward = partial(embedding_forward, module)  # type: ignore[method-assign]
        else:
            use_fused_rotation(module)


class Embed(torch.autograd.Function):
    """Rows of a table; the backward adds to the rows that were read and touches no other.

    Autograd would fill a second table with zeros, add the rows to it, and add it to the gradient: for a vocabulary of
    50,000 that is three passes over 150 MB for some hundred rows. So the table's `grad` is added to here, in place.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: nn.Parameter, padding_idx: int | None) -> Tensor:  # type: ignore[override]
        """ids: any shape; table: (vocabulary, width); returns ids' shape with the width appended."""
        ctx.save_for_backward(ids)
        ctx.table, ctx.padding_idx = table, padding_idx
        return torch.nn.functional.embedding(ids, table.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        """Add each read row's gradient to `table.grad`."""
        (ids,) = ctx.saved_tensors
        table = ctx.table
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        ids, grad = ids.reshape(-1), grad.reshape(-1, table.shape[1])
        if ctx.padding_idx is not None:  # PyTorch's rule: a padding row never learns from being read
            ids, grad = ids[ids != ctx.padding_idx], grad[ids != ctx.padding_idx]
        table.grad.index_add_(0, ids, grad.to(table.grad.dtype))
        return None, None, None


def embedding_forward(module: nn.Embedding, ids: Tensor) -> Tensor:
    """Forward of `nn.Embedding`."""
    if not (module.weight.requires_grad and torch.is_grad_enabled() and module.weight.is_leaf):
        return torch.nn.functional.embedding(ids, module.weight)
    rows: Tensor = Embed.apply(ids, module.weight, module.padding_idx)  # type: ignore[no-untyped-call]
    return rows


def use_fused_rms_norm(module: nn.Module) -> None:
    """Give an RMSNorm a forward of few passes, where that computes the same function.

    y = x / sqrt(mean(x^2) + eps) * weight  (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4), with 1 + weight
    in Gemma's. Families spell it in many ways, so the module is asked: both forms are tried on random input.
    """
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or eps is None or weight.dim() != 1:
        return
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(4, len(weight), generator=generator).to(weight.device, weight.dtype)
    kept = weight.detach().clone()
    with torch.no_grad():
        try:
            weight.copy_(torch.rand(len(weight), generator=generator).to(weight) + 0.5)
            expected = module(probe)
            for offset in (0.0, 1.0):
                found = fused_rms_norm(module, probe, offset=offset, eps=eps)
                if torch.allclose(found, expected, rtol=1e-5, atol=1e-5):
                    module.forward = partial(fused_rms_norm, module, offset=offset, eps=eps)
                    break
        except Exception:  # a norm that takes something else raises whatever it likes
            return
        finally:
            weight.copy_(kept)


def fused_rms_norm(module: nn.Module, x: Tensor, *, offset: float, eps: float) -> Tensor:
    """RMSNorm with `offset` added to the weight, in few passes; statistics in at least float32."""
    weight: Tensor = module.weight + offset if offset else module.weight  # type: ignore[assignment,operator]
    if x.dtype in (torch.bfloat16, torch.float16):
        return normed(x.float(), weight.float(), eps).to(x.dtype)
    return normed(x, weight.to(x.dtype), eps)


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, by the device's fastest way."""
    if x.device.type != "cpu":
        return rms_norm(x, weight.shape, weight, eps)
    result: Tensor = RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


class RmsNorm(torch.autograd.Function):
    """RMSNorm on a CPU, where PyTorch takes it apart: its backward would be some fifteen passes, this one is five.

    With r = 1 / sqrt(mean(x^2) + eps), y = x r w, and g the gradient of y:

        d x = r (g w - x r^2 mean(x g w)),   d w = sum over rows of g x r
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        """x: (..., width); weight: (width,)."""
        # The families' own operations in their order, so that the result is theirs to the bit.
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """See the class."""
        x, weight, scale = ctx.saved_tensors
        product = grad * x
        to_x = None
        if ctx.needs_input_grad[0]:
            # Not `@`, which autocast would round to its low precision where the backward runs under it.
            mean = torch.mv(product.reshape(-1, len(weight)), weight).view(scale.shape)
            mean.mul_(scale.square()).div_(-len(weight))
            to_x = (grad * weight).addcmul_(x, mean).mul_(scale)
        to_weight = product.mul_(scale).reshape(-1, len(weight)).sum(0) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, None

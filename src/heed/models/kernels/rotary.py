"""Rotary position embedding in few passes over memory, for the families that rotate the first half with the second.

With x = (a, b) in halves and likewise the cosines and sines of the positions,

    (a, b)  ->  (a cos_a - b sin_a,  b cos_b + a sin_b)

(Su et al. 2021, arXiv:2104.09864, equation 34, in the layout of GPT-NeoX and Llama.) Written with a rotated copy, as
models are, it is five passes forward and a dozen backward; here it is three and two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "apply_rotary_pos_emb"
"""what the rotation of queries and keys is called in every family's file"""

Rotation = Callable[..., tuple[Tensor, Tensor]]
"""(query, key, cos, sin) -> (query, key)"""


def use_fused_rotation(module: nn.Module) -> None:
    """Let an attention module on the CPU rotate through `rotated_pair`, where its family's own rotation is that
    function.

    The module gets a copy of its class's forward in which one name means something else, so no other model sees it.
    The copy's other names are those of the family's file when the first of the class was swapped: what is patched
    into that file afterwards is not seen by this model. (Another rotation or another forward is, by later models.)
    """
    forward = type(module).forward
    if "forward" in vars(module) or not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names:
        return
    own = forward.__globals__.get(NAME)
    if own is None or any(parameter.device.type != "cpu" for parameter in module.parameters()):
        return
    rotating = rotating_in_few_passes(forward, own)
    if rotating is not None:
        module.forward = MethodType(rotating, module)


@cache
def rotating_in_few_passes(forward: FunctionType, own: Rotation) -> FunctionType | None:
    """A copy of a class's forward that rotates through `rotated_pair`; None where `own` is another function.

    The family's function is asked: both are tried on random input, once for all layers.
    """
    if not rotates_halves(own):
        return None
    names = {**forward.__globals__, NAME: partial(rotated_pair, own)}
    copied = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copied.__kwdefaults__ = forward.__kwdefaults__
    return copied


def rotates_halves(rotation: Rotation) -> bool:
    """Whether a family's rotation is the one above, without another argument."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    # Two sequences at different positions: with one, cosines that belong to the heads would broadcast just as well.
    query, key, cos, sin = draw(2, 2, 3, 8), draw(2, 1, 3, 8), draw(2, 3, 8), draw(2, 3, 8)
    try:
        expected = rotation(query, key, cos, sin)
        found = rotated_pair(rotation, query, key, cos, sin)
    except Exception:  # a family whose rotation takes something else raises whatever it likes
        return False
    return len(expected) == 2 and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-12) for a, b in zip(expected, found, strict=True)
    )


def rotated_pair(
    own: Rotation, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any
) -> tuple[Tensor, Tensor]:
    """Query and key rotated; by the family's `own` function on a GPU, in low or mixed precision, where only a part of
    each head is rotated, where the angles learn, in any other layout and with further arguments.

    Args:
        query, key: (batch, heads, T, head size).
        cos, sin: (batch, T, head size).
    """
    if others or named or not is_known(query, key, cos, sin):
        return own(query, key, cos, sin, *others, **named)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return Rotated.apply(query, cos, sin), Rotated.apply(key, cos, sin)  # type: ignore[no-untyped-call]


def is_known(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `Rotated` is meant for these: the layout of `rotated_pair`, on a CPU, exact, and with fixed angles."""
    is_whole = query.dim() == key.dim() == 4 and cos.dim() == 3 and query.shape[-1] == key.shape[-1] == cos.shape[-1]
    is_exact = query.dtype in (torch.float32, torch.float64) and query.dtype == key.dtype == cos.dtype == sin.dtype
    is_fixed = sin.shape == cos.shape and not (cos.requires_grad or sin.requires_grad)
    return is_whole and is_exact and is_fixed and query.device.type == "cpu"


class Rotated(torch.autograd.Function):
    """The rotation above; its backward is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        """x: (batch, heads, T, head size); cos, sin: broadcastable to it, without a gradient."""
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        rotated = x * cos
        # Not `addcmul_`, which rounds once where the families round twice: so the result is theirs to the bit.
        rotated[..., :half].sub_(x[..., half:] * sin[..., :half])
        rotated[..., half:].add_(x[..., :half] * sin[..., half:])
        return rotated

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """d a = g_a cos_a + g_b sin_b,  d b = g_b cos_b - g_a sin_a."""
        cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        to_x = grad * cos
        to_x[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        to_x[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return to_x, None, None

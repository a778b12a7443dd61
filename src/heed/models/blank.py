"""Tensors without numbers: what a step of a model holds in memory is counted without the memory.

A blank tensor has a shape, a dtype and a size. heed's own forward and backward run on blank tensors as on real ones,
operation by operation, and each makes others; so what is alive at any moment is counted and not estimated.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
aten = torch.ops.aten
ASKED = {aten._local_scalar_dense.default: 1.0, aten.allclose.default: True, aten.equal.default: True}
"""what a program is told that asks for a number where there is none"""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most that were at once.

    Where a model is blank, tensors of indices keep their numbers: programs go by them.
    """

    def __init__(self, held: Iterable[Tensor], blank: FakeTensorMode | None = None) -> None:
        """Count all but `held`: parameters, buffers, gradients.

        Args:
            blank: the mode of blank tensors; None where all are real.
        """
        super().__init__()
        self.blank = blank
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._held = {id(tensor.untyped_storage()): tensor.untyped_storage() for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it makes."""
        named = kwargs or {}
        found = func(*args, **named) if self.blank is None else _without_numbers(self.blank, func, args, named)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return found

    def mark(self) -> int:
        """The bytes that are alive; the peak starts anew from here."""
        self.peak = self.live
        return self.live

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name = id(storage)
        if name in self._sizes or name in self._held:
            return
        self._sizes[name] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, name)

    def _forget(self, name: int) -> None:
        self.live -= self._sizes.pop(name)


def _without_numbers(blank: FakeTensorMode, func: Any, args: Any, named: Any) -> Any:
    """An operation on blank tensors, or on real ones of indices."""
    tensors = [x for x in tree_leaves((args, named)) if isinstance(x, Tensor)]
    if not any(isinstance(x, FakeTensor) for x in tensors):
        if not tensors and func.namespace == "aten":
            with blank:
                made = func(*args, **named)
            if isinstance(made, Tensor) and made.dtype.is_floating_point:
                return made
        with unset_fake_temporarily():
            return func(*args, **named)
    if func in ASKED:
        return ASKED[func]
    if func in INDEXED:  # a mask of numbers that are known says how many there are
        args = (args[0], [y for x in args[1] for y in _as_indices(x)], *args[2:])
    given, given_named = tree_map(lambda x: as_blank(x, blank), (args, named))
    with blank:
        found = func(*given, **given_named)
    is_in_place = func._schema.is_mutable and isinstance(args[0], Tensor)
    return args[0] if is_in_place and not isinstance(args[0], FakeTensor) else found


def _as_indices(x: Tensor | None) -> list[Tensor | None]:
    if x is None or x.dtype != torch.bool or isinstance(x, FakeTensor):
        return [x]
    with unset_fake_temporarily():
        return list(x.nonzero(as_tuple=True))


def as_blank(x: Any, blank: FakeTensorMode) -> Any:
    """A blank tensor in place of a real one or one on the meta device; anything else as it is."""
    if not isinstance(x, Tensor) or isinstance(x, FakeTensor):
        return x
    return FakeTensor(blank, x.detach(), CPU) if x.is_meta else blank.from_tensor(x)


def make_blank(model: nn.Module, blank: FakeTensorMode) -> None:
    """Put blank tensors in place of a model's parameters and buffers, all of which are on the meta device."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, FakeTensor):
                if id(parameter) not in made:
                    new = as_blank(parameter, blank)
                    made[id(parameter)] = nn.Parameter(new, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = as_blank(buffer, blank)

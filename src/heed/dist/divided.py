"""A model divided among processes: each holds a part of every parameter, its gradient and its moments.

    parameters, gradients, moments of a process:   1 / N of the model's, with N processes (FSDP2 of PyTorch)

A layer is put together before its forward and its backward and taken apart after, so that a forward of one process
needs one of every other: processes must take as many (`World.moves_together`). Whatever reads a divided model does so
inside the forward of one module around all of it, as `Sharded.call` does: a head that is read outside would keep the
gradient of its own process, and nobody would notice.

Sources: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277; Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054.
Differs from the usual: gradients are summed, not averaged, for the loss is divided over the whole step before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from heed.dist.shards import divided_like
from heed.dist.world import World

Result = TypeVar("Result")


class Calls(nn.Module):
    """Around a model: its forward is whatever function is called with the model, so that everything is inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What the function makes of the model."""
        return function(self.model, *given, **named)


@dataclass(frozen=True, eq=False)
class Sharded:
    """A model whose parameters are divided among processes."""

    root: nn.Module
    parts: tuple[FSDPModule, ...]
    """modules that are put together and taken apart as one: the root with what is in no layer, then layers"""

    def call(self, function: Callable[..., Result], *given: Any, **named: Any) -> Result:
        """function(model, ...), with a gradient or without; every process must call one, whatever it is given."""
        found: Result = self.root(function, *given, **named)
        if not torch.is_grad_enabled():
            self.take_apart()  # else weights would stay together, and a step that follows would not reach them
        return found

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every process holds the whole model, and may use it as often as it likes; no gradient comes of it.

        For answers, whose lengths differ from process to process. All processes enter and leave together.
        """
        for part in self.parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
        try:
            with torch.no_grad():
                yield
        finally:
            for part in self.parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self.parts[0], recurse=False)

    @contextmanager
    def whole_on_first(self, world: World, *, trained_only: bool = False) -> Iterator[None]:
        """The first process has whole parameters in the model meanwhile, in the memory of the CPU, to write them.

        The model is in memory once, or of it what is trained. All processes enter and leave together; none computes with it inside.
        """
        self.take_apart()
        whole: dict[int, nn.Parameter] = {}
        places = [(m, name) for m in self.root.modules() for name, p in m._parameters.items() if p is not None]
        shards = {(m, name): m._parameters[name] for m, name in places}
        for shard in {id(shard): shard for shard in shards.values()}.values():  # tied ones once, on every process
            if is_shard(shard) and (shard.requires_grad or not trained_only):
                together = shard.full_tensor().detach()
                if world.is_first:
                    whole[id(shard)] = nn.Parameter(together.cpu(), requires_grad=shard.requires_grad)
        try:
            for (module, name), shard in shards.items():
                module._parameters[name] = whole.get(id(shard), shard)  # not set as an attribute: modules may forbid it
            yield
        finally:
            for (module, name), shard in shards.items():
                module._parameters[name] = shard

    def take_apart(self) -> None:
        """Let every process hold its parts alone again."""
        for part in self.parts:
            part.reshard()


def shard(
    model: nn.Module,
    layers: Sequence[nn.Module],
    world: World,
    *,
    machines: int = 1,
    offload: bool,
    complete: Callable[[nn.Module], None] = lambda part: None,
) -> Sharded:
    """Divide a model's parameters among all processes, or among those of a machine with a copy on each machine.

    Args:
        layers: parts of the model that are put together one at a time.
        machines: copies; 1 divides among all.
        offload: whether a process keeps its part in the memory of the CPU between uses.
        complete: called on what is divided next, so that no more than that need be in memory whole.
    """
    device = next(model.parameters()).device.type
    mesh = mesh_of(world, device, machines)
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    for layer in layers:
        complete(layer)
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    root = Calls(model)
    complete(model)
    fully_shard(root, mesh=mesh, offload_policy=policy)
    parts = tuple(module for module in root.modules() if isinstance(module, FSDPModule))
    for part in parts:
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    for part, before in zip(parts, (parts[-1], parts[0], *parts[1:-1]), strict=True):
        # What is put together next in a backward is settled here. Left to itself PyTorch goes by the order in which
        # parts were used last, in which a process that drew longer answers than another differs from it: they hang.
        part.set_modules_to_backward_prefetch([before if before is not parts[0] else part])
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nobody changes it in place
    sharded = Sharded(root, parts)
    with torch.no_grad():
        sharded.call(lambda model: torch.zeros(1))  # so that every part knows its root, whatever is used first
    return sharded


def mesh_of(world: World, device: str, machines: int) -> DeviceMesh:
    """How processes are arranged: (copies, shards) where there are several copies, else (shards,)."""
    if machines > 1:
        return init_device_mesh(device, (machines, world.size // machines), mesh_dim_names=("copies", "shards"))
    return init_device_mesh(device, (world.size,))


def is_shard(tensor: object) -> TypeGuard[DTensor]:
    """Whether this is a process's part of a divided tensor."""
    return isinstance(tensor, DTensor)


def num_local_bytes(tensors: Iterable[Tensor]) -> int:
    """What this process holds of tensors."""
    return sum(t.to_local().nbytes if is_shard(t) else t.nbytes for t in tensors)


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float, world: World) -> float:
    """Scale the whole gradient down to a 2-norm of `max_norm` where it is above; its norm before.

    Args:
        parameters: shards and whole ones alike; gradients of the latter are those of all processes already.
    """
    if not any(is_shard(parameter) for parameter in parameters):
        return float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    whole = torch.zeros((), dtype=torch.float64)
    divided = torch.zeros((), dtype=torch.float64)
    gradients: list[Tensor] = []
    for parameter in parameters:
        gradient = parameter.grad
        if is_shard(gradient):
            local = gradient.to_local()
            divided += _square(local) / _copies(gradient)
            gradients.append(local)
        elif gradient is not None:
            whole += _square(gradient)
            gradients.append(gradient)
    norm = float((world.sum(divided) + whole).sqrt())
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (norm + 1e-6))
    return norm


def _square(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return norm.square().cpu()


def _copies(tensor: DTensor) -> int:
    """How many processes hold the same part."""
    sizes = zip(tensor.placements, tensor.device_mesh.shape, strict=True)
    copies = 1
    for placement, size in sizes:
        copies *= 1 if placement.is_shard() else size
    return copies


@torch.no_grad()
def put(whole: Tensor, into: Tensor) -> None:
    """Copy a whole tensor's numbers into a parameter, or a process's part of them into its shard."""
    into.copy_(divided_like(whole.to(into.dtype), into))

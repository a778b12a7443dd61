"""Whether each process holds the whole of what is trained or a part of it, settled before the first step."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from heed import files
from heed.allocator import give_back_freed_memory
from heed.dist.divided import num_local_bytes, shard
from heed.dist.world import World
from heed.errors import UserError
from heed.models.pieces import complete
from heed.models.score import layers_of
from heed.models.self_check import ChosenScore
from heed.parallel_config import Offload, Parallel
from heed.recipes.training.sharing import shared

if TYPE_CHECKING:
    from heed.recipes.training.loop import Place
    from heed.train.run import SaveModel

FITS = 0.8
"""share of a device's memory that weights, gradients and moments may take where each process has a copy"""
BYTES_TRAINED = 12
"""of a trained number besides the number itself: its gradient and two moments in float32"""


class DividingSettings(Protocol):
    """What the settings of every recipe that trains say of it."""

    @property
    def parallel(self) -> Parallel: ...
    @property
    def offload(self) -> Offload: ...


def refuse_dividing_alone(settings: Any, world: World) -> None:
    """Raise if a model is to be divided, and there is nobody to divide it with."""
    parallel = getattr(settings, "parallel", "auto")
    offload = getattr(settings, "offload", ())
    if world.size > 1 or (parallel not in ("fsdp", "hsdp") and not offload):
        return
    asked = f"--parallel {parallel}" if parallel in ("fsdp", "hsdp") else f"--offload {','.join(offload)}"
    raise UserError(
        "a model is to be divided among processes, and there is one process",
        where=asked,
        found="one process: RANK and WORLD_SIZE are not set, or say so",
        expected="several, as torchrun starts them",
        fix="torchrun --nproc-per-node 2 --no-python heed ..., or leave it out: --parallel auto",
    )


def may_be_divided(settings: DividingSettings, world: World) -> bool:
    """Whether a model is divided for sure, or if it is too large for a copy each: it is then opened in pieces."""
    return world.size > 1 and settings.parallel != "ddp"


def divided(
    chosen: ChosenScore, settings: DividingSettings, world: World, say: Callable[[str], None], name: str = "model"
) -> ChosenScore:
    """The way of scoring a model, its parameters divided among processes where the settings or its size ask for it.

    To be called on every process before an optimiser is made of the parameters: they are others afterwards.

    Args:
        name: whose parameters they are, for the line that is said.
    """
    chosen = shared(chosen, world, say, name)
    way, why = way_of(chosen.model, settings, world)
    if world.size > 1:
        say(f"{name}: {way}, {why}")
    if way == "ddp":
        complete(chosen.model)
        if world.size > 1 and settings.offload:
            raise _nothing_to_offload(settings)
        return chosen
    machines = machines_of(world) if way == "hsdp" else 1
    whole = num_local_bytes(chosen.model.parameters())
    world.divide(name)
    give_back_freed_memory()
    sharded = shard(
        chosen.model,
        layers_of(chosen.model),
        world,
        machines=machines,
        offload="parameters" in settings.offload,
        complete=partial(complete, chosen.model),
    )
    held = num_local_bytes(chosen.model.parameters())
    say(f"{name}: a process holds {held / 1e6:,.1f} MB of {whole / 1e6:,.1f} MB of parameters")
    return replace(chosen, sharded=sharded)


def way_of(model: torch.nn.Module, settings: DividingSettings, world: World) -> tuple[Parallel, str]:
    """`ddp`, `fsdp` or `hsdp`, and why; all processes agree."""
    if settings.parallel != "auto":
        return settings.parallel, "as asked"
    if world.size == 1:
        return "ddp", "one process"
    parameters = list(model.parameters())
    needed = needed_by_copy(num_local_bytes(parameters), sum(p.numel() for p in parameters if p.requires_grad))
    room = min(world.gather_objects(memory_of_process(parameters[0].device)))
    told = f"{needed / 1e9:,.2f} GB of weights, gradients and moments in {room / 1e9:,.1f} GB a process"
    if settings.offload or needed > FITS * room:
        return "fsdp", f"--offload needs shards: {told}" if settings.offload else f"too little for a copy each: {told}"
    return "ddp", f"a copy fits: {told}"


def needed_by_copy(num_bytes: int, num_trained: int) -> int:
    """Bytes of weights, gradients and moments where a process has all of them.

    Args:
        num_bytes: of the parameters.
        num_trained: numbers that are trained.
    """
    return num_bytes + BYTES_TRAINED * num_trained


def memory_of_process(device: torch.device) -> int:
    """Bytes of memory that a process has for itself: its GPU's, or its share of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return of_machine // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))))


def machines_of(world: World) -> int:
    """How many machines take part, by torchrun's count of the processes on each.

    Raises:
        UserError: there is one, or they have not equally many processes.
    """
    counts = world.gather_objects(int(os.environ.get("LOCAL_WORLD_SIZE", str(world.size))))
    local = counts[0]
    if len(set(counts)) == 1 and local < world.size and world.size % local == 0:
        return world.size // local
    raise UserError(
        "copies on several machines, each divided within, need several machines that are alike",
        where="--parallel hsdp",
        found=f"processes on the machine of each process: {', '.join(map(str, counts[:16]))}, of {world.size} in all",
        expected="at least two machines with equally many processes (LOCAL_WORLD_SIZE, which torchrun sets)",
        fix="--parallel fsdp",
    )


def written_whole(write: SaveModel, chosen: ChosenScore, place: Place) -> SaveModel:
    """What writes a model's files, for a model that is read in many places when it is written.

    A divided model is put together on the first process and written right away, beside the run; what is given back puts
    the files where they belong.
    """
    if chosen.sharded is None:
        return write
    with chosen.sharded.whole_on_first(place.world):
        folder = place.world.on_first(lambda: _written(write, place.folder.folder))

    def move(to: Path) -> None:
        for path in sorted(folder.iterdir()):
            path.replace(to / path.name)
        folder.rmdir()

    return move


def _written(write: SaveModel, beside: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=files.TEMPORARY, dir=beside))
    folder.chmod(beside.stat().st_mode & 0o777)
    write(folder)
    return folder


def _nothing_to_offload(settings: DividingSettings) -> UserError:
    offload = ",".join(settings.offload)
    return UserError(
        "what is kept in the CPU's memory is a process's part of a model, and each is to have a copy",
        where="--parallel, --offload",
        found=f"--parallel {settings.parallel} --offload {offload}",
        expected="a divided model",
        fix=f"--parallel fsdp --offload {offload}",
    )

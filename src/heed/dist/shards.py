"""Tensors that are divided among processes, on the disk: each process writes its own shards, and reads those it needs.

By torch.distributed.checkpoint, so that what any number of processes wrote is read by any other. What is divided among
none stays with whoever calls.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from heed.dist.world import World
from heed.errors import UserError, typed
from heed.files import full_disk

MARK = "divided among processes"
"""the one key of a dict that stands for a tensor where the others are kept; its value is the tensor's name"""
WRITTEN_BY = {
    "torch": None,
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": None,
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "Path"},
}
"""what a table of shards is made of: names by module, None for plain types of that module"""


@dataclass(frozen=True, slots=True)
class Divided:
    """A tensor whose shards lie in a folder."""

    folder: Path
    name: str


def take_out(state: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A state of lists and dicts without its divided tensors, each of which leaves a mark; and those by name."""
    if isinstance(state, DTensor):
        return {MARK: name}, {name: state.detach()}
    if not isinstance(state, Mapping | list | tuple):
        return state, {}
    items = state.items() if isinstance(state, Mapping) else enumerate(state)
    inner = {key: take_out(value, f"{name}.{key}".lstrip(".")) for key, value in items}
    found = {name: tensor for _, tensors in inner.values() for name, tensor in tensors.items()}
    rest = {key: value for key, (value, _) in inner.items()}
    if isinstance(state, Mapping):
        return rest, found
    return type(state)(rest.values()), found


def put_in(rest: Any, folder: Path) -> Any:
    """The state that `take_out` took apart, with a `Divided` for each tensor whose shards lie in `folder`."""
    if isinstance(rest, Mapping):
        if rest.keys() == {MARK}:
            return Divided(folder, rest[MARK])
        return {key: put_in(value, folder) for key, value in rest.items()}
    if isinstance(rest, list | tuple):
        return type(rest)(put_in(value, folder) for value in rest)
    return rest


def save_shards(world: World, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the shards of tensors into a new folder. Called by every process; each writes its own.

    Raises:
        UserError: on every process, a disk is full on any of them, or they do not see one folder.
    """
    with world.talking("the writing of shards"):
        try:
            save(dict[str, Any](tensors), storage_writer=FileSystemWriter(folder))
        except CheckpointException as error:  # which is no Exception
            raise _failed(error, folder) from error
    missing = world.on_first(lambda: sorted(_files_of(folder) - {path.name for path in folder.iterdir()}))
    if missing:
        raise UserError(
            "shards of a checkpoint are not where the first process looks for them",
            where=str(folder),
            found=f"no {missing[0]}, which another process wrote",
            expected="a folder that all processes see",
            fix="--out a folder on a disk that all machines share",
        )


def load_shards(kept: Mapping[str, Divided], into: Mapping[str, Tensor]) -> None:
    """Fill tensors, whole or divided in any way, with what lies in the shards. Each process reads for itself.

    Args:
        into: of the size, by the names of `kept`.

    Raises:
        UserError: a shard is missing, damaged, or of another tensor.
    """
    for folder in dict.fromkeys(each.folder for each in kept.values()):
        state = {each.name: into[name] for name, each in kept.items() if each.folder == folder}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is", category=UserWarning)
                load(state, storage_reader=_Reader(folder), no_dist=True)
        except (Exception, CheckpointException) as error:
            raise UserError(
                "the shards of a checkpoint cannot be read",
                where=str(folder),
                found=_told(error),
                expected="the shards that heed wrote",
                fix=f"rm -r {typed(folder.parent)}, then start the same command again: it goes on from the one before",
            ) from error


def fitted(kept: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Kept tensors as each is needed now: divided as another one is, or whole where that one is whole.

    Args:
        kept: by name, tensors as they were whole, or `Divided` ones; anything else passes.
        like: by the same names.
    """
    fit = dict(kept)
    shards = {name: value for name, value in kept.items() if isinstance(value, Divided)}
    for name in shards:
        fit[name] = torch.empty_like(like[name], requires_grad=False)
    load_shards(shards, fit)
    for name, value in fit.items():
        target = like.get(name)
        if isinstance(target, DTensor) and isinstance(value, Tensor) and value.shape == target.shape:
            fit[name] = divided_like(value, target)
    return fit


@torch.no_grad()
def divided_like(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that every process has whole, divided as another one; nothing is sent."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class _Reader(FileSystemReader):
    """Reads the table of shards, a pickle, without running what it names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return _table_of(Path(self.path))


class _Table(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        names = WRITTEN_BY.get(module, set())
        found = super().find_class(module, name) if names is None or name in names else None
        is_plain = names is not None or isinstance(found, type | torch.dtype | torch.memory_format | torch.layout)
        if found is None or not is_plain:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return found


def _table_of(folder: Path) -> Metadata:
    with (folder / ".metadata").open("rb") as file:
        table: Metadata = _Table(file).load()
    return table


def _files_of(folder: Path) -> set[str]:
    """The names of the files in which a folder's shards are, by its table."""
    return {each.relative_path for each in _table_of(folder).storage_data.values()}


def _failed(error: CheckpointException, folder: Path) -> BaseException:
    """What happened on the processes that could not write, as one error for all."""
    rank, (first, _) = min(error.failures.items())
    full = full_disk(first, folder)
    if full is not None:
        return full
    if isinstance(first, OSError):
        return UserError(
            "a process cannot write its shards of a checkpoint",
            where=f"process {rank + 1} (rank {rank}), {folder}",
            found=_told(first),
            expected="a folder that all processes see and may write",
            fix="--out a folder on a disk that all machines share",
        )
    return RuntimeError(f"process {rank + 1} could not write its shards: {_told(first)}")


def _told(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

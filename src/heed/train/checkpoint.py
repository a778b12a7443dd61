"""What a checkpoint is made of, and what is wrong with one that is damaged.

step-000100/: the model's own files, training_state.pt, random_states.pt, and checkpoint.json with all checksums.
Tensors that are divided among processes are in shards/, where each process wrote its own; any number may read them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heed import files
from heed.dist.shards import fitted, put_in
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.train.environment import set_random_states

ALONE = World()
CHECKPOINTS = "checkpoints"
TRAINING_STATE, RANDOM_STATES, SHARDS, CHECKPOINT_MARKER = (
    "training_state.pt",
    "random_states.pt",
    "shards",
    "checkpoint.json",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on the disk. Its folder holds the model's files."""

    step: int
    folder: Path

    def state(self, device: str | torch.device = "cpu") -> dict[str, Any]:
        """What `Run.checkpoint` was given; of a tensor that was divided among processes, where its shards are."""
        state: dict[str, Any] = put_in(self._load(TRAINING_STATE, device), self.folder / SHARDS)
        return state

    def restore_random_states(self, world: World = ALONE) -> None:
        """Put this process's random generators where they were. A process that was not there keeps its own.

        Nothing that heed draws depends on them: a user's code on the first process may.
        """
        states = self._load(RANDOM_STATES, "cpu")
        if world.rank < len(states):
            set_random_states(states[world.rank])

    def _load(self, name: str, device: str | torch.device) -> Any:
        path = self.folder / name
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise UserError(
                "a checkpoint cannot be read",
                where=str(path),
                found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
                expected="the file that heed wrote",
                fix=f"rm -r {typed(self.folder)}, then start the same command again: it goes on from the one before",
            ) from error


def restore_optimiser(optimiser: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Put back what `optimiser.state_dict()` gave, divided among processes as the parameters are now.

    Args:
        kept: of a `Checkpoint.state`, saved on any number of processes.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    values = {(number, name): value for number, of in kept["state"].items() for name, value in of.items()}
    named = {f"{number}.{name}": value for (number, name), value in values.items()}
    fit = fitted(named, {f"{number}.{name}": parameters[number] for number, name in values})
    state = {number: {name: fit[f"{number}.{name}"] for name in of} for number, of in kept["state"].items()}
    own = optimiser.state_dict()["param_groups"]
    alike = [len(g["params"]) for g in own] == [len(g["params"]) for g in kept["param_groups"]]
    # Whole parameters and divided ones are in groups of their own; their numbers are the same however they are grouped.
    optimiser.load_state_dict({"state": state, "param_groups": kept["param_groups"] if alike else own})


def restore_tensors(targets: Mapping[str, Tensor], kept: Mapping[str, Any]) -> None:
    """Put kept tensors back into those that are there, bit for bit, however either is divided among processes."""
    fit = fitted({name: kept[name] for name in targets}, targets)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(fit[name])


def save_value(path: Path, value: Any) -> None:
    """torch.save through a Python file: given a name, it says of a full disk only that a position is unexpected."""
    with path.open("wb") as file:
        torch.save(value, file)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def named_checkpoints(run: Path) -> list[Checkpoint]:
    """The checkpoints of a run, whole or damaged, oldest first."""
    named = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in (run / CHECKPOINTS).glob("step-*")]
    return sorted((Checkpoint(int(match[1]), path) for match, path in named if match), key=lambda each: each.step)


def mark(checkpoint: Path, step: int) -> None:
    """Write down the size and the checksum of every file, by which damage is seen."""
    paths = {str(path.relative_to(checkpoint)): path for path in _files_in(checkpoint)}
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    checksums = {name: _checksum(path) for name, path in paths.items()}
    files.write_json(checkpoint / CHECKPOINT_MARKER, {"step": step, "sizes": sizes, "checksums": checksums})


def damage_of(checkpoint: Path, thorough: bool) -> str | None:
    """What is wrong with a checkpoint; None if every file is there in the size, and the content, it was written in.

    Args:
        thorough: whether every byte is read.
    """
    try:
        marker = json.loads((checkpoint / CHECKPOINT_MARKER).read_text(encoding="utf-8"))
        sizes: dict[str, int] = marker["sizes"]
        checksums: dict[str, int] = marker.get("checksums", {})  # older ones have none
    except (FileNotFoundError, NotADirectoryError):
        return f"{CHECKPOINT_MARKER} is missing"
    except (ValueError, KeyError, AttributeError):
        return f"{CHECKPOINT_MARKER} cannot be read"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} has {found:,} bytes of {size:,}"
        if thorough and name in checksums and _checksum(path) != checksums[name]:
            return f"{name} has another content than was written"
    return None


def _checksum(path: Path) -> int:
    """CRC-32, which sees what disks and copies do to a file and costs little next to writing it."""
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(2**20):
            checksum = zlib.crc32(part, checksum)
    return checksum

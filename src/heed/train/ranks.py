"""Before processes train together: that they are of one kind, were told one thing, and see one folder."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from heed import files
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.train.environment import PACKAGES
from heed.train.same_run import first_difference

SECONDS_TO_SEE = 30.0
"""after which a file that the first process wrote is visible on every machine, on network file systems too"""


def refuse_unequal(world: World, environment: Mapping[str, Any], config_yaml: str) -> None:
    """Compare versions and settings with those of the first process. Called by every process.

    Args:
        environment: from `environment()`; the machines may differ, the packages not.
        config_yaml: all settings.

    Raises:
        UserError: on every process, if one differs.
    """
    if world.size == 1:
        return
    versions = {name: environment[name] for name in ("python", *PACKAGES) if name in environment}
    everyone = world.gather_objects((versions, config_yaml))
    for rank, (theirs, config) in enumerate(everyone):
        where = f"process {rank + 1} of {world.size} (rank {rank})"
        differing = [name for name in theirs if theirs[name] != everyone[0][0].get(name)]
        if differing:
            name = differing[0]
            wanted = everyone[0][0].get(name)
            raise UserError(
                "the processes that train together have different versions",
                where=where,
                found=f"{name} {theirs[name]}",
                expected=f"{name} {wanted}, as on the first process",
                fix=f"on that machine: pip install {name}=={wanted}" if name != "python" else f"python {wanted} there",
            )
        difference = first_difference(yaml.safe_load(config), yaml.safe_load(everyone[0][1]))
        if difference is not None:
            setting, here, there = difference
            raise UserError(
                "the processes that train together were started with different settings",
                where=where,
                found=f"{setting} = {here}",
                expected=f"{setting} = {there}, as on the first process",
                fix="give every machine the same command",
            )


def refuse_separate_folders(world: World, folder: Path) -> None:
    """Make sure that all processes see the run folder that the first one made. Called by every process.

    Raises:
        UserError: on every process, if one does not.
    """
    if world.size == 1:
        return
    name = f"{files.TEMPORARY}seen-{secrets.token_hex(8)}"

    def leave() -> str:
        with files.writing(folder):
            (folder / name).touch()
        return name

    name = world.on_first(leave)
    give_up = time.monotonic() + SECONDS_TO_SEE
    while not (seen := (folder / name).exists()) and time.monotonic() < give_up:
        time.sleep(0.2)
    everyone = world.gather_objects(seen)
    world.on_first(lambda: (folder / name).unlink(missing_ok=True))
    if False in everyone:
        rank = everyone.index(False)
        raise UserError(
            "the output folder is not shared by the processes that train together",
            where=f"process {rank + 1} of {world.size} (rank {rank}), --out {typed(folder)}",
            found="not the folder that the first process writes",
            expected="one folder on a disk that all machines see",
            fix="--out a folder on a shared disk",
        )

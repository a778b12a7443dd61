"""Processes that cannot train together say so, once, and all end."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from heed.dist.world import World
from heed.errors import UserError
from heed.train import ranks
from heed.train.ranks import refuse_separate_folders, refuse_unequal

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["heed.train.ranks", "torch.distributed"])
SECONDS_AT_MOST = 120
VERSIONS = {"python": "3.12.1", "torch": "2.13.0", "cpu": "one"}


def work(rank: int, folder: Path, what: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    sys.stderr = (folder / f"told-{rank}").open("w")
    ranks.SECONDS_TO_SEE = 1.0
    try:
        with World.from_environment(init_method=f"file://{folder}/meeting") as world:
            exec(what, globals() | {"world": world, "rank": rank, "folder": folder})
    except UserError as error:
        if not error.is_told:
            print("error:", error, file=sys.stderr, flush=True)
        sys.exit(2)


def together(folder: Path, what: str) -> tuple[list[int | None], str]:
    processes = [FORK.Process(target=work, args=(rank, folder, what)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS_AT_MOST)
        told = "".join((folder / f"told-{rank}").read_text() for rank in range(2))
        return [process.exitcode for process in processes], told
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "refuse_unequal(world, VERSIONS | ({'torch': '2.12.0'} if rank else {}), 'a: 1')",
            ["different versions", "rank 1", "torch 2.12.0", "pip install torch==2.13.0"],
        ),
        (
            "refuse_unequal(world, VERSIONS, f'optim: {{lr: {rank + 1}}}')",
            ["different settings", "rank 1", "optim.lr = 2", "optim.lr = 1, as on the first process"],
        ),
        (
            "(folder / str(rank)).mkdir(); refuse_separate_folders(world, folder / str(rank))",
            ["is not shared", "rank 1", "a shared disk"],
        ),
    ],
)
def test_what_differs_is_named_once_and_ends_all(tmp_path, what, said):
    status, told = together(tmp_path, what)
    assert status == [2, 2]
    assert told.count("error: ") == 1
    assert "Traceback" not in told
    for words in said:
        assert words in told


def test_other_machines_and_one_folder_are_no_difference_and_leave_nothing_behind(tmp_path):
    (tmp_path / "run").mkdir()
    what = (
        "refuse_unequal(world, VERSIONS | {'cpu': str(rank)}, 'a: 1'); refuse_separate_folders(world, folder / 'run')"
    )
    assert together(tmp_path, what) == ([0, 0], "")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_process_on_its_own_compares_nothing(tmp_path):
    refuse_unequal(World(), VERSIONS, "a: 1")
    refuse_separate_folders(World(), tmp_path / "none")

"""Processes that end together: one is killed or fails, and the others end within a minute and say why, once."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PREAMBLE = textwrap.dedent("""
    import os, signal, sys, time
    import torch
    from heed.dist.world import World
    from heed.errors import UserError

    def mistake(found):
        raise UserError("a mistake", where="here", found=found, expected="none", fix="do it right")

    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        with World.from_environment("cpu", init_method=f"file://{sys.argv[1]}/meeting") as world:
            world.barrier()
            exec(sys.argv[2])
    except UserError as error:
        if not error.is_told:
            print("error:", error, file=sys.stderr)
        sys.exit(2)
""")
SECONDS_AT_MOST = 60
"""in which every process must have ended after one did"""


def together(folder, what, size=2):
    """(exit status, standard error) of each process, and the seconds from the first end to the last."""
    environment = {**os.environ, "WORLD_SIZE": str(size)}
    processes = []
    for rank in range(size):
        with (folder / f"told-{rank}").open("w") as told:
            words = [sys.executable, "-c", PREAMBLE, str(folder), textwrap.dedent(what)]
            processes.append(subprocess.Popen(words, env={**environment, "RANK": str(rank)}, stderr=told))
    try:
        first = None
        while any(process.poll() is None for process in processes):
            if first is None and any(process.poll() is not None for process in processes):
                first = time.monotonic()
            assert first is None or time.monotonic() < first + SECONDS_AT_MOST, "a process waits for one that is gone"
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told = [(folder / f"told-{rank}").read_text() for rank in range(size)]
    return [process.returncode for process in processes], told


@pytest.mark.parametrize("survivor_is", ["waiting", "busy"])
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_of_two_is_killed_the_other_ends_and_names_it(tmp_path, victim, survivor_is):
    what = f"killed() if world.rank == {victim} else {'world.barrier()' if survivor_is == 'waiting' else 'time.sleep(300)'}"
    status, told = together(tmp_path, what)
    assert status[victim] == -signal.SIGKILL
    assert status[1 - victim] == 2
    assert f"rank {victim}" in told[1 - victim]
    assert told[1 - victim].count("error: ") == 1
    assert "Traceback" not in told[1 - victim]


def test_when_one_of_three_is_killed_all_end(tmp_path):
    status, told = together(tmp_path, "killed() if world.rank == 2 else world.barrier()", size=3)
    assert sorted(status) == [-signal.SIGKILL, 2, 2]
    assert "rank 2" in told[0]
    assert not told[1], "it is told once"


@pytest.mark.parametrize("who", ["world.rank == 1", "world.rank == 0", "True"])
@pytest.mark.parametrize("others", ["world.barrier()", "time.sleep(300)"])
def test_a_mistake_is_told_once_and_ends_all_with_status_2(tmp_path, who, others):
    status, told = together(tmp_path, f"mistake('of some') if {who} else {others}")
    assert status == [2, 2]
    assert "".join(told).count("a mistake") == 1
    assert "".join(told).count("of some") == 1
    assert "Traceback" not in "".join(told)


def test_a_mistake_in_the_work_of_the_first_is_told_once(tmp_path):
    status, told = together(tmp_path, "world.on_first(lambda: mistake('in its work'))")
    assert status == [2, 2]
    assert "".join(told).count("in its work") == 1


def test_a_fault_of_one_ends_the_other_with_its_name(tmp_path):
    status, told = together(tmp_path, "{}['key'] if world.rank == 1 else world.barrier()")
    assert status == [1, 1]
    assert "KeyError: 'key'" in told[1]
    assert "process 2 failed: KeyError: 'key'" in told[0]


def test_talking_in_the_work_of_the_first_is_a_fault_and_no_hang(tmp_path):
    status, told = together(tmp_path, "world.on_first(lambda: world.sum(torch.ones(1)))")
    assert status == [1, 1]
    assert all("which the first process does alone" in each for each in told)


def test_one_may_leave_before_the_other_is_done(tmp_path):
    status, told = together(tmp_path, "time.sleep(3 * world.rank)")
    assert status == [0, 0]
    assert told == ["", ""]

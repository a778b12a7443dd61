"""A port that another program has is named by every process within seconds, with one that is free."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys
import heed.dist.meeting
from heed.dist.world import World
from heed.errors import UserError

heed.dist.meeting.ANSWER = 2.0
try:
    World.from_environment().close()
except UserError as error:
    print(error.problem, error.found, error.fix, "told" if error.is_told else "to be told", sep="\\n")
"""


@pytest.fixture
def silent_port():
    """Of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


def started(at, rank):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **at, "RANK": rank, "LOCAL_RANK": rank},
        stdout=subprocess.PIPE,
        text=True,
    )


def said_by(port, ranks, **more):
    """The lines of processes of one machine, started at once."""
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **more}
    processes = [started(at, rank) for rank in ranks]
    try:
        return [process.communicate(timeout=40)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_a_port_that_is_taken_is_told_once_and_the_port_of_the_fix_is_one_to_meet_at(silent_port):
    first, second = said_by(silent_port, "01")
    assert first[0] == second[0] == "the port at which the processes that train together meet belongs to another program"
    assert first[1] == "address already in use"
    assert second[1].startswith("a program that takes connections and gives no answer")
    assert (first[3], second[3]) == ("to be told", "told")
    (port,) = re.findall(r"MASTER_PORT=(\d+)", first[2])
    assert said_by(port, "01") == [[], []]


def test_a_first_process_that_comes_late_is_met():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
    met = [started(at, "1")]
    try:
        for rank, later in (("0", 8), ("2", 6)):  # seconds, some times as long as an answer is waited for
            time.sleep(later)
            met.append(started(at, rank))
        assert [each.communicate(timeout=60)[0] for each in met] == ["", "", ""]
        assert [each.returncode for each in met] == [0, 0, 0]
    finally:
        for each in met:
            each.kill()


def test_where_a_launcher_should_listen_all_its_processes_learn_that_it_does_not(silent_port):
    first, second = said_by(silent_port, "01", TORCHELASTIC_USE_AGENT_STORE="True")
    assert first[1] == second[1] == "a program that takes connections and gives no answer for 2 seconds"
    assert (first[3], second[3]) == ("to be told", "told")

"""Whether weights are fresh, by numbers; and the server that is started beside a run, without vLLM."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heed.engine.client import Drawn
from heed.engine.freshness import Proof, gaps_in_common, stale
from heed.engine.start import StartedServer, command_of, running, words_for_server
from heed.errors import UserError


def proof(ours, ids=None, theirs=None):
    """Of one answer."""
    ours = np.array(ours, dtype=float)
    return Proof([Drawn(list(ids or range(len(ours))), list(ours if theirs is None else theirs), False)], [ours])


def test_gaps_are_of_the_tokens_that_all_answers_begin_with():
    new, old = proof([-1.0, -2.0, -3.0], [5, 6, 7]), proof([-1.5, -2.5, -9.0], [5, 6, 8])
    drawn = [Drawn([5, 6, 7], [-1.1, -2.1, -3.1], False)]
    from_new, from_old = gaps_in_common(drawn, [new, old])
    np.testing.assert_allclose(from_new, [0.1, 0.1])
    np.testing.assert_allclose(from_old, [0.4, 0.4])
    np.testing.assert_allclose(gaps_in_common(drawn, [new])[0], [0.1, 0.1, 0.1])
    assert len(gaps_in_common([Drawn([1], [-1.0], False)], [new])[0]) == 0


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        (-1.000, None),  # as given
        (-1.050, None),  # in the middle
        (-1.065, None),  # nearer to the old, and not twice
        (-1.070, (0.07, 0.03)),
        (-1.100, (0.10, 0.00)),  # the old
        (-1.210, None),  # neither: so far off is the gap's business
    ],
)
def test_a_server_twice_as_near_to_older_weights_as_to_the_new_ones_is_stale(theirs, found):
    new, old = proof([-1.0] * 8), proof([-1.1] * 8)
    said = stale([Drawn(list(range(8)), [theirs] * 8, False)], new, [old])
    assert said == (None if found is None else pytest.approx(found, abs=1e-9))


def test_any_of_the_older_weights_counts_and_few_tokens_do_not():
    new, old, first = proof([-1.0] * 8), proof([-1.1] * 8), proof([-1.2] * 8)
    drawn = [Drawn(list(range(8)), [-1.2] * 8, False)]
    assert stale(drawn, new, [first, old]) == pytest.approx((0.2, 0.0))
    assert stale(drawn, new, []) is None
    assert stale([Drawn(list(range(7)), [-1.2] * 7, False)], new, [first]) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3]), st.sampled_from([0.0, 0.01, 0.3, 1, 4, 10, 1000]))
def test_rounding_makes_no_fresh_server_stale_and_a_step_of_four_times_the_rounding_is_found(seed, rounding, step):
    """32 tokens; rounding and step are normal, `step` in sizes of the rounding."""
    generator = np.random.default_rng(seed)
    old = -2 + generator.normal(size=32)
    new = old + step * rounding * generator.normal(size=32)
    by_new, by_old = (each + rounding * generator.normal(size=32) for each in (new, old))
    ids = list(range(32))
    assert stale([Drawn(ids, list(by_new), False)], proof(new), [proof(old)]) is None
    if step >= 4:
        assert stale([Drawn(ids, list(by_old), False)], proof(new), [proof(old)]) is not None


COMMAND = command_of("python", "model", "http://127.0.0.1:8000", dtype="float32", positions=64, rank=4)


def test_words_for_the_server_are_read_as_a_shell_reads_them():
    given = "--gpu-memory-utilization 0.4 --device-ids '1, 2'"
    assert words_for_server(given, COMMAND) == ["--gpu-memory-utilization", "0.4", "--device-ids", "1, 2"]
    assert words_for_server("", COMMAND) == []


@pytest.mark.parametrize("given", ["--port 1", "--max_model_len=8", "--seed 1 --dtype bfloat16", "'--seed"])
def test_words_that_contradict_heeds_own_or_are_none_are_refused(given):
    with pytest.raises(UserError, match=r"--rollout\.words"):
        words_for_server(given, COMMAND)


CHILD = "import subprocess, time; subprocess.Popen(['sleep', '100']); time.sleep(100)"
BESIDE = f"""
import sys
from pathlib import Path
from heed.engine.start import StartedServer, running
with running(StartedServer([sys.executable, "-c", {CHILD!r}], Path(sys.argv[1]))) as server:
    print(server.process.pid, flush=True)
    sys.stdin.readline()
"""


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def assert_ends(group: int) -> None:
    give_up = time.monotonic() + 30
    while is_alive(group):
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_started_server_and_its_own_processes_end_with_the_run_however_it_ends(tmp_path, how):
    run = subprocess.Popen(
        [sys.executable, "-c", BESIDE, tmp_path / "log"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    group = int(run.stdout.readline())
    assert is_alive(group)
    if how == "killed":
        run.send_signal(signal.SIGKILL)
    run.communicate("\n")
    give_up = time.monotonic() + 30
    assert_ends(group)
    watching = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True).stdout
    while f"sh {group}" in watching:
        assert time.monotonic() < give_up
        watching = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True).stdout


def test_a_server_that_somebody_killed_is_started_again_without_what_was_left_of_it(tmp_path):
    with running(StartedServer([sys.executable, "-c", CHILD], tmp_path / "log")) as server:
        first = server.process
        while not subprocess.run(["pgrep", "--parent", str(first.pid)], capture_output=True).stdout:
            time.sleep(0.05)
        first.kill()
        first.wait()
        assert is_alive(first.pid), "its child"
        server.revive()
        assert_ends(first.pid)
        again = server.process.pid
        assert is_alive(again)
    assert_ends(again)

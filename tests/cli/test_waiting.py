"""How threads wait for one another: briefly beside other work, and as the user says where they say it."""

import os

import pytest

from heed.cli.waiting import wait_briefly_if_busy


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A file as the kernel's, with so many threads running."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)

    def of(running: object):
        path = tmp_path / "loadavg"
        path.write_text(f"0.29 0.79 1.16 {running}/75 22579\n", encoding="ascii")
        return path

    return of


@pytest.mark.parametrize(("running", "left"), [(1, None), (2, "1000"), (9, "1000"), ("what", None)])
def test_threads_sleep_soon_where_more_than_this_one_is_running(load, running, left):
    wait_briefly_if_busy(load(running))
    assert os.environ.get("GOMP_SPINCOUNT") == left


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_user_says_of_waiting_stays(load, monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly_if_busy(load(9))
    assert {name: os.environ.get(name) for name in given} == given
    assert os.environ.get("GOMP_SPINCOUNT") == given.get("GOMP_SPINCOUNT")


def test_a_machine_that_does_not_tell_is_left_as_it_is(load, tmp_path):
    load(1)
    wait_briefly_if_busy(tmp_path / "missing")
    assert "GOMP_SPINCOUNT" not in os.environ

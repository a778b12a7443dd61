"""Ctrl-C as a request: heard once without stopping, twice at once, and left alone where it is none of our business."""

import os
import signal
import threading

import pytest

from heed.train.interrupt import Interruption


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    signal.sigpending()  # the interpreter handles signals between two of its instructions


@pytest.fixture(autouse=True)
def as_python_starts():
    """However the tests were started: in the background of a shell, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_is_heard_and_stops_nothing():
    heard = []
    with Interruption(lambda: heard.append("asked")) as interruption:
        assert not interruption.asked
        press_ctrl_c()
        assert interruption.asked
        assert heard == ["asked"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once():
    heard = []

    def asks_twice():
        with Interruption(lambda: heard.append("asked")):
            press_ctrl_c()
            press_ctrl_c()
            heard.append("went on")

    with pytest.raises(KeyboardInterrupt):
        asks_twice()
    assert heard == ["asked"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_as_before_outside():
    with Interruption(lambda: None) as interruption:
        pass
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    assert not interruption.asked


def test_an_error_inside_comes_out_and_ctrl_c_is_as_before():
    with pytest.raises(ValueError, match="inside"), Interruption(lambda: None):
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_ctrl_c_is_ignored_it_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption(lambda: None) as interruption:
        press_ctrl_c()
    assert not interruption.asked
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_of_someone_elses_stays():
    heard = []

    def of_someone_else(number, frame):
        heard.append(number)

    signal.signal(signal.SIGINT, of_someone_else)
    with Interruption(lambda: None) as interruption:
        press_ctrl_c()
    assert heard == [signal.SIGINT]
    assert not interruption.asked
    assert signal.getsignal(signal.SIGINT) is of_someone_else


def test_in_another_thread_nothing_is_touched():
    seen = []

    def work():
        with Interruption(lambda: None) as interruption:
            seen.append((interruption.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.default_int_handler)]


def test_sigterm_is_heard_as_ctrl_c_is():
    heard = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Interruption(lambda: heard.append("asked")) as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigpending()
            assert interruption.asked == signal.SIGTERM
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends at once"
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert heard == ["asked"]
    finally:
        signal.signal(signal.SIGTERM, before)

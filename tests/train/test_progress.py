"""What progress looks like without a terminal and in one."""

import io
import re
import sys

import pytest

from heed.train.progress import Progress


class Clock:
    """Seconds, moved by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(steps, seconds_per_step, *, total, start=0, **numbers):
    stream, clock = io.StringIO(), Clock()
    with Progress("tuning", total=total, start=start, stream=stream, clock=clock) as progress:
        for step in range(start + 1, start + steps + 1):
            clock.now += seconds_per_step
            progress.update(step, **numbers)
    return stream.getvalue().splitlines()


def test_a_line_says_steps_loss_speed_and_time_left():
    (line,) = run(1, 60.0, total=121, loss=1.23456, tokens_per_second=2150.4)
    assert line == "tuning: 1/121 steps, loss 1.2346, 2,150 tokens/s, 2:00:00 left"


def test_without_a_terminal_there_is_a_line_every_five_percent():
    assert [line.split()[1] for line in run(100, 2.0, total=100)] == [f"{n}/100" for n in range(5, 101, 5)]


def test_where_five_percent_takes_long_there_is_a_line_every_ten_seconds():
    assert [line.split()[1] for line in run(25, 2.0, total=10_000)] == [f"{n}/10,000" for n in (5, 10, 15, 20, 25)]


def test_where_all_is_done_in_a_moment_there_is_one_line():
    assert [line.split()[1] for line in run(100, 0.001, total=100)] == ["100/100"]


def test_a_resumed_run_counts_only_its_own_speed():
    (line,) = run(1, 10.0, total=102, start=100)
    assert line == "tuning: 101/102 steps, 0:00:10 left"


def test_the_last_count_is_said_when_the_total_is_not_known():
    stream = io.StringIO()
    with Progress("reading", unit="records", stream=stream) as progress:
        for count in range(1, 1101):
            progress.update(count)
    assert stream.getvalue() == "reading: 1,100 records\n"


def test_lines_that_are_said_are_printed_as_they_are():
    stream = io.StringIO()
    long = "[bold]not markup[/bold] 123 " + "x" * 300
    with Progress("tuning", total=3, stream=stream) as progress:
        progress.say(long)
    assert stream.getvalue() == long + "\n"


def test_other_processes_are_silent():
    for stream in (io.StringIO(), Terminal()):
        with Progress("tuning", total=3, stream=stream, shown=False) as progress:
            progress.update(3, loss=1.0)
            progress.say("x")
        assert stream.getvalue() == ""


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_a_terminal_shows_a_bar_and_lines_stay_whole_above_it(terminal):
    with Progress("tuning", total=4, stream=terminal) as progress:
        progress.update(2, loss=1.5, tokens_per_second=1000)
        progress.say("saved [2]")
    last = plain(terminal.getvalue()).replace("\r", "\n").splitlines()
    assert "saved [2]" in [line.rstrip() for line in last]
    assert re.search(r"tuning .*2/4 steps loss 1\.5000  1,000 tokens/s .*left", last[-1])


def test_a_terminal_shows_a_count_where_the_total_is_not_known(terminal):
    with Progress("reading", unit="records", stream=terminal) as progress:
        progress.update(1100)
    assert re.search(r"reading 1,100 records\s*$", plain(terminal.getvalue()))


def test_standard_output_that_goes_into_a_file_does_not_pass_through_the_bar(terminal, capsys):
    assert not sys.stdout.isatty()
    with Progress("tuning", total=4, stream=terminal):
        print("result")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in terminal.getvalue()


def test_an_error_inside_ends_the_bar_and_passes(terminal):
    with pytest.raises(KeyError), Progress("tuning", total=4, stream=terminal):
        raise KeyError("x")
    assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Progress("tuning", total=2, stream=terminal) as progress:
        progress.update(2)
    assert terminal.getvalue().startswith("tuning: 2/2 steps")

"""How far the work is: a bar in a terminal, plain lines elsewhere. It speaks on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
LINES_IN_ALL = 20
"""without a terminal: a line every 10 seconds or every 5%, whichever comes first..."""
LEAST_SECONDS_BETWEEN_LINES = 1.0
"""...but no flood where 5% is done in a moment"""


class Progress:
    """The progress of one piece of work with a known number of steps, or of one that only counts.

    with Progress("tuning", total=200, start=40) as progress:
        progress.update(41, loss=1.93, tokens_per_second=2150)
        progress.say("saved checkpoints/step-000041")

    with Progress("reading", unit="records") as progress:
        progress.update(1100)
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        start: int = 0,
        unit: str = "steps",
        stream: TextIO | None = None,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is printed before the `with`.

        Args:
            title: one word: `tuning`, `reading`.
            total: of what is counted; None where it is not known beforehand.
            start: already done before, in a resumed run: not part of the speed.
            unit: what is counted.
            stream: standard error if None.
            shown: False on every process but the first: then it prints nothing.
            clock: seconds.
        """
        self.title, self.total, self.start, self.unit, self.shown = title, total, start, unit, shown
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._done = start
        self._numbers: dict[str, str] = {}
        self._started = self._last_line = clock()
        self._last_line_done = start
        self._bar = self._make_bar() if self._console.is_terminal and not self._console.is_dumb_terminal else None

    def __enter__(self) -> Self:
        self._started = self._last_line = self._clock()
        if self._bar is not None and self.shown:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.shown and self._done != self._last_line_done:
            self._print_line()

    def update(self, done: int, **numbers: float) -> None:
        """Say that `done` steps (records...) are done in all, and the latest numbers by their names."""
        self._done = done
        self._numbers |= {name: said(name, value) for name, value in numbers.items()}
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=done, count=self._count(), numbers="  ".join(self._numbers.values())
            )
        elif self._line_is_due():
            self._print_line()

    def say(self, text: str) -> None:
        """Print lines of text above the bar."""
        if self.shown:
            self._console.print(Text(text), soft_wrap=True)

    def _make_bar(self) -> Bar:
        known = self.total is not None
        columns: list[ProgressColumn] = [SpinnerColumn("line"), TextColumn("{task.description}", markup=False)]
        columns += [BarColumn()] if known else []
        columns += [
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
        ]
        columns += [TimeRemainingColumn(), TextColumn("left")] if known else []
        # A program whose standard output goes into a file must find it there and not behind the bar.
        bar = Bar(*columns, console=self._console, redirect_stdout=sys.stdout.isatty())
        bar.add_task(self.title, total=self.total, completed=self.start, count=self._count(), numbers="")
        return bar

    def _count(self) -> str:
        return f"{self._done:,} {self.unit}" if self.total is None else f"{self._done:,}/{self.total:,} {self.unit}"

    def _line_is_due(self) -> bool:
        if self._done == self.total:
            return True
        seconds = self._clock() - self._last_line
        if seconds < LEAST_SECONDS_BETWEEN_LINES:
            return False
        share = 0.0 if self.total is None else (self._done - self._last_line_done) / self.total
        return seconds >= SECONDS_BETWEEN_LINES or share >= 1 / LINES_IN_ALL

    def _print_line(self) -> None:
        now = self._clock()
        parts = [f"{self.title}: {self._count()}", *self._numbers.values()]
        here = self._done - self.start
        if self.total is not None and here > 0:
            parts.append(f"{_clock_face((now - self._started) / here * (self.total - self._done))} left")
        self._last_line, self._last_line_done = now, self._done
        self.say(", ".join(parts))


def said(name: str, value: float) -> str:
    """A number of a step in few characters: `loss 1.9312`, `2,150 tokens/s`, `KL 3.21`."""
    if name == "tokens_per_second":
        return f"{value:,.0f} tokens/s"
    name = {"kl_per_sequence": "KL"}.get(name, name.replace("_", " "))
    return f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.2f}"


def _clock_face(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

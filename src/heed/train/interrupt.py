"""Ctrl-C as a request: the step that is being taken is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """While it is entered, the first Ctrl-C sets `asked`; a second one stops at once, as it always does.

    with Interruption(lambda: print("finishing this step")) as interruption:
        ...
        if interruption.asked: save and leave
    """

    def __init__(self, on_asked: Callable[[], None]) -> None:
        self.asked = False
        self._on_asked = on_asked
        self._before: Any = None

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does; where Ctrl-C is ignored it stays so.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_through()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._let_through()
        self._on_asked()

    def _let_through(self) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)

"""Ctrl-C or a job's end (SIGTERM) as a request: the step that is being taken is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

USUAL: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""what ends a process in peace, and what happens then if nobody cares"""


class Interruption:
    """While it is entered, the first Ctrl-C or SIGTERM sets `asked`; a second one stops at once, as it always does.

    with Interruption(lambda: print("finishing this step")) as interruption:
        ...
        if interruption.asked: save and leave
    """

    def __init__(self, on_asked: Callable[[], None]) -> None:
        self.asked = 0
        """the signal that came; 0 while none has"""
        self._on_asked = on_asked
        self._ours: list[int] = []
        """signals that this object answers"""

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does; where one is ignored, or someone else's, it stays so.
        if threading.current_thread() is threading.main_thread():
            for number, default in USUAL.items():
                if signal.getsignal(number) is default:
                    signal.signal(number, self._ask)
                    self._ours.append(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._let_through()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        self._let_through()
        self._on_asked()

    def _let_through(self) -> None:
        while self._ours:
            number = self._ours.pop()
            signal.signal(number, USUAL[number])

"""Map a function over a long stream in several processes, in order and with bounded memory."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from heed.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

NUM_ALONE = 2_000
"""items worked on in this process first: a short stream is done before other processes would have started"""
CHUNK = 250
"""items sent to a process at a time"""
MOST_PROCESSES = 8
"""beside this one, which reads and writes: it takes about an eighth of the time that a record's preparation takes"""


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], num_processes: int | None = None
) -> Iterator[Result]:
    """The results of `function`, in the order of the items, in `MOST_PROCESSES` at most once it pays.

    Function, items and results must pickle. At most a few chunks per process are read ahead, so memory does not grow
    with the stream. An exception is raised here, at its item's turn.

    Args:
        num_processes: as many as asked for; one for every processor, up to `MOST_PROCESSES`, if None.
    """
    stream = iter(items)
    yield from map(function, islice(stream, NUM_ALONE))
    num_processes = num_processes or min(processors(), MOST_PROCESSES)
    first = next(stream, None)
    if first is None:
        return
    stream = chain([first], stream)
    if num_processes == 1:
        yield from map(function, stream)
        return
    # Started afresh, not forked: this process may hold threads, which do not survive a fork.
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _start, (function,)) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        try:
            while chunk := list(islice(stream, CHUNK)):
                waiting.append(pool.submit(_work, chunk))
                if len(waiting) > 3 * num_processes:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that prepared data ended before its work",
                where="the preparation of the data",
                found=str(error),
                expected="processes that can be started, and memory for them",
                fix="in a script, call heed below `if __name__ == '__main__':`; else free memory, then start again",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def processors() -> int:
    """How many processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_function: list[Callable[[Any], Any]] = []
"""what a process was started for"""


def _start(function: Callable[[Any], Any]) -> None:
    _function[:] = [function]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to answer
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A first process that is killed cannot tell the others to end, and they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: list[Any]) -> list[Any]:
    return [_function[0](item) for item in chunk]

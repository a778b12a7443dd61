"""Where the processes that train together find one another, and what is said where they do not.

All of them know one address. The first process (under torchrun its launcher) listens there, the others ask there. If
another program has the port, the first cannot listen, and the others may ask a server that takes their connection and
never answers: an answer takes milliseconds where the right one listens, so it is not waited for as others' coming is.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from datetime import timedelta
from queue import Empty, Queue
from typing import Any

from torch.distributed.rendezvous import rendezvous

from heed.dist.watch import TO_MEET
from heed.errors import UserError

ANSWER = 15.0
"""seconds between two looks; one who takes connections in both, and has not answered, is not the first process"""


def met(init_method: str, rank: int, size: int) -> Any:
    """The store that all processes have come to.

    Raises:
        UserError: another program has the port; or some have not come, after minutes, for whom what follows would
            wait for a day.
    """
    wait = timedelta(seconds=TO_MEET)
    try:
        store = _at_an_address(rank, size) if init_method == "env://" else _store(init_method, rank, size, TO_MEET)
        store.set_timeout(wait)
        store.set(f"heed/{rank}", "here")
        store.wait([f"heed/{other}" for other in range(size)], wait)
    except RuntimeError as error:
        raise UserError(
            "the processes that train together did not all come",
            where=f"process {rank + 1} of {size}, after at most {TO_MEET:.0f} seconds",
            found=str(error).splitlines()[0],
            expected=f"{size} processes",
            fix="look at what the others said, and start all of them again",
        ) from error
    return store


def _store(init_method: str, rank: int, size: int, seconds: float) -> Any:
    return next(rendezvous(init_method, rank, size, timeout=timedelta(seconds=seconds)))[0]


def _at_an_address(rank: int, size: int) -> Any:
    """The store at MASTER_ADDR and MASTER_PORT, once somebody listens there."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        try:
            return _store("env://", rank, size, TO_MEET)
        except RuntimeError as error:
            if os.strerror(errno.EADDRINUSE).lower() not in str(error).lower():
                raise
            raise _taken(rank, host, port, "address already in use") from error
    asked: Queue[Any] = Queue()

    def ask() -> None:
        # From beside: PyTorch's own limit does not count while it reads, so it would wait for a silent server for ever.
        threading.Thread(target=_ask, args=(asked, rank, size), daemon=True).start()

    ask()
    was_open = False
    while True:
        try:
            answer = asked.get(timeout=ANSWER)
        except Empty:
            is_open = _takes_connections(host, port)
            if was_open and is_open:
                found = f"a program that takes connections and gives no answer for {ANSWER:.0f} seconds"
                raise _taken(rank, host, port, found) from None
            if is_open:
                ask()  # anew: who was refused for long asks again a minute later only
            was_open = is_open
            continue
        if isinstance(answer, Exception):
            raise answer
        return answer


def _ask(answer: Queue[Any], rank: int, size: int) -> None:
    try:
        answer.put(_store("env://", rank, size, TO_MEET))
    except Exception as error:
        answer.put(error)


def _takes_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=ANSWER):
            return True
    except OSError:
        return False


def _taken(rank: int, host: str, port: int, found: str) -> UserError:
    with socket.create_server(("", 0)) as free:
        other = free.getsockname()[1]
    error = UserError(
        "the port at which the processes that train together meet belongs to another program",
        where=f"MASTER_ADDR={host}, MASTER_PORT={port}, asked by process {rank + 1}",
        found=found,
        expected="a port of its own for every run",
        fix=f"start all processes with torchrun --master-port {other}, or with MASTER_PORT={other}",
    )
    error.is_told = os.environ.get("LOCAL_RANK", "0") != "0"  # by the first process of each machine
    return error

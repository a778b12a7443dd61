"""How OpenMP's threads wait for one another: spinning where they have the machine to themselves, sleeping where not.

A thread that is kept from its core by another process keeps all others spinning: on a busy machine small models then
take several times as long. Sleeping costs a wake-up for every kernel, which on a machine with nothing else to do can
take longer than the kernel. libgomp reads the choice once, when torch is loaded. Measured by bench/busy.py.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

SPINNING = "GOMP_SPINCOUNT"
"""how often a thread of libgomp looks for work before it sleeps"""
BRIEFLY = "1000"
NUM_LOOKS, SECONDS_BETWEEN_LOOKS = 5, 0.005


def wait_briefly_if_busy(load: Path = Path("/proc/loadavg")) -> None:
    """Let threads sleep soon if another process is computing now, unless the user has said how they wait.

    Args:
        load: where the kernel tells how many threads are running; where there is none, libgomp is not there either.
    """
    if {SPINNING, "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    try:
        if others_are_running(load):
            os.environ[SPINNING] = BRIEFLY
    except (OSError, ValueError, IndexError):
        return


def others_are_running(load: Path) -> bool:
    """Whether in most of a few looks more than this thread was running."""
    looks = []
    for number in range(NUM_LOOKS):
        if number:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        looks.append(int(load.read_text(encoding="ascii").split()[3].partition("/")[0]))
    return statistics.median(looks) > 1

"""The most memory that a stage of the work held."""

import sys
from pathlib import Path

CLEAR_PEAK = "5"
"""what Linux resets the peak by, see proc(5)"""


def start_measuring() -> None:
    """Count the peak from here on, where the system can; elsewhere it stays that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    except OSError:
        return


def peak_memory_bytes() -> int:
    """The most physical memory this process has held since `start_measuring`, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # not on every system

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

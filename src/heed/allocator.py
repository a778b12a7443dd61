"""What glibc's malloc does with large freed blocks: kept while a command trains, given back while it loads."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""of glibc's malloc.h"""
MOST_MAPPINGS, LARGE = 65536, 2**20
"""glibc's own limit, and the bytes from which a block is one of its own"""

_kept: list[bool] = []
"""whether this process keeps what is freed, which malloc does not tell"""


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks, which otherwise go back to the system and are faulted in again every step.

    For the process of a command alone: who imports heed keeps the allocator as it was.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(M_MMAP_MAX, 0)  # blocks of their own, which are unmapped when freed, for no size
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and never shrink the heap
        _kept[:] = [True]


def give_back_freed_memory() -> None:
    """Undo `keep_freed_memory` for large blocks: what a process frees of a divided model, others have a use for.

    Layers that are put together and taken apart again leave holes that a heap of kept blocks only grows around: on four
    processes with 50M parameters the peak of each was as high as that of one process that holds all.
    """
    libc = _glibc()
    if libc is not None and _kept:
        libc.mallopt(M_MMAP_MAX, MOST_MAPPINGS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.malloc_trim(0)
        _kept.clear()


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Give large blocks back to the system when they are freed: small ones made among them would hold the heap open.

    A process that does not keep them has its allocator as it was, and what is free goes back at the end.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    if _kept:
        libc.mallopt(M_MMAP_MAX, MOST_MAPPINGS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        if _kept:
            libc.mallopt(M_MMAP_MAX, 0)
        libc.malloc_trim(0)


def _glibc() -> Any:
    try:
        libc = ctypes.CDLL(None)
        _ = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return None  # another C library: nothing to tune
    return libc

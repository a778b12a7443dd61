"""The peak of memory, against arrays of known size."""

import mmap
import sys

import numpy as np
import pytest

from heed.train.memory import peak_memory_bytes, start_measuring

MEBIBYTE = 1024**2
SIZE = 256 * MEBIBYTE
SLACK = 48 * MEBIBYTE
"""what the interpreter itself may take and give back meanwhile"""


def touched():
    """Memory of its own, every page of it touched; the allocator would give what it had kept from other tests."""
    block = mmap.mmap(-1, SIZE)
    np.frombuffer(block, dtype=np.uint8)[:: mmap.PAGESIZE] = 1
    return block


def hold_and_let_go():
    """Touch memory that lives no longer than this call."""
    touched().close()


def test_the_peak_counts_what_was_held_and_let_go():
    start_measuring()
    before = peak_memory_bytes()
    hold_and_let_go()
    assert peak_memory_bytes() >= before
    if sys.platform == "linux":
        assert abs(peak_memory_bytes() - before - SIZE) < SLACK


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the whole process")
def test_measuring_anew_forgets_what_was_let_go_before():
    start_measuring()
    before = peak_memory_bytes()
    hold_and_let_go()
    start_measuring()
    assert abs(peak_memory_bytes() - before) < SLACK


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the whole process")
def test_measuring_anew_keeps_what_is_still_held():
    start_measuring()
    before = peak_memory_bytes()
    held = touched()
    start_measuring()
    assert peak_memory_bytes() - before > SIZE - SLACK
    held.close()

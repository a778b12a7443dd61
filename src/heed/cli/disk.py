"""Tell a full disk from a fault: it surfaces as a different exception in each library that writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from heed.errors import UserError

SIGNS = ("No space left on device", "os error 28", "Disk quota exceeded", "file write failed", ". unexpected pos ")
"""in messages of safetensors, tokenizers, pyarrow and (the last two) torch.save, which raise no OSError"""


def full_disk(error: BaseException) -> UserError | None:
    """The five-part error if `error`, or what caused it, is a disk without room; None if it is something else."""
    for cause in _chain(error):
        by_number = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if by_number or any(sign in str(cause) for sign in SIGNS):
            name = cause.filename if isinstance(cause, OSError) else None
            return UserError(
                "the disk is full",
                where=str(name) if name else "the file being written",
                found=" ".join(str(cause).split()),
                expected="room for the next file",
                fix="free some space, or give --out on another disk, and type the same command again; "
                "what is already written stays",
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__

"""What the commands that write a new data set have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from heed.errors import UserError, typed

Item = TypeVar("Item")


def refuse_taken(option: str, *paths: Path) -> None:
    """Raise where a file that is to be written is there already; the first one is the one that the option names."""
    taken = next((path for path in paths if path.exists()), None)
    if taken is not None:
        raise UserError(
            "the file is there already",
            where=option,
            found=str(taken),
            expected="a name that is free: nothing is written over",
            fix=f"{option} {typed(paths[0].with_name(paths[0].stem + '-2.jsonl'))}",
        )


def nothing_there(paths: Sequence[str]) -> UserError:
    """The five parts of data that hold no records."""
    return UserError(
        "there are no records in the data",
        where=", ".join(paths),
        found="a data set that is empty",
        expected="instructions with answers, conversations, ranked or judged answers, or text",
        fix="heed show DATA.jsonl shows what heed reads of a data set",
    )


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one perhaps shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch

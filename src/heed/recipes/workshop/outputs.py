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
    taken = next((path for path in paths if path.exists() or path.is_symlink()), None)
    if taken is not None:
        raise UserError(
            "the file is there already",
            where=option,
            found=str(taken),
            expected="a name that is free: nothing is written over",
            fix=f"{option} {typed(paths[0].with_name(f'{paths[0].stem}-2{paths[0].suffix}'))}",
        )


def refuse_one_name(first: tuple[str, Path], second: tuple[str, Path]) -> None:
    """Raise where two options name one file."""
    if first[1].absolute() == second[1].absolute():
        raise UserError(
            "two files that are to be written have one name",
            where=f"{first[0]}, {second[0]}",
            found=str(second[1]),
            expected="a file for each",
            fix=f"{second[0]} {typed(second[1].with_name(f'{second[1].stem}-2{second[1].suffix}'))}",
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

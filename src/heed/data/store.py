"""Token sequences on disk, read as they are asked for: a data set larger than memory is trained like a small one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from heed import files
from heed.errors import UserError, typed
from heed.types import Origin, Tokens

VERSION = 1
MARKER = "store.json"
COLUMNS: dict[str, np.dtype[Any]] = {
    "ids": np.dtype("<i4"),  # per token
    "weight": np.dtype("<f4"),  # per token
    "sequence_end": np.dtype("<i8"),  # tokens up to the end of each sequence; a 0 comes first
    "record_end": np.dtype("<i8"),  # sequences up to the end of each record; a 0 comes first
    "num_tokens": np.dtype("<i8"),  # per record, over its sequences
    "num_trained_tokens": np.dtype("<i8"),  # per record: tokens with a weight other than 0
    "held_out": np.dtype("?"),  # per record
    "origin_path": np.dtype("<i4"),  # per record: index into the marker's paths
    "origin_record": np.dtype("<i8"),  # per record
}
"""one flat file of little-endian numbers each"""
PER_TOKEN = ("ids", "weight")


class TokenStore:
    """Records of a finished store: `store[i]` is a tuple of one or more sequences of tokens.

    The columns with a number per record or sequence are memory maps. Tokens are read from their files record by record:
    mapped, every page that was ever touched would count as memory of this process, in the end the whole data set.
    It travels to another process as the name of its folder.

    Attributes (all read-only):
        num_tokens, num_trained_tokens: (R,) int64, per record over its sequences, known without reading tokens.
        held_out: (R,) bool, the records that are not for training.
        fingerprint: what the writer was told the content depends on.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        marker = _read_marker(self.folder)
        if marker is None:
            raise _damaged(self.folder, f"no {MARKER} of this version of heed whose files have the sizes it names")
        self.fingerprint: str = marker["fingerprint"]
        self._paths: list[str] = marker["paths"]
        columns = {name: _map(self.folder, name, marker["lengths"][name]) for name in COLUMNS if name not in PER_TOKEN}
        self._files = {name: os.open(self.folder / name, os.O_RDONLY) for name in PER_TOKEN}
        for file in self._files.values():
            weakref.finalize(self, os.close, file)
        self._sequence_end, self._record_end = columns["sequence_end"], columns["record_end"]
        self._origin_path, self._origin_record = columns["origin_path"], columns["origin_record"]
        self.num_tokens, self.num_trained_tokens = columns["num_tokens"], columns["num_trained_tokens"]
        self.held_out = columns["held_out"]

    @classmethod
    def matching(cls, folder: str | Path, fingerprint: str) -> TokenStore | None:
        """The store in a folder if it is finished, whole, and has this fingerprint; None if it has to be written."""
        marker = _read_marker(Path(folder))
        return cls(folder) if marker is not None and marker["fingerprint"] == fingerprint else None

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __iter__(self) -> Iterator[tuple[Tokens, ...]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, record: int) -> tuple[Tokens, ...]:
        """A record's sequences, as arrays of their own that may be written to."""
        record = self._checked(record)
        first, stop = self._record_end[record : record + 2].tolist()
        ends = self._sequence_end[first : stop + 1].tolist()
        ids, weight = (self._numbers(name, ends[0], ends[-1]) for name in PER_TOKEN)
        return tuple(
            Tokens(ids[begin - ends[0] : end - ends[0]].copy(), weight[begin - ends[0] : end - ends[0]].copy())
            for begin, end in pairwise(ends)
        )

    def origin(self, record: int) -> Origin:
        """Where a record came from."""
        record = self._checked(record)
        return Origin(self._paths[int(self._origin_path[record])], int(self._origin_record[record]))

    def _numbers(self, name: str, begin: int, end: int) -> np.ndarray:
        """Values [begin, end) of a column with one per token."""
        dtype = COLUMNS[name]
        content, place, stop = bytearray(), begin * dtype.itemsize, end * dtype.itemsize
        while place < stop:
            # A place in every call: threads and processes that share the open file do not move each other.
            read = os.pread(self._files[name], stop - place, place)
            if not read:
                raise _damaged(self.folder, f"{name}, which ends at byte {place:,} and not after {stop:,}")
            content += read
            place += len(read)
        return np.frombuffer(content, dtype=dtype)

    def _checked(self, record: int) -> int:
        if not -len(self) <= record < len(self):
            raise IndexError(f"record {record} of a store of {len(self)} records")
        return record % len(self)


class StoreWriter:
    """Writes a store. It appears under its name, whole, at `close`; until then a store of that name stays.

    Memory is bounded by the number of different source paths. One writer per folder at a time.
    As a context manager it closes at the end of the block, and leaves nothing behind after an error.
    """

    def __init__(self, folder: str | Path, fingerprint: str = "") -> None:
        """Start a store.

        Args:
            folder: where it will be.
            fingerprint: everything the content depends on, as `fingerprint` makes it.
        """
        self.folder, self._fingerprint = Path(folder), fingerprint
        self._temporary = self.folder.with_name(f".tmp-{self.folder.name}")
        self._lengths = dict.fromkeys(COLUMNS, 0)
        self._paths: dict[str, int] = {}
        with self._writing():
            # A writer that was killed left its unfinished folder under this same name.
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            self._files = {name: (self._temporary / name).open("wb") for name in COLUMNS}
            self._write("sequence_end", [0])
            self._write("record_end", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
        elif self._files:
            self.close()

    def append(self, sequences: Sequence[Tokens], origin: Origin, *, held_out: bool = False) -> None:
        """Add one record of one or more sequences."""
        if not sequences:
            raise ValueError(f"{origin}: a record needs at least one sequence")
        for tokens in sequences:
            if tokens.ids.ndim != 1 or tokens.ids.shape != tokens.weight.shape:
                raise ValueError(f"{origin}: {tokens.ids.shape} ids with {tokens.weight.shape} weights")
            if tokens.ids.dtype != np.int32 or tokens.weight.dtype != np.float32:
                raise ValueError(f"{origin}: {tokens.ids.dtype} ids and {tokens.weight.dtype} weights")
        num_tokens = self._lengths["ids"]
        with self._writing():
            for tokens in sequences:
                self._write("ids", tokens.ids)
                self._write("weight", tokens.weight)
                self._write("sequence_end", [self._lengths["ids"]])
            self._write("record_end", [self._lengths["sequence_end"] - 1])
            self._write("num_tokens", [self._lengths["ids"] - num_tokens])
            self._write("num_trained_tokens", [sum(int(np.count_nonzero(tokens.weight)) for tokens in sequences)])
            self._write("held_out", [held_out])
            self._write("origin_path", [self._paths.setdefault(origin.path, len(self._paths))])
            self._write("origin_record", [origin.record])

    def close(self) -> TokenStore:
        """Force everything to the disk, put it in place of a store of the same name, and open it."""
        marker = {
            "version": VERSION,
            "fingerprint": self._fingerprint,
            "lengths": self._lengths,
            "paths": list(self._paths),
        }
        with self._writing():
            self._files[MARKER] = (self._temporary / MARKER).open("wb")
            self._files[MARKER].write(json.dumps(marker, ensure_ascii=False).encode())
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            files.sync_folder(self._temporary)
            files.remove_folder(self.folder)
            self._temporary.rename(self.folder)
            files.sync_folder(self.folder.parent)
            self._files = {}
        return TokenStore(self.folder)

    def discard(self) -> None:
        """Give up: nothing of it stays, and a store of the same name stays as it was."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # the disk may be full: closing tries to write what is left
                file.close()
        self._files = {}
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _write(self, name: str, values: np.ndarray | Sequence[int]) -> None:
        self._files[name].write(np.ascontiguousarray(values, dtype=COLUMNS[name]).data)
        self._lengths[name] += len(values)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Leave nothing half-written after an error, and name a full disk as the user's."""
        with files.writing(self.folder):
            try:
                yield
            except OSError:
                self.discard()
                raise


def fingerprint(settings: Mapping[str, Any], paths: Iterable[str | Path] = ()) -> str:
    """What prepared data depends on, in 64 characters: settings, and the name, size and time of change of files."""
    stats = [(str(Path(path).absolute()), (stat := Path(path).stat()).st_size, stat.st_mtime_ns) for path in paths]
    content = json.dumps([VERSION, settings, stats], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _damaged(folder: Path, found: str) -> UserError:
    return UserError(
        "prepared data is missing or damaged",
        where=str(folder),
        found=found,
        expected="a folder written by StoreWriter",
        fix=f"rm -r {typed(folder)}, then start the same command again: it prepares the data anew",
    )


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a finished store of this version whose files have the right sizes."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        whole = marker["version"] == VERSION and all(
            (folder / name).stat().st_size == marker["lengths"][name] * dtype.itemsize
            for name, dtype in COLUMNS.items()
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return marker if whole else None


def _map(folder: Path, name: str, length: int) -> np.ndarray:
    """A column as a read-only array; an empty file cannot be mapped."""
    if length == 0:
        return np.empty(0, dtype=COLUMNS[name])
    return np.asarray(np.memmap(folder / name, dtype=COLUMNS[name], mode="r", shape=(length,)))

"""Write files whole or not at all, and tell a full disk from a bug.

Everything is first written beside its final name under a name that starts with `.tmp-`, forced to the disk,
and then renamed: a reader sees the old thing or the new one, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from heed.errors import UserError, typed

TEMPORARY = ".tmp-"
"""how the names of unfinished files and folders start"""

NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full: the quota of this user is used up",
    errno.EFBIG: "a file grew past the size allowed here",
}
SIGNS = ("No space left on device", "Disk quota exceeded", "file write failed", ". unexpected pos ")
"""of a full disk in messages of libraries that raise no OSError; the last two are torch's"""
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""numpy's words for it, in an OSError without a number"""
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a full disk, or a place that may not be written, as the user's error while writing `path`.

    Any other error passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = full_disk(error, path)
        if full is not None:
            raise full from error
        if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
            raise _unwritable(path, error) from error
        raise


def make_folder(path: Path, *, on_behalf_of: Path | None = None) -> None:
    """Make a folder and those above it, if they are not there; whatever the system has against it is the user's error.

    Args:
        on_behalf_of: the folder that the user named, where this one is to take its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        named = on_behalf_of or path
        raise full_disk(error, named) or _unwritable(named, error) from error


def refuse_unwritable(path: Path) -> None:
    """Raise if nothing could be made at `path` later, when hours of work lie behind; leaves nothing there.

    Asks by writing: rights alone do not tell of a disk that is mounted for reading.
    """
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    trial = above / f"{TEMPORARY}{os.getpid()}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise full_disk(error, path) or _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        "this place cannot be written",
        where=str(path),
        found=os.strerror(error.errno) if error.errno else str(error),
        expected="a folder in which this user may create files",
        fix="give another folder: --out FOLDER",
    )


def full_disk(error: BaseException, path: Path | None = None) -> UserError | None:
    """The five parts if an error, or what led to it, is a disk without room; None if it is something else.

    Libraries report it in their own ways: safetensors as text ("os error 28"), pyarrow and tokenizers in words, torch
    as a RuntimeError raised while the OSError was being handled, or of a position that it did not expect.

    Args:
        path: what was being written; where it is not known, the error may tell.
    """
    causes = [error]
    while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(before)
    code = next((code for cause in causes if (code := _code_of(cause)) in NO_ROOM), None)
    if code is None and any(
        SHORT_WRITE.search(str(cause)) or any(sign in str(cause) for sign in SIGNS) for cause in causes
    ):
        code = errno.ENOSPC
    if code is None:
        return None
    names = [cause.filename for cause in causes if isinstance(cause, OSError) and cause.filename is not None]
    return _no_room_error(path or (Path(os.fsdecode(names[0])) if names else None), code)


def _code_of(error: BaseException) -> int | None:
    """The system's number of an error, which some libraries only write into their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]", str(error))
    return int(match[1] or match[2]) if match else None


def _no_room_error(path: Path | None, code: int) -> UserError:
    folder = next((parent for parent in (path.absolute().parents if path else ()) if parent.is_dir()), Path.cwd())
    return UserError(
        NO_ROOM[code],
        where=str(path or "the file being written"),
        found=f"{os.strerror(code)}; {shutil.disk_usage(folder).free:,} bytes are free",
        expected="room for the file; what was there before is whole, and nothing half-written stays",
        fix=f"make room (df -h {typed(folder)}), then the same command again: a run goes on from its last checkpoint",
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Put a whole file in place of what was there."""
    _write_parts(path, (content,))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Put a whole text file (UTF-8) of these lines in place of what was there, a line in memory at a time."""
    _write_parts(path, (f"{line}\n".encode() for line in lines))


def _write_parts(path: Path, parts: Iterable[bytes]) -> None:
    temporary = _temporary(path)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Put a whole text file (UTF-8) in place of what was there."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Put a whole JSON file, indented for reading, in place of what was there."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Add one line to a file and force it to the disk; on an error the file is as long as it was."""
    content = memoryview((line + "\n").encode())
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            length = os.fstat(descriptor).st_size
            try:
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name, whole, when the block ends; after an error it never existed.

    A folder that has the name already is replaced.
    """
    temporary = _temporary(path)
    with writing(path):
        remove(temporary)
        make_folder(temporary, on_behalf_of=path)
        try:
            yield temporary
            sync_tree(temporary)
            remove_folder(path)
            temporary.rename(path)
            sync_folder(path.parent)
        except BaseException:
            remove(temporary)
            raise


@contextlib.contextmanager
def new_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Fill files, in a folder of their own, that appear under their names when the block ends, the last one last.

    After an error none of them ever existed.
    """
    temporary = _temporary(folder / names[-1])
    placed: list[Path] = []
    with writing(folder / names[-1]):
        remove(temporary)
        make_folder(folder)
        try:
            temporary.mkdir()
            yield temporary
            sync_tree(temporary)
            for name in names:
                (temporary / name).rename(folder / name)
                placed.append(folder / name)
            sync_folder(folder)
        except BaseException:
            for path in placed:
                remove(path)
            raise
        finally:
            remove(temporary)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no moment shows half of it under its name."""
    if path.is_dir():
        doomed = _temporary(path, suffix="-old")
        remove(doomed)
        path.rename(doomed)
        remove(doomed)


def remove_stale(folder: Path) -> None:
    """Remove what processes that died left unfinished anywhere in a folder. Only for who holds the lock on it."""
    if folder.is_dir():
        for path in sorted(folder.rglob(f"{TEMPORARY}*")):
            remove(path)


def sync_tree(folder: Path) -> None:
    """Force everything in a folder to the disk, so that a rename after it cannot overtake the content."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path, suffix: str = "") -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}{suffix}")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

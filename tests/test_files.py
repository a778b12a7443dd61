"""Files appear whole or not at all, and a full disk is told from a bug."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from heed import files
from heed.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_one_before_it(tmp_path):
    files.write_text(tmp_path / "a.txt", "một")
    files.write_text(tmp_path / "a.txt", "hai")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "hai"
    assert names(tmp_path) == ["a.txt"]


def test_json_reads_back_and_keeps_accents_readable(tmp_path):
    files.write_json(tmp_path / "a.json", {"tên": "Hà Nội"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "tên": "Hà Nội"\n}\n'


def test_lines_are_added_to_what_is_there(tmp_path):
    for line in ("một", "hai"):
        files.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "một\nhai\n"


def test_a_folder_appears_only_when_it_is_complete_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with files.new_folder(target) as unfinished:
            (unfinished / "sub").mkdir()
            (unfinished / "sub" / "weights").write_text(content)
            assert content == "old" or (target / "sub" / "weights").read_text() == "old"
    assert (target / "sub" / "weights").read_text() == "new"
    assert names(target.parent) == ["model"]


def test_a_folder_whose_filling_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "model").mkdir()

    def fill():
        with files.new_folder(tmp_path / "model") as unfinished:
            (unfinished / "weights").write_text("half")
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        fill()
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == []


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".tmp-a-1").mkdir()
    (tmp_path / ".tmp-a-1" / "x").touch()
    (tmp_path / ".tmp-b").touch()
    (tmp_path / "kept").touch()
    files.remove_stale(tmp_path)
    files.remove_stale(tmp_path / "absent")
    assert names(tmp_path) == ["kept"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_line_that_finds_the_disk_full_is_the_users_error(tmp_path):
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full") as caught:
        files.append_line(tmp_path / "log", "x")
    assert "No space left on device" in caught.value.found
    assert f"df -h {tmp_path}" in caught.value.fix


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (OSError(errno.EFBIG, "File too large"), "past the size allowed"),
        # the words of safetensors, whose errors are no OSError
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_each_way_to_run_out_of_room_is_recognised(tmp_path, error, problem):
    with pytest.raises(UserError, match=problem), files.writing(tmp_path / "a"):
        raise error


def test_a_full_disk_is_recognised_behind_another_error(tmp_path):
    def save():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 576 vs 534")  # noqa: B904 - torch.save raises without `from`

    with pytest.raises(UserError, match="the disk is full"), files.writing(tmp_path / "a"):
        save()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("a bug"), KeyError("x")])
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, files.writing(tmp_path / "a"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_place_that_may_not_be_written_is_the_users_error(tmp_path, code):
    with pytest.raises(UserError, match="cannot be written"), files.writing(tmp_path / "a"):
        raise OSError(code, os.strerror(code))


WRITE_TOO_MUCH = textwrap.dedent("""
    import pathlib, resource, signal, sys
    from heed.errors import UserError
    from heed import files

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    folder = pathlib.Path(sys.argv[1])
    files.append_line(folder / "log", "x" * 900)
    for write in (
        lambda: files.write_bytes(folder / "file", b"y" * 2000),
        lambda: files.append_line(folder / "log", "y" * 900),
    ):
        try:
            write()
        except UserError as error:
            print(error.problem)
""")


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("before")
    done = subprocess.run([sys.executable, "-c", WRITE_TOO_MUCH, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a file grew past the size allowed here"] * 2
    assert (tmp_path / "file").read_text() == "before"
    assert (tmp_path / "log").read_text() == "x" * 900 + "\n"
    assert names(tmp_path) == ["file", "log"]


@pytest.mark.parametrize("name", ["taken/run", "a" * 300], ids=["below a file", "longer than the disk allows"])
def test_a_folder_that_cannot_be_is_told_as_a_place_that_cannot_be_written(tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    folder = tmp_path / name
    with pytest.raises(UserError, match="cannot be written") as caught, files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    assert caught.value.where == str(folder)


def test_what_a_process_that_died_left_is_removed_wherever_in_the_folder_it_lies(tmp_path):
    left = [tmp_path / ".tmp-a-1", tmp_path / "data" / "train-0" / ".tmp-account.json-2", tmp_path / "x" / ".tmp-new"]
    kept = tmp_path / "data" / "train-0" / "account.json"
    for path in (*left, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    files.remove_stale(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]

"""Every file that cannot be read gets the five parts, with the place and something to type."""

import gzip
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heed.data.read import read, read_raw
from heed.errors import UserError

GOOD = b'{"prompt": "a", "response": "b"}\n'


def error_of(path) -> UserError:
    with pytest.raises(UserError) as caught:
        list(read_raw(str(path)))
    error = caught.value
    assert all((error.problem, error.where, error.found, error.expected, error.fix))
    assert str(path) in error.where
    return error


@pytest.mark.parametrize(
    ("name", "content", "problem", "where", "found"),
    [
        ("a.jsonl", b"", "empty", "a.jsonl", "0 bytes"),
        ("a.json", b"[]", "no records", "a.json", "empty list"),
        ("a.json", b" \n", "no records", "a.json", ""),
        ("a.jsonl", b"\xef\xbb\xbf\n\n", "no records", "a.jsonl", ""),
        ("a.csv", b"prompt,response\n", "no records", "a.csv", ""),
        ("a.jsonl", GOOD + b"\n" + b'{"prompt": }\n', "broken JSON", "line 3, column 12", "Expecting value"),
        ("a.jsonl", GOOD + b'{"prompt": "cut of', "broken JSON", "line 2, column 12", "Unterminated string"),
        ("a.jsonl", GOOD + b'{"prompt": "a"', "broken JSON", "line 2, column 15", "at the end"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000, "broken JSON", "line 1", "recursion"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "broken JSON", "line 1", "digits"),
        ("a.json", b'[\n {"a": 1},\n {"a": tru}\n]', "broken JSON", "line 3, column 8", "Expecting value"),
        ("a.json", b'[\n {"a": 1},\n {"a": 2}\n', "broken JSON", "line 4, column 1", "expected ']'"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "broken JSON", "line 1, column 11", "expected ']'"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', "broken JSON", "line 2, column 1", "more after the end"),
        ("a.json", b'{"a": 1,\n "b": 2,\n}', "broken JSON", "line 3, column 1", "property name"),
        ("a.jsonl", GOOD + b"[1, 2]\n", "not an object", "line 2", "a list: [1, 2]"),
        ("a.jsonl", GOOD + b"null\n", "not an object", "line 2", "null"),
        ("a.json", b'[{"a": 1}, "text"]', "not an object", "record 2", 'text: "text"'),
        ("a.json", b'{"data": [{"a": 1}, 3]}\n \n', "not an object", "record 2 of 'data'", "a number: 3"),
        ("a.jsonl", GOOD + b'{"prompt": "caf\xe9"}\n', "not UTF-8", "line 2, byte offset 48", "0xe9"),
        ("a.json", b'[{"a": "\xc3', "not UTF-8", "line 1, byte offset 8", "0xc3"),
        ("a.jsonl", "\ufeff{}".encode("utf-16-le") + b"\x00", "not UTF-16", "line 1", "truncated"),
        ("a.csv", b"prompt,response\na,b\nc,\xff\n", "not UTF-8", "line 3, byte offset 22", "0xff"),
        ("a.csv", b"prompt,response\na,b,c\n", "broken CSV", "line 2", "3 cells under 2"),
        ("a.csv", b"prompt,prompt\na,b\n", "broken CSV", "line 1", "'prompt' twice"),
        ("a.csv", b",\na,b\n", "broken CSV", "line 1", "no column with a name"),
        ("a.csv", b'prompt,response\na,"b\n', "broken CSV", "line 2", "unexpected end"),
        ("a.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], "damaged", "a.jsonl.gz", "end-of-stream"),
        ("a.jsonl.gz", GOOD, "damaged", "a.jsonl.gz", "does not begin"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "empty", "a.jsonl.gz", "0 bytes"),
        ("a.parquet", b"PAR1 but nothing else", "Parquet file is damaged", "after record 0", ""),
        ("a.log", GOOD, "not read", "a.log", "'.log'"),
        ("a.jsonl.zst", GOOD, "damaged", "a.jsonl.zst", "does not begin as a zstd"),
        ("a.jsonl.br", GOOD, "not read", "a.jsonl.br", "'.br'"),
        ("a.csv", b"PK\x03\x04rest", "not read", "a.csv", "zip archive or an Excel workbook"),
        ("a", GOOD, "not read", "a", "no suffix"),
    ],
)
def test_a_bad_file_is_named_with_the_place_and_what_was_found(tmp_path, name, content, problem, where, found):
    (tmp_path / name).write_bytes(content)
    error = error_of(tmp_path / name)
    assert problem in error.problem
    assert where in error.where
    assert found in error.found


def test_a_gzip_file_damaged_in_the_middle_is_named(tmp_path):
    data = bytearray(gzip.compress(os.urandom(5000)))
    data[2000] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz"):
        list(read_raw(str(tmp_path / "a.jsonl.gz")))


def test_a_cut_parquet_file_is_named(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"] * 100}), tmp_path / "whole.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-30])
    assert "damaged" in error_of(tmp_path / "a.parquet").problem


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "rasbt-1100.json").write_bytes(b"[]")
    error = error_of(tmp_path / "rasbt-110.json")
    assert "does not exist" in error.problem
    assert str(tmp_path / "rasbt-1100.json") in error.fix
    assert "no folder" in error_of(tmp_path / "nowhere" / "a.json").found


def test_a_missing_file_with_a_data_suffix_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in error_of("data/train.jsonl").problem


def test_an_unreachable_hub_data_set_says_what_to_type():
    code = "import sys; from heed.data.read import read_raw; list(read_raw(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "nobody/no-such-data-set:test"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert "UserError" in done.stderr
    assert "nobody/no-such-data-set:test" in done.stderr
    assert "hf download nobody/no-such-data-set --repo-type dataset" in done.stderr


def test_a_folder_with_an_unread_file_is_refused_rather_than_read_in_part(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl.br").write_bytes(GOOD)
    assert "b.jsonl.br" in error_of(tmp_path).found
    (tmp_path / "b.jsonl.br").unlink()
    (tmp_path / "a.jsonl").unlink()
    assert "no records" in error_of(tmp_path).problem


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "a.jsonl").chmod(0)
    if os.access(tmp_path / "a.jsonl", os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in error_of(tmp_path / "a.jsonl").found


def test_an_unknown_shape_lists_the_keys_found_and_the_shapes_known(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"text": "a", "n": 3, "output": null}\n')
    with pytest.raises(UserError) as caught:
        list(read(str(tmp_path / "a.jsonl")))
    assert caught.value.where.endswith("a.jsonl, record 2")
    assert [each in caught.value.found for each in ("text (text)", "n (number)", "output (null)")] == [True] * 3
    assert "instruction+output" in caught.value.expected
    assert "prompt+response" in caught.value.expected


def test_a_wordings_file_given_as_data_is_an_unknown_shape_with_a_short_list(shared):
    with pytest.raises(UserError, match=r"unknown shape[\s\S]*and 49 more"):
        list(read(str(shared / "instruct/flan2021_templates.json")))

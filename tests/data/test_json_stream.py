"""JSON read in chunks is the JSON that was written, wherever the chunks are cut."""

import itertools
import json
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heed.data.files.bytes import decoded
from heed.data.files.json_stream import lines_of, read_json
from heed.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=5)


def chunks_of(text, size):
    return ["".join(part) for part in itertools.zip_longest(*[iter(text)] * size, fillvalue="")]


@settings(deadline=None)  # the machine may be busy
@given(RECORDS, st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 2]))
def test_a_list_is_read_back_however_it_is_cut(records, size, escape, indent):
    text = json.dumps(records, ensure_ascii=escape, indent=indent)
    found = list(read_json(iter(chunks_of(text, size)), ".json", "a.json", Counter()))
    assert found == list(enumerate(records, 1))


@settings(deadline=None)  # the machine may be busy
@given(RECORDS, st.integers(1, 40))
def test_lines_are_read_back_however_they_are_cut(records, size):
    records[0]["alone"] = 0  # so that a single line is never a table of columns
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    found = list(read_json(iter(chunks_of(text, size)), ".jsonl", "a.jsonl", Counter()))
    assert found == list(enumerate(records, 1))


@settings(deadline=None)  # the machine may be busy
@given(RECORDS, st.integers(1, 40), st.data())
def test_a_list_cut_short_or_with_a_wrong_character_never_reads_as_whole(records, size, data):
    text = json.dumps(records)
    cut = data.draw(st.integers(1, len(text) - 1))
    with pytest.raises(UserError, match="broken JSON"):
        list(read_json(iter(chunks_of(text[:cut], size)), ".json", "a.json", Counter()))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 50), st.integers(0, 200))
def test_the_place_of_an_error_does_not_depend_on_the_chunks(size, spaces):
    text = '[{"a": "b"},\n\n' + " " * spaces + '{"c": nul},' + '{"d": 1},' * 50 + "]"
    with pytest.raises(UserError) as caught:
        list(read_json(iter(chunks_of(text, size)), ".json", "a.json", Counter()))
    assert caught.value.where == f"a.json, line 3, column {spaces + 7}"


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(), max_size=5), st.integers(1, 7))
def test_characters_cut_by_a_chunk_are_put_together(texts, size):
    text = "".join(texts)
    data = text.encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert "".join(decoded(chunks, "a")) == text.removeprefix("\ufeff")


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text(alphabet="a\n\r\u2028"), max_size=6))
def test_lines_end_at_line_feeds_only(chunks):
    text = "".join(chunks)
    lines = list(lines_of(chunks))
    assert "".join(lines) == text
    assert all(line.count("\n") == line.endswith("\n") for line in lines)
    assert all(line.endswith("\n") for line in lines[:-1])


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 300), st.integers(1, 9))
def test_a_wrong_byte_is_named_by_its_offset_and_line(before, size):
    data = "\n€".encode() * before + b"\xff" + b"\n" * 50
    with pytest.raises(UserError, match=rf"line {before + 1:,}, byte offset {4 * before:,}\n"):
        list(decoded([data[i : i + size] for i in range(0, len(data), size)], "a"))


def test_a_list_on_one_line_is_read_in_the_memory_of_a_chunk():
    record = json.dumps({"prompt": "x" * 900, "response": "y" * 100})
    chunk = (record + ",") * 100
    chunks = itertools.chain(["["], itertools.repeat(chunk, 300), [record, "]"])
    tracemalloc.start()
    count = sum(1 for _ in read_json(chunks, ".json", "a.json", Counter()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_001
    assert peak < 10 * len(chunk)

"""Files of every kind become the same records."""

import csv
import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heed.data.read import read, read_labelled, read_raw, summary
from heed.errors import UserError
from heed.types import Conversation, Labelled, Origin, Ranking

NFC, NFD = (unicodedata.normalize(form, "Tiếng Việt") for form in ("NFC", "NFD"))
RECORDS = [
    {"prompt": f"{NFC} \u2028 \U0001f600", "response": f"  {NFD}\n, \"quoted\"; 'x'\t"},
    {"prompt": "thứ hai", "response": "\ufeffkeeps its own mark"},
    {"prompt": "", "response": "3"},
]

COUNTS = {
    "instruct/rasbt-1100.json": (1100, "alpaca", Conversation),
    "instruct/alpaca-5000.json": (5000, "alpaca", Conversation),
    "instruct/self-instruct-seed-tasks.jsonl": (175, "seed tasks", Conversation),
    "instruct/t0-train-50k.jsonl.gz": (55185, "prompt/completion", Conversation),
    "instruct/vi-alpaca-5000.jsonl": (5000, "prompt/response", Conversation),
    "instruct/tulu3-messages-100.jsonl": (100, "messages", Conversation),
    "preference/rasbt-1100-preference.json": (1100, "preference", Ranking),
    "preference/hh-rlhf-harmless-test.jsonl.gz": (2312, "preference", Ranking),
    "preference/oasst-ranked-zh.json": (775, "ranked answers", Ranking),
    "preference/tulu3-preference-100.jsonl": (100, "preference", Ranking),
}


def as_lines(records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_csv(path: Path, records, delimiter=",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
    return path


def raw(path) -> list:
    return [record for _, record in read_raw(str(path))]


@pytest.mark.parametrize("name", COUNTS)
def test_every_shared_data_set_reads_in_full_as_its_shape(shared, name):
    number, shape, kind = COUNTS[name]
    assert Counter((found, type(noun)) for found, noun in read(str(shared / name))) == {(shape, kind): number}


@pytest.mark.parametrize("name", COUNTS)
def test_no_character_of_a_shared_data_set_is_lost_or_changed(shared, name):
    """Every text of a prompt, answer or turn in the file, found by a plain reading, is in some message."""
    path = shared / name
    text = (gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()).decode()
    plain = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]
    nouns = [noun for _, noun in read(str(path))]
    assert len(nouns) == len(plain)
    for record, noun in zip(plain, nouns, strict=True):
        said = noun.messages if isinstance(noun, Conversation) else sum(noun.answers, noun.prompt)
        contents = "\n\n\n".join(message.content for message in said)
        for key in ("instruction", "input", "prompt", "completion", "response", "chosen", "rejected", "messages"):
            for value in record.get(key) if isinstance(record.get(key), list) else [record.get(key, "")]:
                wanted = (value["content"] if isinstance(value, dict) else value).replace("\r\n", "\n")
                for part in wanted.split("\n\nHuman: "):
                    for turn in part.split("\n\nAssistant: "):
                        assert turn in contents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(RECORDS)),
        ("a.json", json.dumps(RECORDS, indent=4, ensure_ascii=False)),
        ("a.json", "\ufeff \n" + json.dumps(RECORDS)),
        ("a.json", as_lines(RECORDS)),
        ("a.json", "\n".join(json.dumps(record, indent=2) for record in RECORDS)),
        ("a.json", json.dumps({"version": 1, "data": RECORDS}, indent=1)),
        ("a.json", json.dumps({"train": RECORDS}) + "\n"),
        ("a.jsonl", as_lines(RECORDS)),
        ("a.jsonl", as_lines(RECORDS).rstrip("\n")),
        ("a.jsonl", "\ufeff" + as_lines(RECORDS).replace("\n", "\r\n")),
        ("a.jsonl", json.dumps(RECORDS, indent=4)),
        ("a.ndjson", "\n \n" + as_lines(RECORDS)),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_json_of_any_layout_reads_alike(tmp_path, name, content, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    assert raw(path) == RECORDS


def test_one_json_object_is_one_record(tmp_path):
    for content in (json.dumps(RECORDS[0]), json.dumps(RECORDS[0], indent=2)):
        (tmp_path / "a.json").write_text(content)
        assert raw(tmp_path / "a.json") == RECORDS[:1]


def test_a_gzip_file_is_known_by_content_without_the_suffix(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(as_lines(RECORDS).encode()))
    assert raw(tmp_path / "a.jsonl") == RECORDS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_read_with_their_own_delimiter_zipped_and_with_a_byte_order_mark(tmp_path, delimiter):
    path = write_csv(tmp_path / "a.csv", RECORDS, delimiter)
    assert raw(path) == RECORDS
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert raw(tmp_path / "b.csv.gz") == RECORDS


def test_a_cell_of_a_table_may_be_longer_than_the_csv_modules_limit(tmp_path):
    records = [{"prompt": "x" * 200_000, "response": "y"}]
    assert raw(write_csv(tmp_path / "a.csv", records)) == records


def test_parquet_reads_over_row_groups_and_zipped(tmp_path):
    records = RECORDS * 700
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet", row_group_size=500)
    assert raw(tmp_path / "a.parquet") == records
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert raw(tmp_path / "b.parquet.gz") == records


def test_nulls_that_parquet_invents_inside_tools_and_messages_do_not_reach_the_template(tmp_path):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"properties": {name: {"type": "string"}}}}}
        for name in ("city", "day")
    ]
    messages = [{"role": "user", "content": "hi", "name": "An"}, {"role": "assistant", "content": "hello"}]
    pq.write_table(pa.Table.from_pylist([{"messages": messages, "tools": tools}]), tmp_path / "a.parquet")
    [(shape, conversation)] = read(str(tmp_path / "a.parquet"))
    assert shape == "messages"
    assert [dict(message.extra) for message in conversation.messages] == [{"name": "An"}, {}]
    assert conversation.tools == tuple(tools)


def test_records_are_numbered_as_an_editor_counts_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" + as_lines(RECORDS[:2]) + "\n \n" + as_lines(RECORDS[2:]))
    path = str(tmp_path / "a.jsonl")
    assert [origin for origin, _ in read_raw(path)] == [Origin(path, 2), Origin(path, 3), Origin(path, 6)]
    (tmp_path / "a.json").write_text(json.dumps(RECORDS, indent=3))
    assert [origin.record for origin, _ in read_raw(str(tmp_path / "a.json"))] == [1, 2, 3]


def test_a_folder_reads_its_files_in_sorted_order_and_passes_over_its_description(tmp_path):
    (tmp_path / "b.jsonl").write_text(as_lines(RECORDS[1:2]))
    write_csv(tmp_path / "c.csv", RECORDS[2:])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.json").write_text(json.dumps(RECORDS[:1]))
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.jsonl").write_text("{broken")
    found = list(read_raw(str(tmp_path)))
    assert [record for _, record in found] == RECORDS
    assert [origin.path for origin, _ in found] == [str(tmp_path / name) for name in ("a/z.json", "b.jsonl", "c.csv")]


def test_a_data_set_saved_by_datasets_reads_with_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    split = {"train": datasets.Dataset.from_list(RECORDS), "test": datasets.Dataset.from_list(RECORDS[:1])}
    datasets.DatasetDict(split).save_to_disk(str(tmp_path / "both"))
    split["train"].save_to_disk(str(tmp_path / "one"))
    assert raw(tmp_path / "both") == raw(tmp_path / "one") == RECORDS
    assert raw(f"{tmp_path}/both:test") == RECORDS[:1]
    with pytest.raises(UserError, match=r"no split 'tset'[\s\S]*train, test"):
        raw(f"{tmp_path}/both:tset")


def test_labelled_records_keep_all_their_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "options": ["a", "b"], "label": 1}\n')
    [(name, labelled)] = read_labelled(str(tmp_path / "a.jsonl"))
    assert name == "labelled"
    assert labelled == Labelled({"question": "q", "options": ["a", "b"], "label": 1}, labelled.origin)


def test_reading_is_lazy_so_that_the_file_may_be_larger_than_memory(tmp_path):
    content = json.dumps(RECORDS[0]) + "," + " " * (3 << 20) + "{broken"
    (tmp_path / "a.json").write_text("[" + content)
    records = read_raw(str(tmp_path / "a.json"))
    assert next(records)[1] == RECORDS[0]
    with pytest.raises(UserError, match="broken JSON"):
        next(records)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({("alpaca", Conversation): 1100}, "read 1,100 conversations as alpaca"),
        ({("alpaca", Conversation): 1}, "read 1 conversation as alpaca"),
        (
            {("alpaca", Conversation): 10, ("messages", Conversation): 4990},
            "read 4,990 conversations as messages and 10 as alpaca",
        ),
        (
            {("preference", Ranking): 1100},
            "read 1,100 rankings as preference; supervised tuning uses the best answer of each",
        ),
        (
            {("preference", Ranking): 2, ("alpaca", Conversation): 3, ("messages", Conversation): 1},
            "read 3 conversations as alpaca, 1 as messages and 2 rankings as preference; "
            "supervised tuning uses the best answer of each ranking",
        ),
        ({("labelled", Labelled): 2}, "read 2 records as labelled"),
        ({}, "read no records"),
    ],
)
def test_one_line_says_what_was_read(counts, text):
    assert summary(counts) == text

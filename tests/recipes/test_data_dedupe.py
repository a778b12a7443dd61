import json
import random
from pathlib import Path

import pytest

from heed.cli.main import main


def written(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def deduped(tmp_path: Path, *words: object) -> list[dict]:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.jsonl"
    assert main(["data", "dedupe", *map(str, words), "--out", str(out)]) == 0
    return read(out)


def sentence(seed: int, length: int = 30) -> str:
    return " ".join(f"w{random.Random(seed * 1_000 + n).randrange(10**6)}" for n in range(length))


def test_what_was_said_before_goes_and_everything_else_stands_as_it_stood(tmp_path, capsys):
    first = [
        {"instruction": "Tiếng Việt?", "output": "Đẹp lắm.", "id": 1, "n": None},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"instruction": "Tie\u0302\u0301ng Vie\u0323\u0302t?", "output": " Đẹp lắm.\n", "id": 2},
        {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
    ]
    second = [
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "completion": "hello"},
        {"prompt": "Which?", "chosen": "That.", "rejected": "This."},
    ]
    data = [written(tmp_path / "a.jsonl", first), written(tmp_path / "b.jsonl", second)]
    left = deduped(tmp_path, *data)
    assert left == [first[0], first[1], first[3], second[1], second[2]]
    told = capsys.readouterr().out
    assert "5 of 7 records" in told
    assert "2 left out that are the same word for word" in told
    assert deduped(tmp_path, *data, "--by", "prompt") == [first[0], first[1], first[3]]
    assert read(data[0]) == first


def test_clusters_tell_which_stays_and_how_near_the_others_are(tmp_path):
    words = sentence(1, 40).split()
    records = [
        {"prompt": "Go on.", "completion": " ".join(words)},
        {"prompt": "Go on.", "completion": sentence(2)},
        {"prompt": "Go on.", "completion": " ".join([*words[:-1], "other"])},
        {"prompt": "Go on.", "completion": " ".join(words)},
    ]
    data, clusters = written(tmp_path / "d.jsonl", records), tmp_path / "clusters.jsonl"
    assert deduped(tmp_path, data, "--near", 0.8, "--clusters", clusters) == records[:2]
    [cluster] = read(clusters)
    assert (cluster["kept"]["record"], cluster["kept"]["text"][:9]) == (1, f"Go on. {words[0]}"[:9])
    # 38 shingles of the answer, one of which differs.
    assert [(each["record"], each["similarity"]) for each in cluster["left_out"]] == [(3, round(37 / 39, 4)), (4, 1.0)]
    assert cluster["left_out"][0]["text"].startswith("Go on. ")


@pytest.mark.parametrize("keep", ["longest", "best"])
def test_the_order_of_the_records_makes_no_difference_to_which_stay(tmp_path, keep):
    records = []
    for number in range(20):
        words = sentence(number).split()
        for k in range(4):
            text = " ".join([*words[:k], *words[k + 1 :]]) if k else " ".join(words)
            records.append({"prompt": "Go on.", "completion": text, "id": number * 10 + k % 2})
        records.append({"prompt": "Go on.", "completion": " ".join(words), "id": -number})
    kept = []
    for seed in range(3):
        random.Random(seed).shuffle(records)
        left = deduped(tmp_path, written(tmp_path / f"{seed}.jsonl", records), "--near", 0.6, "--keep", keep)
        kept.append(sorted(map(json.dumps, left)))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 20
    assert all(len(json.loads(each)["completion"].split()) == 30 for each in kept[0])


def test_the_best_is_the_one_with_the_fewest_faults_and_the_longest_the_one_that_says_most(tmp_path):
    text = sentence(5, 60)
    records = [
        {"prompt": "Go on.", "completion": text},
        {"prompt": "Go on.", "completion": f"{text} Ráº¥t vui Ä‘Æ°á»£c gáº·p báº¡n."},
        {"prompt": "Go on.", "completion": f"{text} And more."},
    ]
    data = written(tmp_path / "d.jsonl", records)
    for keep, stays in (("first", 0), ("longest", 1), ("best", 2)):
        assert deduped(tmp_path, data, "--near", 0.5, "--keep", keep) == [records[stays]]


def test_what_is_held_out_goes_and_the_held_out_file_stays(tmp_path, capsys):
    words = sentence(7, 40).split()
    held = [{"prompt": "Question 3?", "completion": "It is."}, {"prompt": "Tell me.", "completion": " ".join(words)}]
    train = [
        {"prompt": " Question 3? ", "completion": "Another answer."},
        {"prompt": "Tell me more.", "completion": " ".join(["new", *words[1:]])},
        {"prompt": "New?", "completion": "Yes."},
    ]
    data, test = written(tmp_path / "train.jsonl", train), written(tmp_path / "test.jsonl", held)
    before, clusters = test.read_bytes(), tmp_path / "clusters.jsonl"
    assert deduped(tmp_path, data, "--against", test) == train[1:]
    assert deduped(tmp_path, data, "--against", test, "--near", 0.8, "--clusters", clusters) == train[2:]
    assert "2 left out that stand in held-out data" in capsys.readouterr().out
    assert [(each["held_out"]["record"], each["left_out"][0]["record"]) for each in read(clusters)] == [(1, 1), (2, 2)]
    assert test.read_bytes() == before


def test_what_a_check_tells_to_type_cures_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = [{"prompt": f"What is {n % 7}?", "completion": f"It is {n % 9}."} for n in range(80)]
    data = written(tmp_path / "d.jsonl", records)
    held = written(tmp_path / "HELD_OUT.jsonl", [{"prompt": "What is 3?", "completion": "New."}])
    words = ["data", "check", str(data), "--eval-data", str(held), "--only", "duplicate,in-held-out", "--json"]
    assert main(words) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert {kind["kind"] for kind in kinds} == {"duplicate", "in-held-out"}
    assert main(["data", "dedupe", str(data), "--out", "UNIQUE.jsonl", "--against", "HELD_OUT.jsonl"]) == 0
    capsys.readouterr()
    assert main([*words[:2], "UNIQUE.jsonl", *words[3:]]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == []
    assert len(read(tmp_path / "UNIQUE.jsonl")) == 63 - 9


def test_the_same_bytes_come_from_any_number_of_processes_and_nothing_else_is_left_there(tmp_path, shared, monkeypatch):
    monkeypatch.setattr("heed.data.parallel.NUM_ALONE", 10)
    monkeypatch.setattr("heed.recipes.workshop.dedupe.BATCH", 7)
    data = shared / "instruct" / "rasbt-1100.json"
    outs = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        words = [
            data,
            "--near",
            0.5,
            "--workers",
            workers,
            "--clusters",
            folder / "c.jsonl",
            "--out",
            folder / "u.jsonl",
        ]
        assert main(["data", "dedupe", *map(str, words)]) == 0
        assert sorted(path.name for path in folder.iterdir()) == ["c.jsonl", "u.jsonl"]
        outs.append([(folder / name).read_bytes() for name in ("c.jsonl", "u.jsonl")])
    assert outs[0] == outs[1]
    assert len(outs[0][0].splitlines()) >= 8


def test_a_record_that_cannot_be_read_stays_and_is_told(tmp_path, capsys):
    records = [{"prompt": "A?", "completion": "B."}, {"messages": [{"role": "nobody", "content": "x"}]}]
    assert deduped(tmp_path, written(tmp_path / "d.jsonl", records * 2)) == [*records, records[1]]
    assert "2 that cannot be read stay as they are: heed data check" in capsys.readouterr().out


def test_nothing_is_written_over_and_mistakes_are_told_in_five_parts(tmp_path, capsys):
    data = written(tmp_path / "d.jsonl", [{"prompt": "A?", "completion": "B."}])
    before = data.read_bytes()
    for words, says in (
        (["--out", data], "the file is there already"),
        (["--out", tmp_path / "u.csv"], "the kind of file to write is not known"),
        (["--out", tmp_path / "u.jsonl", "--clusters", data], "--clusters"),
        (["--out", tmp_path / "u.jsonl", "--near", "0"], "--near"),
        (["--out", tmp_path / "u.jsonl", "--against", tmp_path / "absent.jsonl"], "absent.jsonl"),
    ):
        assert main(["data", "dedupe", str(data), *map(str, words)]) == 2
        told = capsys.readouterr().err
        assert says in told
        assert "fix:" in told
    assert data.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]

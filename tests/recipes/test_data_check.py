import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heed.cli.main import main
from heed.data_faults import KINDS

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & 'quotes' \u202eevil"


def found_in(capsys, *words: object) -> dict[str, int]:
    """kind -> records, of a check."""
    assert main(["data", "check", *map(str, words), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    return {each["kind"]: each["num_records"] for each in told["kinds"]} | {"records": told["num_records"]}


def written(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "preference/rasbt-1100-preference.json",
            {"records": 1100, "identical-answers": 6, "identical-but-for-form": 3},
        ),
        ("instruct/rasbt-1100.json", {"records": 1100, "another-answer": 31}),
        ("preference/hh-rlhf-harmless-test.jsonl.gz", {"records": 2312, "different-prompts": 5, "empty-answer": 4}),
        ("instruct/vi-alpaca-5000.jsonl", {"records": 5000, "not-composed": 8}),
        ("instruct/alpaca-5000.json", {"records": 5000, "answer-only-url": 12, "empty-answer": 2}),
    ],
)
def test_real_sets_hold_as_many_faults_as_were_counted_by_hand(shared, capsys, file, expected):
    only = ",".join(expected.keys() - {"records"})
    assert found_in(capsys, shared / file, "--only", only) == expected


def test_all_findings_are_listed_and_the_table_names_what_to_type(tmp_path, capsys):
    records = [
        {"prompt": "What is this?", "completion": "TÃ´i yÃªu Viá»‡t Nam"},
        {"prompt": "And this?", "completion": ""},
    ]
    data = written(tmp_path / "my data.jsonl", records)
    out = tmp_path / "findings.jsonl"
    assert main(["data", "check", str(data), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"heed data mend '{data}' --safe --out MENDED.jsonl" in told
    assert "record 1, answer: TÃ´i -> Tôi, by cp1252" in told
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(line["kind"], line["level"], line["record"]) for line in lines] == [
        ("broken-encoding", "error", 1),
        ("empty-answer", "error", 2),
    ]


def test_of_several_files_the_one_that_shows_a_fault_is_named_in_what_to_type(tmp_path, capsys):
    clean = written(tmp_path / "clean.jsonl", [{"prompt": "What is this?", "completion": "A file."}])
    bad = written(tmp_path / "bad.jsonl", [{"prompt": "And this?", "completion": "TÃ´i yÃªu Viá»‡t Nam"}])
    assert main(["data", "check", str(clean), str(bad)]) == 0
    command = f"heed data mend {bad} --safe --out MENDED.jsonl"
    assert f"broken-encoding: {command}\n" in capsys.readouterr().out
    words = command.replace("MENDED.jsonl", str(tmp_path / "mended.jsonl")).split()[1:]
    assert main(words) == 0
    assert "Tôi yêu Việt Nam" in (tmp_path / "mended.jsonl").read_text(encoding="utf-8")


def test_data_are_not_written_over_by_what_was_found_in_them(tmp_path, capsys):
    data = written(tmp_path / "d.jsonl", [{"prompt": "What is this?", "completion": "A file."}])
    before = data.read_bytes()
    for option in ("--out", "--html"):
        assert main(["data", "check", str(data), option, str(data)]) == 2
        assert f"{option}" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_half_of_a_surrogate_pair_is_found_and_neither_mended_nor_a_traceback(tmp_path, capsys):
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "What is this?", "completion": "half \\ud83d of it"}\n', encoding="utf-8")
    assert found_in(capsys, data) == {"records": 1, "unreadable": 1}
    assert main(["data", "mend", str(data), "--out", str(tmp_path / "m.jsonl")]) == 2
    assert "half of a surrogate pair, \\ud83d" in capsys.readouterr().err


def test_a_number_that_is_none_is_null_in_a_mended_file(tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "What?", "completion": "Viá»‡t", "score": NaN}\n', encoding="utf-8")
    assert main(["data", "mend", str(data), "--out", str(tmp_path / "m.jsonl")]) == 0
    told = json.loads((tmp_path / "m.jsonl").read_text(encoding="utf-8"))
    assert told == {"prompt": "What?", "completion": "Việt", "score": None}


def test_changes_with_line_ends_of_unicode_in_them_are_taken_back(tmp_path):
    damaged = "Ã\x85rhus, Ã\x85land\u2028Viá»‡t"
    data = written(tmp_path / "d.jsonl", [{"prompt": "Where?", "completion": damaged}])
    assert main(["data", "mend", str(data), "--out", str(tmp_path / "m.jsonl")]) == 0
    words = ["data", "mend", str(tmp_path / "m.jsonl"), "--undo", str(tmp_path / "m.changes.jsonl")]
    assert main([*words, "--out", str(tmp_path / "back.jsonl")]) == 0
    assert json.loads((tmp_path / "back.jsonl").read_text(encoding="utf-8"))["completion"] == damaged


def test_strict_ends_with_1_where_there_are_errors_and_with_0_where_there_are_none(tmp_path, capsys):
    bad = written(tmp_path / "bad.jsonl", [{"prompt": "What?", "completion": " "}])
    good = written(tmp_path / "good.jsonl", [{"prompt": "What is new?", "completion": "I cannot say, sorry."}])
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(bad), "--strict"])
    assert ended.value.code == 1
    assert main(["data", "check", str(good), "--strict"]) == 0
    assert main(["data", "check", str(bad), "--strict", "--ignore", "empty-answer"]) == 0
    assert main(["data", "check", str(tmp_path / "absent.jsonl"), "--strict"]) == 2


def test_training_records_whose_prompts_are_held_out_are_found(tmp_path, capsys):
    train = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(20)]
    held = [{"prompt": " Question 3? ", "completion": "Another answer."}, {"prompt": "New?", "completion": "Yes."}]
    found = found_in(capsys, written(tmp_path / "t.jsonl", train), "--eval-data", written(tmp_path / "e.jsonl", held))
    assert found == {"records": 20, "in-held-out": 1}


def test_records_longer_than_a_models_positions_are_found(tmp_path, shared, capsys):
    model = shared / "models" / "stories260K"
    records = [{"prompt": "Tell a story.", "completion": "Once upon a time. " * n} for n in (1, 400)]
    data = written(tmp_path / "d.jsonl", records)
    assert found_in(capsys, data, "--model", model, "--only", "too-long") == {"records": 2, "too-long": 1}


def test_the_page_shows_hostile_text_as_text(tmp_path, capsys):
    data = written(tmp_path / "<b>d.jsonl", [{"prompt": HOSTILE + " long enough", "completion": f"{HOSTILE}\x00"}])
    page = tmp_path / "page.html"
    assert main(["data", "check", str(data), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>d" not in text
    assert "\u202e" not in text
    assert "&lt;b&gt;d.jsonl" in text
    assert "control-characters" in text


def test_the_same_bytes_come_from_any_number_of_processes(tmp_path, shared):
    records = json.loads((shared / "instruct" / "alpaca-5000.json").read_text(encoding="utf-8"))
    data = written(tmp_path / "d.jsonl", records[:2_600])
    told = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.jsonl"
        assert (
            main(
                ["data", "check", str(data), "--workers", str(workers), "--out", str(out), "--ignore", "other-language"]
            )
            == 0
        )
        told.append(out.read_bytes())
    assert told[0] == told[1]
    assert len(told[0].splitlines()) > 25


def test_a_kind_that_nobody_knows_is_refused_with_the_nearest(tmp_path, capsys):
    assert main(["data", "check", "d.jsonl", "--only", "duplicates"]) == 2
    assert "fix:      --only duplicate" in capsys.readouterr().err


def test_an_empty_file_and_an_unwritable_folder_are_told_in_five_parts(tmp_path, capsys):
    assert main(["data", "check", str(written(tmp_path / "empty.jsonl", []))]) == 2
    assert "error: " in capsys.readouterr().err
    data = written(tmp_path / "d.jsonl", [{"prompt": "A?", "completion": "B."}])
    assert main(["data", "check", str(data), "--out", "/proc/none/f.jsonl"]) == 2
    assert "expected:" in capsys.readouterr().err


def test_every_kind_says_what_to_do_with_files_in_its_place():
    for kind, about in KINDS.items():
        assert about.todo.format(files="x", file="y"), kind
        assert about.means, kind


def test_text_is_mended_in_a_new_file_and_every_change_can_be_taken_back(tmp_path, capsys):
    records = [
        {
            "instruction": "TÃ´i yÃªu Viá»‡t Nam",
            "output": "Ráº¥t vui \u0007Ä‘Æ°á»£c gáº·p báº¡n.",
            "n": 3,
            "tags": ["a", None],
        },
        {"messages": [{"role": "user", "content": "Tiê\u0301ng \x1b[31mViệt"}, {"role": "assistant", "content": "ok"}]},
        {"instruction": "clean", "output": "Sạch sẽ, không có gì."},
    ]
    data, out, back = written(tmp_path / "d.jsonl", records), tmp_path / "mended.jsonl", tmp_path / "back.jsonl"
    before = data.read_bytes()
    assert main(["data", "mend", str(data), "--safe", "--out", str(out)]) == 0
    mended = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert mended[0] == {
        "instruction": "Tôi yêu Việt Nam",
        "output": "Rất vui được gặp bạn.",
        "n": 3,
        "tags": ["a", None],
    }
    assert mended[1]["messages"][0]["content"] == "Tiếng Việt"
    assert mended[2] == records[2]
    changes = [
        json.loads(line) for line in (tmp_path / "mended.changes.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(c["record"], c["steps"]) for c in changes] == [
        (1, ["instruction"]),
        (1, ["output"]),
        (2, ["messages", 0, "content"]),
    ]
    assert all(c["is_certain"] for c in changes)
    undo = str(tmp_path / "mended.changes.jsonl")
    assert main(["data", "mend", str(out), "--undo", undo, "--out", str(back)]) == 0
    assert [json.loads(line) for line in back.read_text(encoding="utf-8").splitlines()] == records
    assert data.read_bytes() == before
    assert main(["data", "mend", str(data), "--undo", undo, "--out", str(tmp_path / "no.jsonl")]) == 2
    assert "the changes are not of this file" in capsys.readouterr().err
    assert not (tmp_path / "no.jsonl").exists()


def test_lost_bytes_are_guessed_only_when_asked_and_marked_as_guesses(tmp_path, shared, capsys):
    whole = (shared / "instruct" / "vi-alpaca-5000.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    damaged = "Tôi Ä‘ang há»\ufffdc tiáº¿ng Viá»‡t á»Ÿ trÆ°á»\ufffdng Ä‘áº¡i há»\ufffdc"
    data = written(tmp_path / "d.jsonl", [*map(json.loads, whole), {"prompt": "Bạn làm gì?", "response": damaged}])
    assert main(["data", "mend", str(data), "--out", str(tmp_path / "safe.jsonl")]) == 0
    assert main(["data", "mend", str(data), "--guess", "--out", str(tmp_path / "guess.jsonl")]) == 0
    last = [
        json.loads((tmp_path / f"{n}.jsonl").read_text(encoding="utf-8").splitlines()[-1]) for n in ("safe", "guess")
    ]
    assert "\ufffd" in last[0]["response"]
    assert last[1]["response"] == "Tôi đang học tiếng Việt ở trường đại học"
    lines = (tmp_path / "guess.changes.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["is_certain"] is False


def test_nothing_is_written_over_and_an_unreadable_record_ends_the_work(tmp_path, capsys):
    data = written(tmp_path / "d.jsonl", [{"prompt": "A?", "completion": "B."}])
    assert main(["data", "mend", str(data), "--out", str(data)]) == 2
    assert "the file is there already" in capsys.readouterr().err
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "A?", "completion": "B."}\n[1, 2]\n', encoding="utf-8")
    assert main(["data", "mend", str(broken), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.jsonl", "d.jsonl"]


def test_a_mend_that_is_killed_leaves_nothing_and_does_the_same_again(tmp_path, shared):
    words = ["data", "mend", str(shared / "instruct" / "vi-alpaca-5000.jsonl")]
    killed = tmp_path / "killed.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *words, "--out", str(killed)], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert process.wait() == -9
    assert not killed.exists()
    assert main([*words, "--out", str(killed), "--workers", "1"]) == 0
    assert main([*words, "--out", str(tmp_path / "whole.jsonl")]) == 0
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


KILLED = """
import os, signal, sys
from heed.train.progress import Progress
update = Progress.update
def killed(self, done, **numbers):
    if done == 3_000:
        os.kill(os.getpid(), signal.SIGKILL)
    update(self, done, **numbers)
Progress.update = killed
from heed.cli.main import main
main(sys.argv[1:])
"""

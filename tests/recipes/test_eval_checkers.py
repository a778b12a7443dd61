"""`heed eval` with checkers of the user's: one that raises is counted, and one that is repaired judges what is kept."""

import json
from pathlib import Path

import pytest

from heed.cli.main import main

TASK = """
about: Colours, in its own words
kind: generation
measures: [judged]
data: data.jsonl
generation: {{max_new_tokens: 3, checker: "{checker}"}}
shapes: [{{fields: [question], context: "{{{{ question }}}}", right: "blue"}}]
"""
RECORDS = [{"question": f"What colour is the {thing}?", "number": number} for number, thing in enumerate("abcd")]
FAILS = "def judged(answer, record): return 1 / (record['number'] - 2) > 0"
REPAIRED = "def judged(answer, record): return record['number'] != 2"


@pytest.fixture
def run(tmp_path, write, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(RECORDS)
    words = ["eval", "--model", str(base), "--task", "colours.yaml", "--out", "out", "--device", "cpu"]

    def run(checker):
        (tmp_path / "colours.yaml").write_text(TASK.format(checker=checker), encoding="utf-8")
        return main(words)

    return run


def test_a_checker_that_raises_is_counted_and_its_repair_judges_the_kept_answers(run, tmp_path):
    (tmp_path / "mine.py").write_text(FAILS, encoding="utf-8")
    assert run("mine.py:judged") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    [left_out] = found["left_out"]
    assert (left_out["count"], left_out["records"]) == (1, [3])
    assert "ZeroDivisionError: division by zero" in left_out["problem"]
    assert "mine.py:1, in judged" in left_out["problem"]
    assert [(row["value"], row["count"]) for row in found["figures"] if row["measure"] == "judged"] == [(1 / 3, 3)]
    [file] = (tmp_path / "out").glob("*/colours/items.jsonl")
    before = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]

    (tmp_path / "mine.py").write_text(REPAIRED, encoding="utf-8")
    assert run("mine.py:judged") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert found["left_out"] == []
    assert [(row["value"], row["count"]) for row in found["figures"] if row["measure"] == "judged"] == [(3 / 4, 4)]
    after = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    assert [line["verdict"]["judged"] for line in after] == [True, True, False, True]
    assert [line["answer_logp"] for line in after] == [line["answer_logp"] for line in before]


@pytest.mark.parametrize("checker", ["mime.py:judged", "numbr"])
def test_a_checker_that_is_not_there_is_told_before_anything_is_asked(run, tmp_path, checker, capsys):
    (tmp_path / "mine.py").write_text(FAILS, encoding="utf-8")
    assert run(checker) == 2
    assert f"checker: {checker}" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/colours"))


def test_the_example_of_a_task_of_ones_own_asks_and_judges_by_its_own_rule(base, tmp_path, monkeypatch):
    examples = Path(__file__).parents[2] / "examples"
    for name in ("lab.yaml", "lab_checker.py"):
        (tmp_path / "examples").mkdir(exist_ok=True)
        (tmp_path / "examples" / name).write_text((examples / name).read_text(encoding="utf-8"), encoding="utf-8")
    data = tmp_path / "runs" / "demo" / "data" / "unseen_wordings.jsonl"
    data.parent.mkdir(parents=True)
    said = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "a"}]
    record = {"messages": said, "family": "f", "rule": "starts", "accepted": ["a"]}
    data.write_text(json.dumps(record) + "\n", encoding="utf-8")
    words = ["--model", str(base), "--task", str(tmp_path / "examples" / "lab.yaml"), "--out", str(tmp_path / "out")]
    assert main(["eval", *words, "--max-new-tokens", "3", "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["figures"]
    assert {figure["measure"] for figure in found} >= {"right"}
    assert all(figure["count"] == 1 for figure in found if figure["measure"] == "right")

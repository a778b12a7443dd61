import json
from pathlib import Path

import pytest

from heed.cli.main import main
from heed.config import DataSource
from heed.lab.base_model import BASE_MODEL
from heed.recipes.training.first_look import MOST_RECORDS, first_look

GOOD = {"question": "Thủ đô của Việt Nam là gì?", "said": "Hà Nội."}


def written(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_tuning_says_what_its_data_shows_to_be_wrong_and_what_lists_the_rest(tmp_path, capsys):
    broken = [{**GOOD, "said": "HÃ\xa0 Ná»™i, thá»§ Ä‘Ã´"}] * 2 + [{**GOOD, "said": "Hà \x00Nội"}]
    data = written(tmp_path / "my data.jsonl", [*[GOOD] * 5, *broken])
    words = ["sft", "--model", str(BASE_MODEL), "--data", str(data), "--template", "chatml", "--steps", "1"]
    words += ["--columns", "prompt=question", "response=said", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    told = capsys.readouterr().err
    command = f"heed data check '{data}' --columns prompt=question --columns response=said"
    assert f"  2 records with broken-encoding, UTF-8 that was read as another code page: {command}" in told
    assert f"  1 record with control-characters, characters that no one types and no reader shows: {command}" in told
    assert main(words) == 0  # nothing is left to do, and nothing is said twice
    assert "broken-encoding" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("instruct/alpaca-5000.json", []),
        ("instruct/vi-alpaca-5000.jsonl", []),
        ("preference/rasbt-1100-preference.json", ["6 records with identical-answers, "]),
        ("preference/hh-rlhf-harmless-test.jsonl.gz", ["4 records of the first 2,000 with different-prompts, "]),
    ],
)
def test_real_sets_are_told_of_what_is_certain_alone(shared, file, says):
    found = list(first_look(DataSource(path=str(shared / file))))
    assert len(found) == len(says)
    assert all(line.startswith(begin) for line, begin in zip(found, says, strict=True))


def test_what_lies_behind_the_first_records_is_left_to_the_check(tmp_path):
    data = written(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}] * MOST_RECORDS + [{"prompt": "a\x00"}])
    assert list(first_look(DataSource(path=str(data)))) == []
    assert list(first_look(DataSource(path=str(written(tmp_path / "p.jsonl", [{"prompt": "alone\x00"}]))))) == []

import json
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from heed.cli.main import main

HOSTILE = "</script><script>alert(1)</script> ```\n# Big\n[x](javascript:alert(2)) ![i](http://e.vil/p.png) \u202e|a|"
VIETNAMESE = "Hãy giải thích vì sao bầu trời có màu xanh vào buổi trưa và màu đỏ vào buổi chiều tối ở miền Trung."
ENGLISH = "Explain why the sky looks blue at noon and red in the evening, and what the colours have to do with it."


def written(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [{"instruction": VIETNAMESE, "output": f"{n}: {VIETNAMESE}"} for n in range(75)]
    records += [{"instruction": ENGLISH, "output": f"{n}: {ENGLISH}"} for n in range(25)]
    written(tmp_path / "train.jsonl", [*records, {"instruction": "Empty?", "output": ""}])
    written(tmp_path / "test.jsonl", [{"instruction": "What?", "output": "Nothing."}])
    return tmp_path


def test_the_hubs_own_parser_reads_the_card_and_datasets_its_splits(folder):
    words = ["train.jsonl", "--eval-data", "test.jsonl", "--licence", "CC-BY-4.0", "--name", "Trời: xanh"]
    assert main(["data", "card", *words, "--out", "README.md"]) == 0
    card = DatasetCard.load(folder / "README.md")
    told = card.data
    assert (told.language, told.license, told.pretty_name) == (["vi", "en"], "cc-by-4.0", "Trời: xanh")
    assert (told.size_categories, told.task_categories) == (["n<1K"], ["text-generation"])
    assert "| train | vi | 75 | 74.3% |" in card.text
    assert "| error | empty-answer | 1 | 0.99% |" in card.text
    assert "| test | 1 | 1 alpaca | 2 | 13 | 13, 13 |" in card.text
    found = datasets.load_dataset(str(folder), cache_dir=str(folder / "cache"))
    assert {name: len(split) for name, split in found.items()} == {"train": 101, "test": 1}


def test_splits_of_different_shapes_are_tables_of_their_own(folder):
    turns = [{"role": role, "content": "Yes, no?"} for role in ("user", "assistant") * 2]
    written(folder / "turns.jsonl", [{"messages": turns}])
    assert main(["data", "card", "train.jsonl", "--eval-data", "turns.jsonl", "--out", "README.md"]) == 0
    assert "| test | 1 | 1 messages | 4 | 32 | 32, 32 |" in (folder / "README.md").read_text(encoding="utf-8")
    for name in ("train", "test"):
        found = datasets.load_dataset(str(folder), name, cache_dir=str(folder / "cache"))
        assert list(found) == [name]


def test_text_of_others_is_text_on_the_card(folder):
    name = "<img src=x onerror=alert(3)> [y](javascript:alert(4)) <b>c</b> *b* http://e.vil"
    records = [{"prompt": HOSTILE, "completion": HOSTILE}, {"prompt": "A?", "completion": "B."}]
    written(folder / "a|b](x).jsonl", records)
    assert main(["data", "card", "a|b](x).jsonl", "--name", name, "--licence", "My own\n---", "--out", "R.md"]) == 0
    text = (folder / "R.md").read_text(encoding="utf-8")
    card = DatasetCard(text)
    assert card.data.pretty_name == name
    assert (card.data.license, card.data.to_dict()["license_name"]) == ("other", "my-own")
    drawn = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(card.text)
    for tag in ("<script", "<img", "<a ", "<em", "<b>"):
        assert tag not in drawn, tag
    assert drawn.count("<h1>") == 1
    assert (
        "&lt;img src=x onerror=alert(3)&gt; [y](javascript:alert(4)) &lt;b&gt;c&lt;/b&gt; *b* http://e.vil</h1>"
        in drawn
    )
    assert "\u202e" not in text
    assert "\\u202e" in text


def test_ledgers_beside_the_file_tell_where_its_records_are_from(folder, capsys):
    written(folder / "more.jsonl", [{"text": "Plain."}, {"prompt": "TÃ´i yÃªu Viá»‡t Nam", "completion": "Yes."}])
    assert main(["data", "mend", "more.jsonl", "--out", "mended.jsonl"]) == 0
    words = ["train.jsonl:0.5", "mended.jsonl", "--as", "messages", "--out", "mix.jsonl"]
    assert main(["data", "mix", *words]) == 0
    assert main(["data", "card", "mix.jsonl", "mended.jsonl", "--out", "README.md"]) == 0
    assert "it names no licence" in capsys.readouterr().out
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| train.jsonl | 50 | 101 | 98.0% | `" in text
    assert "- 1 records of mended.jsonl were left out: plain text has no turns" in text
    assert "1 texts of mended.jsonl were mended by `heed data mend`" in text
    assert "license" not in DatasetCard(text).data.to_dict()


def test_tokens_are_those_of_a_model(folder, shared):
    model = shared / "models" / "stories260K"
    written(folder / "d.jsonl", [{"prompt": "Once upon a time", "completion": " there was a cat"}])
    assert main(["data", "card", "d.jsonl", "--model", str(model), "--out", "R.md"]) == 0
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = ("Once upon a time", " there was a cat")
    count = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    row = next(
        line for line in (folder / "R.md").read_text(encoding="utf-8").splitlines() if line.startswith("| train")
    )
    assert row.endswith(f"| {count} |")


def test_nothing_is_written_over_and_what_is_empty_is_told(folder, capsys):
    (folder / "README.md").write_text("mine")
    assert main(["data", "card", "train.jsonl", "--out", "README.md"]) == 2
    assert "the file is there already" in capsys.readouterr().err
    assert main(["data", "card", str(written(folder / "e.jsonl", [])), "--out", "R.md"]) == 2
    assert "the file is empty" in capsys.readouterr().err
    assert main(["data", "card", "train.jsonl", "--out", "R.html"]) == 2
    assert "fix:      --out R.md" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "mine"

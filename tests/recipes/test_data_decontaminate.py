import json
import random
import unicodedata
from pathlib import Path

import pytest

from heed.cli.main import main
from heed.recipes.workshop.mend import records_of

QUESTION = "A farmer walks to the market with nine geese and sells four of them, how many are left?"
ANSWER = "The farmer began with nine geese, and after the sale of four of them exactly five geese are left over."


def written(path: Path, records: list[object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def cleaned(tmp_path: Path, data: Path, *words: object) -> tuple[list[dict], list[dict]]:
    """(what is left, what was removed)."""
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.jsonl"
    assert main(["data", "decontaminate", str(data), *map(str, words), "--out", str(out)]) == 0
    removed = out.with_name(f"{out.stem}.removed.jsonl")
    return tuple(
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in (out, removed)
    )


def test_what_stands_in_an_evaluation_set_goes_in_every_form_with_the_match_shown(tmp_path, capsys):
    sets = written(
        tmp_path / "eval" / "test.jsonl", [{"query": f"Question: {QUESTION}\nAnswer:", "gold": ANSWER}]
    ).parent
    leaked = [
        {"instruction": QUESTION, "output": "5"},
        {"instruction": f"Think step by step. {QUESTION} Give a number.", "output": "Five it is."},
        {"instruction": "Tell me of geese.", "output": ANSWER},
        {"messages": [{"role": "user", "content": QUESTION.upper()}, {"role": "assistant", "content": "5"}]},
        {"prompt": " ".join(QUESTION.replace(",", " -").split()[3:]), "chosen": "Five.", "rejected": "Six."},
    ]
    innocent = [
        {"instruction": "How many are left?", "output": "The farmer began with nine geese, and sold none."},
        {"instruction": " ".join(QUESTION.split()[:11]), "output": "No more."},
    ]
    data = written(tmp_path / "d.jsonl", [*leaked, *innocent])
    left, removed = cleaned(tmp_path, data, "--against", sets)
    assert left == innocent
    assert [each["content"] for each in removed] == leaked
    assert [each["record"] for each in removed] == [1, 2, 3, 4, 5]
    assert removed[1]["match"] == QUESTION.lower()[:-1]
    assert removed[1]["coverage"] == 1.0
    assert removed[4]["match"] == " ".join(QUESTION.lower().replace(",", " -").split()[3:])[:-1]
    assert removed[2]["evaluation"] == {"path": str(sets / "test.jsonl"), "record": 1, "where": "gold"}
    assert "5 left out that hold 50% or more" in capsys.readouterr().out
    left, _ = cleaned(tmp_path, data, "--against", sets, "--coverage", 1)
    assert left == [leaked[4], *innocent]


def test_the_share_of_runs_decides_and_the_border_is_in(tmp_path):
    words = [f"word{n}" for n in range(27)]  # 20 runs of 8
    sets = written(tmp_path / "e.jsonl", [{"question": " ".join(words)}])
    data = written(tmp_path / "d.jsonl", [{"prompt": "p", "completion": " ".join(words[:n])} for n in (16, 17, 18)])
    left, removed = cleaned(tmp_path, data, "--against", sets)
    assert [len(each["completion"].split()) for each in left] == [16]
    assert [each["coverage"] for each in removed] == [0.5, 0.55]


def test_short_answers_titles_and_boilerplate_are_no_contamination(tmp_path):
    boilerplate = "Read what follows with care and then answer as well and as shortly as you can"
    title = "The Hitchhiker's Guide to the Galaxy by Douglas Adams"
    questions = [f"{boilerplate}: {' '.join(f'q{n}x{k}' for k in range(9))}" for n in range(20)]
    questions.append("Which of the following is not a common mineral?")
    sets = written(tmp_path / "e.jsonl", [{"prompt": each, "answer": title} for each in questions])
    innocent = [{"prompt": "Which of the following is not a common fruit?", "completion": "Stone."}]
    innocent += [{"prompt": f"{boilerplate}: who are you?", "completion": f"I like {title}."}]
    leaked = [{"prompt": questions[3].rpartition(": ")[2], "completion": "No."}]
    left, removed = cleaned(tmp_path, written(tmp_path / "d.jsonl", innocent + leaked), "--against", sets)
    assert left == innocent
    assert removed[0]["match"] == leaked[0]["prompt"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_text_that_is_too_short_as_an_answer_is_looked_for_where_it_is_asked(tmp_path, order):
    short = " ".join(f"word{n}" for n in range(10))
    written(tmp_path / "a.jsonl", [{"question": "What did the man on the bridge say to us?", "answer": short}])
    written(tmp_path / "b.jsonl", [{"question": short}])
    data = written(tmp_path / "d.jsonl", [{"prompt": "p", "completion": f"So it was: {short}"}])
    words = [word for name in order for word in ("--against", tmp_path / f"{name}.jsonl")]
    left, removed = cleaned(tmp_path, data, *words)
    assert left == []
    assert len(removed) == 1


def test_scripts_without_blanks_and_other_ways_to_compose_accents_are_read(tmp_path):
    chinese = "小明有十二个苹果，他给了妹妹五个，又从市场买了三个，请问他现在一共有多少个苹果？"
    vietnamese = "Một người nông dân mang chín con ngỗng ra chợ và bán bốn con, hỏi còn lại bao nhiêu con?"
    sets = written(tmp_path / "e.jsonl", [{"question": chinese}, {"question": vietnamese}])
    leaked = [
        {"prompt": f"请回答：{chinese}谢谢", "completion": "十。"},
        {"prompt": unicodedata.normalize("NFD", f"Bạn ơi: {vietnamese}"), "completion": "Năm."},
    ]
    innocent = [{"prompt": "小明有十二个苹果", "completion": "很好，请问他现在一共有多少钱？"}]
    left, removed = cleaned(tmp_path, written(tmp_path / "d.jsonl", leaked + innocent), "--against", sets)
    assert left == innocent
    assert [each["content"] for each in removed] == leaked


def test_every_file_of_a_folder_is_read_whatever_its_split_and_layout(tmp_path, capsys):
    folder = tmp_path / "sets, all"
    words = [" ".join(f"set{n}word{k}" for k in range(10)) for n in range(4)]
    written(folder / "train-a.jsonl", [{"question": words[0]}])
    (folder / "test.csv").write_text(f"id,Question\n1,{words[1]}\n", encoding="utf-8")
    nested = {"data": [{"paragraphs": [{"context": "short", "qas": [{"question": words[2]}]}]}], "version": "1"}
    (folder / "nested.json").write_text(json.dumps(nested), encoding="utf-8")
    (folder / "deep").mkdir()
    (folder / "deep" / "t.tsv").write_text(f"n\tsentence\n1\t{words[3]}\n", encoding="utf-8")
    (folder / "README.md").write_text("about")
    (folder / "sets.bin").write_text("?")
    data = written(tmp_path / "d.jsonl", [{"prompt": "Say it.", "completion": each} for each in words])
    left, removed = cleaned(tmp_path, data, "--against", folder)
    assert left == []
    assert [each["evaluation"]["where"] for each in removed][2] == "paragraphs.0.qas.0.question"
    assert "sets.bin: not read" in capsys.readouterr().err


def test_mistakes_are_told_in_five_parts_and_leave_nothing(tmp_path, capsys):
    data = written(tmp_path / "d.jsonl", [{"prompt": "A?", "completion": "B."}])
    short = written(tmp_path / "short.jsonl", [{"question": "Why?"}])
    out = ["--out", tmp_path / "c.jsonl"]
    for words, says in (
        ([*out, "--against", short], "nothing that could be looked for"),
        ([*out, "--against", tmp_path / "none"], "none"),
        ([*out, "--against", short, "--coverage", "50"], "--coverage"),
        (["--out", data, "--against", short], "the file is there already"),
    ):
        assert main(["data", "decontaminate", str(data), *map(str, words)]) == 2
        told = capsys.readouterr().err
        assert says in told
        assert "fix:" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "short.jsonl"]


@pytest.mark.slow
def test_real_sets_planted_in_real_records_are_all_found_and_nothing_else(tmp_path, shared):
    rng = random.Random(0)
    real = json.loads((shared / "instruct" / "alpaca-5000.json").read_text(encoding="utf-8"))
    planted = []
    sets = ["gsm8k-test question", "gsm8k-test answer", "arc-challenge query", "boolq query", "bbq-age context"]
    for name, key in map(str.split, [*sets, "ifeval-en prompt", "hellaswag question"]):
        texts = [record[key] for _, record in records_of(str(shared / "eval" / f"{name}.jsonl"))]
        for text in rng.sample([each for each in texts if len(each.split()) >= 13], 25):
            question = text.removeprefix("Question: ").rpartition("Question: ")[2].removesuffix("Answer:")
            reworded = f"Here is something to think about.\n\n{question}\n\nWhat do you say?"
            forms = [text, unicodedata.normalize("NFD", text)] + [reworded] * (len(question.split()) > 8)
            planted += [{"instruction": form, "input": "", "output": "I say so."} for form in forms]
    data = written(tmp_path / "d.jsonl", real + planted)
    left, removed = cleaned(tmp_path, data, "--against", shared / "eval")
    assert left == real
    assert [each["content"] for each in removed] == planted
    assert len(planted) > 500

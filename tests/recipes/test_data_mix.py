import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml

from heed.cli.main import main
from heed.data.mixture import DatasetShare, draw_order
from heed.data.read import read
from heed.types import Conversation, Origin, Ranking
from heed.workshop.shares import Part, apportioned, planned


def written(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.jsonl", [{"instruction": f"Ask {n}?", "input": "x", "output": f"a{n}"} for n in range(100)])
    turns = [{"role": "user", "content": "Ask?"}, {"role": "assistant", "content": "Đúng."}]
    written(tmp_path / "b.jsonl", [{"messages": turns, **({"late": n} if n > 40 else {})} for n in range(50)])
    pairs = [{"prompt": f"p{n}", "chosen": "good", "rejected": "bad", "score": None if n else 2} for n in range(10)]
    written(tmp_path / "c.jsonl", pairs)
    return tmp_path


def test_weights_draw_what_the_first_epoch_of_training_draws_in_its_order(folder, capsys):
    assert main(["data", "mix", "a.jsonl:0.5", "b.jsonl:2", "c.jsonl", "--out", "m.jsonl", "--seed", "3"]) == 0
    shares = [DatasetShare(100, 0.5), DatasetShare(50, 2.0), DatasetShare(10)]
    which, record, _ = draw_order(shares, seed=3, epoch=0)
    sets = [lines(folder / f"{name}.jsonl") for name in "abc"]
    assert lines(folder / "m.jsonl") == [sets[m][n] for m, n in zip(which, record, strict=True)]
    assert "b.jsonl: 100 drawn of 50, 50 different ones, 62.5% of the mixture" in capsys.readouterr().out
    ledger = yaml.safe_load((folder / "m.mixture.yaml").read_text(encoding="utf-8"))
    assert [source["num_drawn"] for source in ledger["sources"]] == [50, 100, 10]
    assert all(len(sum_) == 64 for source in ledger["sources"] for sum_ in source["sha256"].values())


def test_shares_are_kept_and_what_has_too_few_records_is_told_or_repeated(folder, capsys):
    words = ["data", "mix", "a.jsonl:50%", "b.jsonl:30%", "c.jsonl", "--size", "100"]
    assert main([*words, "--out", "m.jsonl"]) == 0
    assert "its part would be 20" in capsys.readouterr().out
    kinds = Counter(next(iter(record)) for record in lines(folder / "m.jsonl"))
    assert kinds == {"instruction": 50, "messages": 30, "prompt": 10}
    assert main([*words, "--repeat", "--out", "n.jsonl"]) == 0
    kinds = Counter(next(iter(record)) for record in lines(folder / "n.jsonl"))
    assert kinds == {"instruction": 50, "messages": 30, "prompt": 20}
    assert main(["data", "mix", "a.jsonl:50%", "b.jsonl:50%", "--cap", "20", "--out", "o.jsonl"]) == 0
    assert len(lines(folder / "o.jsonl")) == 40
    capped = ["data", "mix", "a.jsonl:50%", "b.jsonl:50%", "--cap", "20", "--size", "60"]
    assert main([*capped, "--out", "p.jsonl"]) == 0
    assert len({json.dumps(record) for record in lines(folder / "p.jsonl") if "input" in record}) == 20


def test_a_settings_file_says_the_same_as_the_command_line(folder):
    says = {
        "data": [{"path": "a.jsonl", "share": 0.6}, {"path": "b.jsonl", "share": 0.4}],
        "size": 50,
        "out": "y.jsonl",
    }
    (folder / "mixture.yaml").write_text(yaml.safe_dump(says), encoding="utf-8")
    assert main(["data", "mix", "mixture.yaml"]) == 0
    assert main(["data", "mix", "a.jsonl:60%", "b.jsonl:40%", "--size", "50", "--out", "z.jsonl"]) == 0
    assert (folder / "y.jsonl").read_bytes() == (folder / "z.jsonl").read_bytes()


def test_parquet_keeps_fields_that_come_late_and_heed_reads_the_same_records(folder, capsys):
    many = [{"prompt": f"p{n}", "completion": "x" * 2_000, **({"late": n} if n > 2_500 else {})} for n in range(2_600)]
    for n in range(20):
        many[n] |= {f"once{n}": n}  # of which some are met after any number of rows
    written(folder / "d.jsonl", many)
    assert main(["data", "mix", "d.jsonl", "c.jsonl", "b.jsonl", "--out", "tables", "--shards", "0.001MB"]) == 0
    assert "late: " in capsys.readouterr().out
    files = sorted((folder / "tables").iterdir())
    assert len(files) == 3
    assert files[0].name == "train-00000-of-00003.parquet"
    schemas = [pyarrow.parquet.read_schema(file) for file in files]
    assert schemas[0] == schemas[1] == schemas[2]
    assert {"late", "messages", "score"} <= set(schemas[0].names)
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert sum(row["late"] is not None for row in rows) == 99 + 9
    assert all([row[f"once{n}"] for row in rows].count(n) == 1 for n in range(20))
    shapes = Counter(shape for shape, _ in read("tables"))
    assert shapes == {
        "prompt/completion": 2600,
        "messages": 50,
        "preference": 10,
    }


def test_values_of_two_kinds_in_one_field_are_no_table(folder, capsys):
    written(folder / "d.jsonl", [{"prompt": "a", "completion": "b", "late": "text"}])
    assert main(["data", "mix", "b.jsonl", "d.jsonl", "--out", "tables"]) == 2
    told = capsys.readouterr().err
    assert "the field late: " in told
    assert "--out MIX.jsonl" in told
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]


def test_records_of_one_shape_say_what_they_said(folder, capsys):
    several = {"prompt": "p", "answers": ["best", "good", "bad"]}
    tool = [{"role": "user", "content": "t"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    more = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    messages = [{"messages": tool}, {"messages": [{"role": "system", "content": "s"}, *more]}, {"messages": more * 2}]
    judged = [{"prompt": "j", "completion": "k", "label": label} for label in (True, False)]
    written(folder / "d.jsonl", [several, *messages, *judged, {"text": "plain"}])
    words = ["data", "mix", "d.jsonl", "a.jsonl", "--as"]
    for shape in ("messages", "alpaca"):
        assert main([*words, shape, "--out", f"{shape}.jsonl"]) == 0
    told = capsys.readouterr().out
    assert "1 left out: plain text has no turns (the first is record 7)" in told
    assert "1 left out: an answer that is judged bad is none to imitate" in told
    before = [noun for _, noun in [*read("d.jsonl"), *read("a.jsonl")]]
    said = [turns(noun) for noun in before if turns(noun)]
    assert sorted(map(repr, said)) == sorted(repr(turns(noun)) for _, noun in read("messages.jsonl"))
    alpaca = lines(folder / "alpaca.jsonl")
    assert len(alpaca) == 100 + 3
    assert {"instruction": "Ask 7?", "input": "x", "output": "a7"} in alpaca
    assert {"system": "s", "instruction": "u", "input": "", "output": "v"} in alpaca
    assert main(["data", "mix", "d.jsonl", "c.jsonl", "--as", "preference", "--out", "pairs.jsonl"]) == 0
    pairs = [noun for _, noun in read("pairs.jsonl")]
    assert all(isinstance(noun, Ranking) for noun in pairs)
    found = Counter((noun.answers[0][0].content, noun.answers[1][0].content) for noun in pairs)
    assert found == {("best", "good"): 1, ("best", "bad"): 1, ("good", "bad"): 11}
    assert main([*words, "preference", "--out", "none.jsonl"]) == 2
    assert "no record of a data set can be written as preference" in capsys.readouterr().err


def test_a_tie_prefers_neither(folder):
    written(folder / "t.jsonl", [{"prompt": "q", "answers": ["first", "equal", "worse"], "scores": [2, 2, 1]}])
    assert main(["data", "mix", "t.jsonl", "--as", "preference", "--out", "pairs.jsonl"]) == 0
    found = [(noun.answers[0][0].content, noun.answers[1][0].content) for _, noun in read("pairs.jsonl")]
    assert sorted(found) == [("equal", "worse"), ("first", "worse")]


def test_a_file_called_as_nothing_else_is_takes_any_name(folder):
    assert main(["data", "mix", "a.jsonl", "--out", "records"]) == 0
    assert sorted(path.suffix for path in (folder / "records").iterdir()) == [".parquet"]


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def turns(noun) -> list[tuple[str, str, str]]:
    """What is imitated of a record, its layout apart."""
    if not isinstance(noun, Conversation):
        if not hasattr(noun, "prompt") or getattr(noun, "is_desirable", True) is False:
            return []
        noun = noun.best() if isinstance(noun, Ranking) else noun.conversation()
    return [(m.role, m.content, repr(m.extra.get("tool_calls"))) for m in noun.messages]


def test_the_same_bytes_come_from_any_number_of_processes(folder, shared):
    data = shared / "instruct" / "alpaca-5000.json"
    for workers in ("1", "2"):
        words = ["data", "mix", f"{data}:0.6", "a.jsonl", "--as", "messages", "--workers", workers]
        assert main([*words, "--out", f"{workers}.jsonl"]) == 0
    assert (folder / "1.jsonl").read_bytes() == (folder / "2.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.jsonl:60%", "b.jsonl:70%"], "fix:      a.jsonl:46.15% b.jsonl:53.85%"),
        (["a.jsonl:60%", "b.jsonl:30%"], "together 90%"),
        (["a.jsonl:100%", "b.jsonl"], "1 data sets without a share"),
        (["a.jsonl:0.001"], "would never be drawn"),
        (["a.jsonl", "--size", "0"], "size"),
        (["a.jsonl:0"], "weight"),
        (["a.jsonl:120%"], "share"),
        (["none.jsonl:50%", "a.jsonl:50%"], "none.jsonl"),
        (["a.jsonl", "--out", "a.jsonl"], "the file is there already"),
        (["a.jsonl", "--out", "m.parquet"], "fix:      --out m"),
        (["a.jsonl", "--shards", "200"], "fix:      --shards 200MB"),
    ],
)
def test_what_cannot_be_mixed_is_told_and_nothing_stays(folder, words, says, capsys):
    out = [] if "--out" in words else ["--out", "out"]
    assert main(["data", "mix", *words, *out]) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_parts_have_the_sum_of_the_whole_and_miss_their_share_by_less_than_one():
    draw = np.random.default_rng(0)
    for _ in range(50):
        weights = [Fraction(int(each)) for each in draw.integers(1, 1_000, draw.integers(1, 9))]
        size = int(draw.integers(1, 10_000))
        found = apportioned([each / sum(weights) for each in weights], size)
        assert sum(found) == size
        assert all(abs(n - size * each / sum(weights)) < 1 for n, each in zip(found, weights, strict=True))


def test_the_largest_mixture_of_shares_repeats_nothing():
    parts = [Part("a", 100, share=0.5), Part("b", 30, share=0.3), Part("c", 7), Part("d", 63)]
    assert [each.draws for each in planned(parts, None, False)] == [50, 30, 2, 18]


def test_origins_of_what_is_left_out_are_those_of_the_file(folder, capsys):
    written(folder / "d.jsonl", [{"prompt": "a", "completion": "b"}, {"text": "t"}])
    assert main(["data", "mix", "d.jsonl", "--as", "messages", "--out", "m.jsonl"]) == 0
    assert f"record {Origin('d.jsonl', 2).record}" in capsys.readouterr().out

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.cli.main import main
from heed.recipes.workshop.curve import point_of

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{}\n\n### Response:\n"
)


def select(*words: object) -> int:
    return main(["data", "select", *map(str, words)])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def answers(colours) -> list[dict]:
    """24 prompts with an answer, and some of the prompts and answers once more with others."""
    again = [{"instruction": each["instruction"], "output": "I think it is grey, or not."} for each in colours[:6]]
    return [*colours, *again, {"instruction": "Say it.", "output": colours[0]["output"]}]


def plain_loss(model, prompt: list[int], answer: list[int]) -> float:
    """The mean NLL of the answer as transformers computes it, one sequence in a forward."""
    ids = torch.tensor([prompt + answer])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("max_tokens", [None, 1, 70])
def test_ifd_is_the_ratio_of_plain_losses_at_any_size_of_a_forward(base, answers, write, tmp_path, max_tokens):
    scores = tmp_path / "all.jsonl"
    size = [] if max_tokens is None else ["--max-tokens", max_tokens]
    words = [write(answers), "--model", base, "--budget", 5, "--out", tmp_path / "c.jsonl", "--all-scores", scores]
    assert select(*words, *size) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    found = lines(scores)
    for record, told in zip(answers, found, strict=True):
        prompt = tokenizer.encode(PROMPT.format(record["instruction"]))
        answer = [*tokenizer.encode(record["output"]), tokenizer.eos_token_id]
        assert told["tokens"] == len(answer)
        assert told["nll"] == pytest.approx(plain_loss(model, prompt, answer), abs=1e-5)
        assert told["nll_alone"] == pytest.approx(plain_loss(model, [tokenizer.eos_token_id], answer), abs=1e-5)
        assert told["ifd"] == pytest.approx(told["nll"] / told["nll_alone"], abs=1e-12)
    below = sorted((i for i, each in enumerate(found) if each["ifd"] <= 1), key=lambda i: -found[i]["ifd"])
    chosen = below[:5]
    assert lines(tmp_path / "c.jsonl") == [answers[i] for i in sorted(chosen)]
    assert [each["place"] for each in found if each["place"]] == [chosen.index(i) + 1 for i in sorted(chosen)]
    assert [each["record"] for each in lines(tmp_path / "c.scores.jsonl")] == [i + 1 for i in sorted(chosen)]


def test_every_answer_of_a_conversation_counts_and_alone_each_stands_behind_the_first_token(instruct, write, tmp_path):
    said = [("user", "What is red?"), ("assistant", "Blood."), ("user", "And white?"), ("assistant", "Snow is, too.")]
    record = {"messages": [{"role": role, "content": content} for role, content in said]}
    scores = tmp_path / "all.jsonl"
    words = ["--model", instruct, "--budget", 1, "--by", "deita", "--out", tmp_path / "c.jsonl"]
    assert select(write([record]), *words, "--all-scores", scores) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(instruct).eval(), AutoTokenizer.from_pretrained(instruct)
    [told] = lines(scores)
    before, sums, alone, count = [], 0.0, 0.0, 0
    for (_, asked), (_, answer) in ((said[0], said[1]), (said[2], said[3])):
        before += tokenizer.encode(f"<|user|>\n{asked}<|end|>\n<|assistant|>\n")
        ids = tokenizer.encode(f"{answer}<|end|>")
        sums += plain_loss(model, before, ids) * len(ids)
        alone += plain_loss(model, [tokenizer.eos_token_id], ids) * len(ids)
        before, count = before + ids + tokenizer.encode("\n"), count + len(ids)
    assert told["tokens"] == count
    assert told["nll"] == pytest.approx(sums / count, abs=1e-5)
    assert told["nll_alone"] == pytest.approx(alone / count, abs=1e-5)


def test_embeddings_are_the_mean_states_of_the_answers_tokens(base, answers, tmp_path, write):
    from heed.data.read import read_nouns
    from heed.recipes.workshop.answered import answered, open_words
    from heed.recipes.workshop.losses import open_asked

    words = open_words(str(base), None, False)
    records = [answered(words, [noun]) for _, noun in read_nouns(str(write(answers)))]
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    for size in (None, 60):
        asked = open_asked(str(base), words, device="cpu", dtype="float32", max_tokens=size, trust_remote_code=False)
        found = asked.embeddings(records)
        for record, row in zip(answers, found, strict=True):
            prompt = tokenizer.encode(PROMPT.format(record["instruction"]))
            ids = [*prompt, *tokenizer.encode(record["output"]), tokenizer.eos_token_id]
            with torch.no_grad():
                states = plain.model(input_ids=torch.tensor([ids])).last_hidden_state[0, len(prompt) :].mean(dim=0)
            assert np.abs(row - (states / states.norm()).numpy()).max() < 1e-5


@pytest.mark.parametrize("by", ["k-center", "deita", "random", "longest"])
def test_records_are_kept_as_they_stand_and_in_their_order_whatever_chooses(base, answers, write, tmp_path, by):
    records = [{**each, "id": n, "more": {"kept": [None, n]}} for n, each in enumerate(answers)]
    data = write(records)
    told = []
    for workers, size in ((1, 200), (2, 4096)):
        out = tmp_path / f"{workers}.jsonl"
        more = ["--workers", workers, "--max-tokens", size, "--threshold", 0.999]
        assert select(data, "--model", base, "--budget", 7, "--by", by, "--seed", 3, "--out", out, *more) == 0
        told.append(out.read_bytes())
        found = lines(out)
        assert len(found) == 7
        assert found == [records[each["id"]] for each in found]
        assert sorted(each["id"] for each in found) == [each["id"] for each in found]
    assert told[0] == told[1]


def test_without_a_model_the_longest_are_counted_in_characters_and_text_is_text(write, tmp_path):
    (tmp_path / "d").mkdir()
    first = write([{"prompt": "A?", "completion": "x" * n} for n in (3, 9, 5)], "d/a.jsonl")
    write([{"text": "y" * 7}, {"prompt": "B?", "completion": "z" * 4}], "d/b.jsonl")
    out = tmp_path / "c.jsonl"
    assert select(first.parent, "--by", "longest", "--budget", 3, "--out", out) == 0
    assert [each["characters"] for each in lines(tmp_path / "c.scores.jsonl")] == [9, 5, 7]


def test_what_cannot_be_used_is_counted_and_named(base, write, tmp_path, capsys):
    records = [
        {"prompt": "A?", "completion": "It is blue."},
        {"prompt": "A?", "completion": ""},
        {"prompt": "B?", "completion": "<|endoftext|>"},
        {"prompt": "C?", "completion": "very " * 300},
        {"text": "It is green."},
    ]
    words = ["--model", base, "--budget", 1, "--by", "deita"]
    assert select(write(records), *words, "--json", "--out", tmp_path / "c.jsonl") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_records"] == 1
    assert sum(told["unusable"].values()) == 4
    assert "longer than the model can read" in told["unusable"]
    assert select(tmp_path / "data.jsonl", *words, "--out", tmp_path / "again.jsonl") == 0
    assert "record 4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--budget", "0", "--by", "random"], "budget has a value it cannot have"),
        (["--budget", "9", "--by", "random"], "fix:      --budget 2"),
        (["--by", "banana"], "fix:      --by ifd"),
        (["--by", "ifd"], "this needs a model"),
        (["--by", "random,longest"], "one way chooses at a time"),
        (["--by", "random", "--curve"], "a curve needs held-out data"),
        (["--by", "random", "--budget", "1", "--out", "c.txt"], "fix:      --out c.txt.jsonl"),
        (["--by", "random", "--budget", "1", "--out", "/proc/none/c.jsonl"], "cannot be written"),
        (["--by", "random", "--budget", "1", "--all-scores", "data.jsonl"], "the file is there already"),
    ],
)
def test_what_cannot_be_done_is_told_in_five_parts(write, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    write([{"prompt": "A?", "completion": "B."}, {"prompt": "C?", "completion": "D."}])
    out = [] if "--out" in words else ["--out", "c.jsonl"]
    assert select("data.jsonl", *out, *words) == 2
    told = capsys.readouterr().err
    assert says in told
    assert all(part in told for part in ("where:", "found:", "expected:", "fix:"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl"]


def test_a_model_without_weights_is_told(base, write, tmp_path, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    data = write([{"prompt": "A?", "completion": "B."}])
    assert select(data, "--model", folder, "--budget", 1, "--out", tmp_path / "c.jsonl") == 2
    told = capsys.readouterr().err
    assert all(part in told for part in ("error:", "where:", "found:", "expected:", "fix:"))
    assert not (tmp_path / "c.jsonl").exists()


def test_better_than_chance_is_said_only_where_neither_records_nor_seeds_could_have_made_it():
    rng = np.random.default_rng(0)
    chance = 2 + rng.normal(0, 0.1, size=(3, 200))
    better = chance - 0.1 + rng.normal(0, 0.02, size=chance.shape)
    assert point_of("ifd", 50, better, chance, "loss")["verdict"] == "better than random"
    assert point_of("ifd", 50, better, chance, "loss")["difference"] == pytest.approx(0.1, abs=0.01)
    assert point_of("ifd", 50, better, chance, "accuracy")["verdict"] == "worse than random"
    by_one_seed = chance - np.array([[0.3], [0.0], [0.0]]) + rng.normal(0, 0.02, size=chance.shape)
    assert point_of("ifd", 50, by_one_seed, chance, "loss")["verdict"] == "not better than random"
    by_few_records = chance.copy()
    by_few_records[:, :2] -= 5
    assert point_of("ifd", 50, by_few_records, chance, "loss")["verdict"] == "not better than random"
    assert point_of("ifd", 50, chance, chance, "loss")["verdict"] == "not better than random"

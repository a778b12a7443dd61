"""`heed show` of a run folder: what the run was made from, as its own tokenizer and template have it."""

import json

import pytest
import tastes

from heed.cli.main import main
from heed.data.prompts import open_prompts


def test_a_run_in_place_of_data_shows_what_it_learns_from(green_reward, capsys):
    assert main(["show", str(green_reward), "--record", "5", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [each["text"][slice(*each["spans"][-1])] for each in answers]
    assert texts == [f"{tastes.answer(colour)}<|end|>" for colour in ("green", "blue", "white", "red")]
    assert [each["score"] for each in answers] == [1, 0, 0, 0]
    assert answers[0]["text"].startswith("<|user|>\n")


@pytest.mark.parametrize("stays", ["a run that ended", "a run without its model"])
def test_the_settings_of_the_run_hold_unless_others_are_given(tmp_path, instruct, write, capsys, stays):
    data, out = write([{"instruction": "Where?", "output": "Here."}] * 2), tmp_path / "run"
    assert tastes.heed("sft", model=instruct, data=data, out=out, template="plain", steps=1, held_out_share=0) == 0
    if stays == "a run without its model":
        (out / "tokenizer.json").unlink()
    capsys.readouterr()
    assert main(["show", str(out), "--limit", "1", "--json"]) == 0
    [shown] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (shown["dataset"], shown["text"]) == (str(data), "Where?\nHere.<|endoftext|>")
    assert main(["show", str(out), "--limit", "1", "--json", "--template", "alpaca"]) == 0
    assert "### Response:" in capsys.readouterr().out


@pytest.fixture(params=["ppo", "grpo"])
def asks(request, tmp_path, tuned):
    """A run of one phase that learns from a reward; to its second question an answer is written, which is not read."""
    answered = {"instruction": "Which colour?", "output": "It is black."}
    data, out = tastes.write(tmp_path / "asked.jsonl", [*tastes.prompts()[:1], answered]), tmp_path / "run"
    groups = {"group_size": 2} if request.param == "grpo" else {}
    options = {"steps": 1, "batch_size": 2, "max_new_tokens": 4, "rank": 2, **groups}
    assert tastes.heed(request.param, model=tuned, data=data, out=out, reward="regex: e", **options) == 0
    return out


def test_a_run_that_learns_from_a_reward_shows_its_prompts_as_the_policy_is_asked(asks, tmp_path, capsys):
    capsys.readouterr()
    assert main(["show", str(asks), "--json"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    questions = (tastes.QUESTIONS[0], "Which colour?")
    assert [each["text"] for each in shown] == [f"<|user|>\n{each}<|end|>\n<|assistant|>\n" for each in questions]
    [first_byte] = asks.rglob("first_byte.npy")
    stored = open_prompts("asked.jsonl", first_byte.parent)
    assert [each["ids"] for each in shown] == [stored.prompt(i).ids.tolist() for i in range(2)]
    assert all(each["spans"] == [] and set(each["weight"]) == {0} for each in shown)
    assert main(["show", str(asks), "--record", "2"]) == 0
    heading = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("record"))
    assert heading.startswith(f"record 2, a prompt: {len(shown[1]['ids'])} tokens, 0 trained (0%), template ")
    assert main(["show", str(asks), "--html", str(tmp_path / "page.html")]) == 0
    assert "record 2, a prompt: " in (tmp_path / "page.html").read_text()


def test_a_prompt_that_cannot_be_asked_is_shown_as_what_it_is(asks, tmp_path, capsys):
    tastes.write(tmp_path / "asked.jsonl", [{"prompt": "Which <|end|>?"}, {"prompt": "Which?"}])
    capsys.readouterr()
    assert main(["show", str(asks), "--json"]) == 0
    unusable, usable = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert unusable["finding"]["found"] == "'<|end|>' in message 1 (user)"
    assert usable["text"].startswith("<|user|>\nWhich?")

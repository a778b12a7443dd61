"""Mistakes in preferences, rewards and settings: five parts, status 2, nothing half-written; or counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tastes
from refusals import parts_of_refusal
from tastes import heed, lines

from conftest import OWN_TEMPLATE, make_model, make_tokenizer
from heed.cli.main import main
from heed.recipes import dpo

GOOD = [{"prompt": f"Which is it, {i}?", "chosen": "It is green.", "rejected": "It is red."} for i in range(6)]
ASKED = [{"prompt": f"Which is it, {i}?"} for i in range(6)]
POLICY = {"steps": 2, "batch_size": 4, "max_new_tokens": 4, "rank": 2}


@pytest.fixture
def refused(tmp_path, capsys) -> Callable[..., dict[str, str]]:
    """Run a command into `tmp_path / "run"`, see that it refuses as it should, and return the parts of the error."""

    def ran(command: str, *, leaves: bool = False, **options: Any) -> dict[str, str]:
        out = tmp_path / "run"
        assert heed(command, out=out, **options) == 2
        return parts_of_refusal(capsys, out, leaves=leaves)

    return ran


# ---- preferences


USELESS = {
    "identical answers": ({"prompt": "p?", "chosen": "Same.", "rejected": "Same."}, "says the same"),
    "an empty answer": ({"prompt": "p?", "chosen": "Yes.", "rejected": ""}, "is empty"),
    "a ranking of one answer": ({"prompt": "p?", "answers": ["Only."]}, ""),
    "a ranking in which all tie": ({"prompt": "p?", "answers": ["A.", "B."], "scores": [1, 1]}, ""),
}


@pytest.mark.parametrize("command", ["reward", "dpo"])
@pytest.mark.parametrize("what", USELESS)
def test_a_ranking_that_teaches_nothing_is_left_out_and_listed(tmp_path, instruct, write, capsys, what, command):
    record, reason = USELESS[what]
    out = tmp_path / "run"
    data = write([*GOOD, record])
    assert heed(command, model=instruct, data=data, out=out, batch_size=3, held_out_share=0, max_bad_records=1) == 0
    assert "left_out.jsonl" in capsys.readouterr().err
    [line] = lines(out / "left_out.jsonl")
    assert line["record"] == 7
    assert reason in line["reason"]
    [account] = json.loads((out / "data.json").read_text())
    assert (account["num_records"], account["num_kept"]) == (7, 6)
    assert len(lines(out / "metrics.jsonl", "train")) == 2


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_nothing_but_such_rankings_is_an_error(instruct, write, refused, command):
    parts = refused(command, model=instruct, data=write([USELESS["identical answers"][0]] * 3))
    assert "none to train on" in parts["found"] or "0 records" in parts["found"]


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_an_answer_over_the_budget_is_an_error_that_says_how_to_go_on(instruct, write, refused, command):
    data = write([*GOOD, {"prompt": "p?", "chosen": "Yes. " * 40, "rejected": "No."}])
    parts = refused(command, model=instruct, data=data, max_length=60)
    assert "--max-length" in parts["error"]
    assert "--max-length 60" in parts["expected"]
    assert parts["fix"].startswith("a larger --max-length; or --too-long drop")


@pytest.mark.parametrize("command", ["reward", "dpo"])
def test_an_answer_over_the_models_positions_is_told_from_one_over_the_budget(instruct, write, refused, command):
    data = write([*GOOD, {"prompt": "p?", "chosen": "Yes. " * 200, "rejected": "No."}])
    parts = refused(command, model=instruct, data=data)
    assert "--max-length" not in parts["error"]
    assert "256" in parts["expected"]
    assert parts["fix"].startswith("--too-long drop")


def test_what_is_too_long_is_dropped_and_counted_if_asked(tmp_path, instruct, write):
    data, out = write([*GOOD, {"prompt": "p?", "chosen": "Yes. " * 40, "rejected": "No."}]), tmp_path / "run"
    status = heed(
        "reward", model=instruct, data=data, out=out, max_length=60, too_long="drop", batch_size=3, held_out_share=0
    )
    assert status == 0
    [account] = json.loads((out / "data.json").read_text())
    assert (account["num_records"], account["num_kept"], account["num_too_long"]) == (7, 6, 1)


@pytest.mark.parametrize(
    ("is_desirable", "found", "fix"),
    [
        (True, "6 answers to give, 0 not to give", "heed sft learns from answers to give alone"),
        (False, "0 answers to give, 6 not to give", "add records with label true"),
    ],
)
def test_judgements_of_one_kind_are_refused_before_anything_is_computed(
    instruct, write, refused, monkeypatch, is_desirable, found, fix
):
    monkeypatch.setattr(dpo, "reference_logp", lambda *_: pytest.fail("the reference was asked"))
    data = write([{"prompt": f"{i}?", "completion": f"It is {i}.", "label": is_desirable} for i in range(6)])
    parts = refused("dpo", model=instruct, data=data, objective="kto", batch_size=3, held_out_share=0)
    assert (parts["where"], parts["found"]) == (str(data), found)
    assert parts["fix"].startswith(fix)


RANKS_ALONE = [{"prompt": f"Which, {i}?", "answers": ["Green.", "Red.", "Blue."], "ranks": [1, 2, 2]} for i in range(4)]


@pytest.mark.parametrize("records", [GOOD, RANKS_ALONE], ids=["pairs", "ranks with ties"])
def test_a_margin_is_refused_where_no_answer_has_a_score(instruct, write, refused, records):
    parts = refused("reward", model=instruct, data=write(records), margin=1, held_out_share=0)
    assert parts["where"] == "--margin"
    assert parts["found"].startswith(f"{len(records)} rankings that give an order alone, or ranks")


def test_a_margin_says_how_many_rankings_it_asks_nothing_of(tmp_path, instruct, write, capsys):
    scored = {"prompt": "Which?", "answers": ["Green.", "Red."], "scores": [3, 1]}
    options = {"batch_size": 6, "held_out_share": 0, "margin": 1}
    data, out = write([*RANKS_ALONE, scored]), tmp_path / "run"
    assert heed("reward", model=instruct, data=data, out=out, **options) == 0
    assert "margin: 1 of 5 rankings have scores; no lead is asked for in the others" in capsys.readouterr().err


def test_single_answers_are_no_rankings(instruct, write, refused):
    data = write([{"prompt": "p?", "completion": "Yes.", "label": True}] * 3)
    parts = refused("dpo", model=instruct, data=data)
    assert parts["where"].startswith(str(data))


# ---- rewards


@pytest.mark.parametrize("rank", [4, 0], ids=["an adapter", "a model of its own"])
def test_a_reward_model_that_is_to_write_words_is_told_as_one_and_the_fix_cures(
    tmp_path, tuned, green_reward, write, refused, capsys, rank
):
    reward = green_reward
    if rank == 0:
        reward = tmp_path / "full"
        data = tastes.write(tmp_path / "ranked.jsonl", tastes.liking_green())
        assert heed("reward", model=tuned, data=data, out=reward, steps=1, batch_size=6, held_out_share=0) == 0
        capsys.readouterr()
    data = write([{"instruction": "Which is it?", "output": "It is green."}], "told.jsonl")
    for command, records in (("sft", data), ("dpo", write(GOOD))):
        parts = refused(command, model=reward, data=records, leaves=True)
        assert parts["error"] == "this is a reward model, which scores answers and writes none"
        assert parts["where"] == f"--model {reward}"
    assert main(["chat", "--model", str(reward), "--device", "cpu"]) == 2
    assert "this is a reward model" in capsys.readouterr().err
    cure = parts["fix"].split()[1].rstrip(",")
    assert cure == str(tuned)
    assert heed("sft", model=cure, data=data, out=tmp_path / "run", steps=1, batch_size=1, held_out_share=0) == 0


def rule(folder: Path, body: str) -> str:
    (folder / "rule.py").write_text(f"def score(prompts, answers, records):\n    {body}\n")
    return f"{folder / 'rule.py'}:score"


BROKEN = {
    "raises": ("raise KeyError('no such thing')", "KeyError"),
    "returns NaN": ("return [float('nan')] * len(answers)", "nan"),
    "returns an infinity": ("return [float('inf')] * len(answers)", "inf"),
    "returns too few": ("return [1.0]", "1 scores for 4 answers"),
    "returns no list": ("return 1.0", "1.0"),
    "returns text": ("return ['1'] * len(answers)", "'1'"),
}


@pytest.mark.parametrize("command", ["ppo", "grpo"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_reward_that_fails_is_an_error_and_nothing_is_made_up(tmp_path, instruct, write, refused, command, what):
    body, found = BROKEN[what]
    more = {"group_size": 2} if command == "grpo" else {}
    reward = rule(tmp_path, body)
    parts = refused(command, model=instruct, data=write(ASKED), reward=reward, leaves=True, **POLICY, **more)
    assert found in parts["found"]


def test_a_reward_that_is_mended_goes_on_from_the_last_checkpoint(tmp_path, instruct, write, capsys):
    data, out = write(ASKED), tmp_path / "run"
    body = "import pathlib\n    if pathlib.Path(__file__).with_name('broken').exists(): return [None] * len(answers)\n"
    body += "    if len(list(pathlib.Path(__file__).parent.glob('run/checkpoints/step-000001'))): "
    body += "pathlib.Path(__file__).with_name('broken').touch()\n    return [float(len(a)) for a in answers]"
    options = {**POLICY, "steps": 4, "save_every": 1, "reward": rule(tmp_path, body), "model": instruct, "data": data}
    assert heed("ppo", out=out, **options) == 2
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    (tmp_path / "rule.py").write_text(
        "def score(prompts, answers, records):\n    return [float(len(a)) for a in answers]\n"
    )
    assert heed("ppo", out=out, **options) == 0
    assert "going on after step" in capsys.readouterr().err
    assert [line["step"] for line in lines(out / "metrics.jsonl", "train")] == [1, 2, 3, 4]


NONSENSE = {
    "a word": ("nonsense", "this is no reward"),
    "a kind that does not exist": ("regexp: a", "this is no reward"),
    "a pattern that is none": ("regex: (", ""),
    "a field that is missing": ("contains: absent", ""),
    "a file that is missing": ("absent.py:score", ""),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_reward_that_is_none_is_refused(instruct, write, refused, what):
    text, problem = NONSENSE[what]
    is_late = what == "a field that is missing"  # known when the first record is scored
    parts = refused("ppo", model=instruct, data=write(ASKED), reward=text, leaves=is_late, **POLICY)
    assert problem in parts["error"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_folder_that_is_no_reward_model_is_refused(instruct, write, refused, rank):
    parts = refused("ppo", model=instruct, data=write(ASKED), reward=instruct, **{**POLICY, "rank": rank})
    assert parts["where"] == str(instruct)
    assert parts["fix"].startswith("heed reward --model")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_reward_model_of_another_tokenizer_is_refused(tmp_path, green_reward, write, refused, rank):
    names = ["<|end|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|more|>"]
    other = make_model(tmp_path / "other", make_tokenizer(names, OWN_TEMPLATE))
    parts = refused("ppo", model=other, data=write(ASKED), reward=green_reward, **{**POLICY, "rank": rank})
    assert parts["where"] == str(green_reward)
    assert "331 tokens" in parts["found"]


# ---- prompts and settings


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_a_prompt_over_the_budget_is_an_error(instruct, write, refused, command):
    data = write([*ASKED, {"prompt": "Why? " * 100}])
    more = {"group_size": 2} if command == "grpo" else {}
    parts = refused(command, model=instruct, data=data, reward="regex: e", **POLICY, **more, max_prompt_length=40)
    assert "--max-prompt-length" in parts["error"]
    assert "as --max-prompt-length 40 says" in parts["expected"]
    assert "drop" in parts["fix"]


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_a_prompt_that_leaves_no_room_for_an_answer_is_an_error(instruct, write, refused, command):
    data = write([*ASKED, {"prompt": "Why? " * 300}])
    more = {"group_size": 2} if command == "grpo" else {}
    parts = refused(command, model=instruct, data=data, reward="regex: e", **POLICY, **more)
    assert "252" in parts["expected"]


def test_long_prompts_are_dropped_and_counted_if_asked(tmp_path, instruct, write):
    data, out = write([*ASKED, {"prompt": "Why? " * 100}]), tmp_path / "run"
    options = {**POLICY, "max_prompt_length": 40, "too_long": "drop"}
    assert heed("ppo", model=instruct, data=data, reward="regex: e", out=out, **options) == 0
    [account] = json.loads((out / "data.json").read_text())
    assert (account["num_kept"], account["num_too_long"]) == (6, 1)


@pytest.mark.parametrize("max_new_tokens", [256, 1000])
def test_answers_that_leave_no_room_for_a_prompt_are_refused(instruct, write, refused, max_new_tokens):
    options = {**POLICY, "max_new_tokens": max_new_tokens}
    parts = refused("ppo", model=instruct, data=write(ASKED), reward="regex: e", **options)
    assert parts["where"] == "--max-new-tokens"
    assert parts["fix"] == "--max-new-tokens 128"


def test_prompt_and_answer_over_the_models_positions_are_refused(instruct, write, refused):
    options = {**POLICY, "max_prompt_length": 254}
    parts = refused("ppo", model=instruct, data=write(ASKED), reward="regex: e", **options)
    assert "252" in parts["fix"]


def test_a_batch_that_does_not_hold_whole_groups_is_refused(instruct, write, refused):
    options = {**POLICY, "batch_size": 10, "group_size": 4}
    parts = refused("grpo", model=instruct, data=write(ASKED), reward="regex: e", **options)
    assert parts["found"] == "10 answers in groups of 4"
    assert parts["fix"] == "--batch-size 8"


def test_no_prompt_left_to_train_on_is_an_error(instruct, write, refused):
    options = {**POLICY, "max_prompt_length": 3, "too_long": "drop"}
    parts = refused("ppo", model=instruct, data=write(ASKED), reward="regex: e", **options)
    assert "none to train on" in parts["found"] or "0 records" in parts["found"]


def test_what_was_learnt_before_the_reward_failed_is_not_lost(tmp_path, tuned):
    out = tmp_path / "run"
    data = tastes.write(tmp_path / "prompts.jsonl", tastes.prompts())
    counter = tmp_path / "calls"
    body = f"import pathlib; calls = pathlib.Path({str(counter)!r}); calls.open('a').close()\n"
    body += "    calls.write_text(calls.read_text() + 'x')\n"
    body += "    return [float('nan') if len(calls.read_text()) > 3 else 1.0] * len(answers)"
    options = {**POLICY, "steps": 5, "save_every": 1, "reward": rule(tmp_path, body)}
    assert heed("grpo", model=tuned, data=data, out=out, group_size=2, **options) == 2
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["step-000001", "step-000002"]
    assert [line["step"] for line in lines(out / "metrics.jsonl", "train")] == [1, 2]

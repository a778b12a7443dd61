"""A reward model that was trained under another template than the policy's does not score in silence."""

from pathlib import Path

import pytest
import tastes
from tastes import heed

PPO = {"steps": 1, "batch_size": 4, "max_new_tokens": 4, "eval_limit": 2}


@pytest.fixture(scope="module")
def alpaca_reward(tmp_path_factory, tuned) -> Path:
    """A reward model of the same model, its rankings rendered in another template, all parameters trained."""
    folder = tmp_path_factory.mktemp("alpaca")
    data = tastes.write(folder / "ranked.jsonl", tastes.liking_green())
    options = {"steps": 1, "batch_size": 6, "held_out_share": 0, "template": "alpaca"}
    assert heed("reward", model=tuned, data=data, out=folder / "run", **options) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return tastes.write(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", tastes.prompts())


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_a_reward_model_of_another_template_is_refused(tmp_path, tuned, alpaca_reward, prompts, command, capsys):
    options = {"model": tuned, "data": prompts, "reward": alpaca_reward, **PPO}
    if command == "grpo":
        options["group_size"] = 2
    assert heed(command, out=tmp_path / "run", **options) == 2
    message = capsys.readouterr().err
    assert "alpaca" in message
    assert f"--template {alpaca_reward}" in message
    assert not (tmp_path / "run").exists()


def test_what_the_refusal_says_cures_it(tmp_path, tuned, alpaca_reward, prompts):
    options = {"model": tuned, "data": prompts, "reward": alpaca_reward, "template": alpaca_reward, **PPO}
    assert heed("ppo", out=tmp_path / "run", **options) == 0


def test_of_a_classifier_that_heed_did_not_train_it_is_said(tmp_path, tuned, alpaca_reward, prompts, capsys):
    foreign = tmp_path / "classifier"
    foreign.mkdir()
    for path in alpaca_reward.iterdir():
        if path.is_file() and path.name not in ("reward.json", "config.yaml"):
            (foreign / path.name).write_bytes(path.read_bytes())
    options = {"model": tuned, "data": prompts, "reward": foreign, **PPO}
    assert heed("ppo", out=tmp_path / "run", **options) == 0
    assert "another chat template" in capsys.readouterr().err

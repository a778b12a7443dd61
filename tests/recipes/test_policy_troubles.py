"""What goes wrong while a policy learns from rewards ends the run with a message, and never teaches it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tastes import heed, lines
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

ASKED = [{"prompt": f"Which is it, {i}?"} for i in range(12)]
OPTIONS = {"steps": 3, "batch_size": 8, "max_new_tokens": 6, "lora_rank": 2}
COMMANDS = {"ppo": {}, "grpo": {"group_size": 4}}
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def learn(tmp_path, instruct, write, capsys):
    """Run a command; its exit status, what it said, and its folder."""

    def run(command, reward, **options):
        out = tmp_path / "run"
        options = OPTIONS | COMMANDS[command] | options
        status = heed(command, model=instruct, data=write(ASKED), reward=reward, out=out, **options)
        return status, capsys.readouterr().err, out

    return run


def rule(tmp_path, body):
    path = tmp_path / "rule.py"
    path.write_text(f"calls = []\n\n\ndef score(prompts, answers, records):\n    calls.append(0)\n    {body}\n")
    return f"{path}:score"


@every_command
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return [float('nan') if len(calls) > 2 and i == 1 else 1.0 for i, _ in enumerate(answers)]", "answer 2 of 8"),
        ("return [1.0] * (len(answers) - (len(calls) > 2))", "7 scores for 8 answers"),
        ("return [1.0] * len(answers) if len(calls) < 3 else 1 / 0", "ZeroDivisionError"),
    ],
    ids=["a score that is no number", "a score too few", "a rule that dies"],
)
def test_a_rule_that_fails_in_a_later_phase_ends_the_run_and_is_named(tmp_path, learn, command, body, found):
    status, told, out = learn(command, rule(tmp_path, body), save_every=1)
    assert status == 2
    assert "Traceback" not in told
    assert found in told
    assert str(tmp_path / "rule.py") in told
    finished = [line["step"] for line in lines(out / "metrics.jsonl", "train")]
    assert finished == list(range(1, len(finished) + 1))
    assert len(finished) < 3


@every_command
def test_equal_rewards_leave_all_numbers_finite(tmp_path, learn, command):
    status, _, out = learn(command, rule(tmp_path, "return [0.1] * len(answers)"), missing_stop=0, steps=4)
    assert status == 0
    for line in lines(out / "metrics.jsonl", "train"):
        assert all(np.isfinite(value) for value in line.values() if not isinstance(value, str))
        assert line["score_std"] == pytest.approx(0)
        if command == "grpo":
            assert line["share_of_groups_without_signal"] == 1
            assert line["grad_norm"] == pytest.approx(0, abs=1e-6)
        else:
            # What four steps pay for their KL is less than half a percent of it; the first pays nothing.
            assert line["reward_scale"] == pytest.approx(0.1, rel=5e-3 if line["step"] > 1 else 1e-6)


@every_command
@pytest.mark.parametrize("rank", [0, 2])
def test_a_policy_that_diverges_ends_in_a_message_that_names_its_learning_rate(learn, command, rank):
    status, told, _ = learn(command, "regex: e", lr="1e30", lora_rank=rank, steps=6)
    assert status == 2
    assert "Traceback" not in told
    assert "not finite" in told
    assert "--lr" in told.split("fix:")[1]
    assert "--optim" not in told.split("fix:")[1]


def test_a_reward_model_that_is_not_finite_is_named_and_not_the_learning_rate(tmp_path, instruct, learn):
    tokenizer, folder = AutoTokenizer.from_pretrained(instruct), tmp_path / "reward"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=None, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    status, told, _ = learn("ppo", str(folder), lora_rank=0)
    assert status == 2
    assert "nan for answer 1 of" in told
    assert "--reward" in told

"""`--train`, `--lora.targets` and `--lora.alpha` through the command line of every recipe that trains."""

import json

import pytest
import tastes
import torch
import yaml
from safetensors.torch import load_file
from tastes import heed

from heed.models.heads.scalar import load_reward_model

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

POLICY = {"reward": "regex: [a-m]", "steps": 1, "batch_size": 24, "max_new_tokens": 3, "lr": 1e-2}
FIXED = {"epochs": 1, "batch_size": 60, "optim_lr": 1e-2, "held_out_share": 0, "eval_every": 0}
OPTIONS = {
    "sft": ("any_colour", {**FIXED, "template": "alpaca"}),
    "reward": ("liking_green", FIXED),
    "dpo": ("liking_green", FIXED),
    "ppo": ("prompts", POLICY),
    "grpo": ("prompts", {**POLICY, "group_size": 2}),
}


def run(command, tmp_path, instruct, **more):
    data, options = OPTIONS[command]
    path = tastes.write(tmp_path / "data.jsonl", getattr(tastes, data)())
    out = tmp_path / "run"
    return heed(command, model=instruct, data=path, out=out, **{**options, **more}), out


def moved(before, after):
    """Names of the weights that differ in any bit."""
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("command", OPTIONS)
def test_frozen_weights_are_bit_identical_after_training(command, tmp_path, instruct, capsys):
    more = {"lora_rank": 0} if command in ("ppo", "grpo") else {}
    status, out = run(command, tmp_path, instruct, train="last:1", **more)
    assert status == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (instruct, out))
    changed = moved(before, {name: weight for name, weight in after.items() if name in before})
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)
    num_all = sum(weight.numel() for weight in before.values()) + (32 if command == "reward" else 0)
    assert f" of {num_all:,} parameters are trained" in capsys.readouterr().err


def test_a_reward_model_can_train_its_head_alone(tmp_path, instruct):
    status, out = run("reward", tmp_path, instruct, train="head", epochs=2)
    assert status == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (instruct, out))
    assert moved(before, {name: weight for name, weight in after.items() if name in before}) == set()
    assert load_reward_model(str(out), torch.device("cpu")).head.weight.abs().max() > 0


@pytest.mark.parametrize("command", OPTIONS)
def test_an_adapter_has_the_targets_and_the_alpha_that_were_asked_for(command, tmp_path, instruct, capsys):
    status, out = run(command, tmp_path, instruct, lora_rank=2, lora_alpha=3, lora_targets="q_proj,v_proj")
    assert status == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (2, 3, ["q_proj", "v_proj"])
    weights = load_file(out / "adapter_model.safetensors")
    assert len([name for name in weights if "lora_A" in name]) == 2 * 2
    assert "4 linear layers: q_proj 2, v_proj 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", OPTIONS)
def test_names_of_parameters_beside_an_adapter_are_refused_and_the_fix_cures(command, tmp_path, instruct, capsys):
    status, out = run(command, tmp_path, instruct, train="norms", lora_rank=4)
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--lora.rank 0")
    assert not out.exists()
    assert run(command, tmp_path, instruct, train="norms", lora_rank=0)[0] == 0


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_the_former_name_of_the_rank_still_says_it(command, tmp_path, instruct):
    assert run(command, tmp_path, instruct, rank=3)[0] == 0
    settings = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(settings.read_text())["lora"]["rank"] == 3
    former = {**yaml.safe_load(settings.read_text()), "out": str(tmp_path / "again"), "rank": 5}
    del former["lora"]
    (tmp_path / "former.yaml").write_text(yaml.safe_dump(former))
    from heed.cli.main import main

    assert main([command, str(tmp_path / "former.yaml")]) == 0
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["lora"]["rank"] == 5


@pytest.mark.parametrize("command", ["ppo", "grpo"])
def test_a_run_of_the_time_of_the_former_name_is_gone_on_with(command, tmp_path, instruct, capsys):
    assert run(command, tmp_path, instruct, lora_rank=3)[0] == 0
    path = tmp_path / "run" / "config.yaml"
    then = {
        name: value
        for name, value in yaml.safe_load(path.read_text()).items()
        if name not in ("lora", "train", "track")
    }
    path.write_text(yaml.safe_dump({**then, "rank": 3}))
    assert run(command, tmp_path, instruct, lora_rank=3)[0] == 0
    assert "finished" in capsys.readouterr().err
    assert run(command, tmp_path, instruct, lora_rank=4)[0] == 2


def test_new_tokens_whose_rows_would_stay_noise_are_refused_and_the_fix_cures(tmp_path, base, capsys):
    status, _ = run("sft", tmp_path, base, template="chatml", train="last:1")
    assert status == 2
    fix = capsys.readouterr().err.splitlines()[-1].split("--train ")[1]
    assert run("sft", tmp_path, base, template="chatml", train=fix)[0] == 0

"""`--quantise nf4` in every recipe: the gradient of the unpacked base, the same run after a kill, and what is left."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import tastes
import torch
import transformers as t
from refusals import parts_of_refusal
from safetensors.torch import load_file
from tastes import heed
from test_preference_resume import numbers_of, same, state_of, weights_of
from torch.optim.optimizer import register_optimizer_step_pre_hook

from heed.cli.main import main
from heed.config import ChatSettings, load_settings
from heed.models.adapters.lora import next_token_logp
from heed.models.four_bits import packed_layers
from heed.models.load import load_model
from heed.recipes import dpo, grpo, ppo, reward, sft
from heed.recipes.chat import open_chat

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*base in NF4:UserWarning"),
]
CPU = torch.device("cpu")
PAIRS = {"steps": 4, "batch_size": 6, "optim_lr": 5e-3, "held_out_share": 0.1, "lora_rank": 4, "save_every": 2}
POLICY = {"steps": 4, "batch_size": 8, "max_new_tokens": 8, "lr": 5e-3, "lora_rank": 4, "save_every": 2}
COMMANDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("sft", "any", PAIRS),
    "sft with new tokens": ("sft", "any", {**PAIRS, "template": "chatml"}),
    "reward": ("reward", "ranked", PAIRS),
    "dpo": ("dpo", "ranked", PAIRS),
    "ipo": ("dpo", "ranked", {**PAIRS, "objective": "ipo"}),
    "kto": ("dpo", "judged", {**PAIRS, "objective": "kto", "batch_size": 18}),
    "ppo": ("ppo", "prompts", {**POLICY, "reward": "model"}),
    "ppo by a rule": ("ppo", "prompts", {**POLICY, "reward": "contains: wanted"}),
    "grpo": ("grpo", "prompts", {**POLICY, "reward": "contains: wanted", "group_size": 4}),
}
STEPS = {"sft": (sft, "take_step"), "reward": (reward, "take_step"), "dpo": (dpo, "take_step"),
         "ppo": (ppo, "take_phase"), "grpo": (grpo, "take_phase")}  # fmt: skip


ONE_QUESTION = """
about: One question
kind: generation
measures: [exact]
data: data.jsonl
generation: {max_new_tokens: 5, stop: ["\\n"], checker: exact}
shapes: [{fields: [question], context: "{{ question }}", right: "{{ answer }}"}]
"""


def unpacked_copy(base: Path, to: Path) -> Path:
    """A folder of the same model whose layers hold what their four-bit forms stand for, by the library's row."""
    shutil.copytree(base, to)
    model = t.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for layer in model.model.layers:
            for module in layer.modules():
                if type(module) is torch.nn.Linear:
                    row = module.weight.detach().reshape(1, -1)
                    packed, state = bitsandbytes.functional.quantize_4bit(
                        row, quant_type="nf4", compress_statistics=True, blocksize=64
                    )
                    module.weight.copy_(bitsandbytes.functional.dequantize_4bit(packed, state).view_as(module.weight))
    model.save_pretrained(to)
    return to


@pytest.fixture(scope="module")
def files(tmp_path_factory, tuned) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    made = {
        "ranked": tastes.liking_green(),
        "judged": tastes.judged(),
        "prompts": tastes.prompts(),
        "any": tastes.any_colour(),
    }
    found = {name: tastes.write(folder / f"{name}.jsonl", records) for name, records in made.items()}
    found |= {"tuned": tuned, "unpacked": unpacked_copy(tuned, folder / "unpacked")}
    options = {**PAIRS, "data": found["ranked"], "steps": 20}
    for name, words in (("tuned", {"quantise": "nf4"}), ("unpacked", {})):
        found[f"model of {name}"] = folder / f"reward-{name}"
        assert heed("reward", model=found[name], out=found[f"model of {name}"], **options, **words) == 0
    return found


def run(kind: str, files: dict[str, Path], base: str, out: Path, **more: Any) -> int:
    command, data, options = COMMANDS[kind]
    if options.get("reward") == "model":
        options = {**options, "reward": files[f"model of {base}"]}
    words = {"quantise": "nf4"} if base == "tuned" else {}
    return heed(command, model=files[base], data=files[data], out=out, **{**options, **words, **more})


def gradients_of(kind: str, files: dict[str, Path], base: str, out: Path) -> list[list[torch.Tensor]]:
    """What every optimiser of a run is given, step by step."""
    found: list[list[torch.Tensor]] = []

    def keep(optimiser, *_):
        grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
        found.append([torch.zeros(1) if grad is None else grad.clone() for grad in grads])

    handle = register_optimizer_step_pre_hook(keep)
    try:
        assert run(kind, files, base, out, steps=1) == 0
    finally:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_first_gradient_is_that_of_the_unpacked_base(kind, files, tmp_path, capsys):
    ours = gradients_of(kind, files, "tuned", tmp_path / "packed")
    assert "base in NF4: 14 linear layers" in capsys.readouterr().err
    theirs = gradients_of(kind, files, "unpacked", tmp_path / "whole")
    assert len(ours) == len(theirs) > 0
    for found, expected in zip(ours[:1], theirs[:1], strict=True):
        size = float(torch.cat([x.flatten() for x in expected]).norm())
        apart = float(torch.cat([(x - y).flatten() for x, y in zip(found, expected, strict=True)]).norm())
        assert apart <= 1e-5 * size
        assert size > 0


def test_a_reward_adapter_on_the_same_quantised_base_joins_it_and_one_on_another_does_not(files, tmp_path, capsys):
    assert run("ppo", files, "tuned", tmp_path / "joins", steps=1) == 0
    assert "weights of its own" not in capsys.readouterr().err
    options = {**POLICY, "steps": 1, "reward": files["model of unpacked"], "data": files["prompts"]}
    assert heed("ppo", model=files["tuned"], quantise="nf4", out=tmp_path / "apart", **options) == 0
    assert "weights of its own" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sft with new tokens", "reward", "kto", "ppo", "grpo"])
def test_a_run_that_stops_and_goes_on_ends_with_the_bits_of_one_in_one_piece(kind, files, tmp_path, monkeypatch):
    assert run(kind, files, "tuned", tmp_path / "whole", keep_states=True) == 0
    module, name = STEPS[COMMANDS[kind][0]]
    take_step = getattr(module, name)

    def stopping(training: Any, step: int, *rest: Any) -> Any:
        if step == 4:
            raise ZeroDivisionError("the machine stops")
        return take_step(training, step, *rest)

    out = tmp_path / "run"
    with monkeypatch.context() as context:
        context.setattr(module, name, stopping)
        with pytest.raises(ZeroDivisionError):
            run(kind, files, "tuned", out, keep_states=True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000002"]
    assert run(kind, files, "tuned", out, keep_states=True) == 0
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert numbers_of(out) == numbers_of(tmp_path / "whole")
    assert same(state_of(out), state_of(tmp_path / "whole"))


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory) -> dict[str, Path]:
    """A run with new tokens on a base that is kept, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("sft", "sft with new tokens"):
        assert run(kind, files, "tuned", folder / kind.replace(" ", "-"), steps=10, optim_lr=2e-2) == 0
    return {"sft": folder / "sft", "new tokens": folder / "sft-with-new-tokens"}


@pytest.mark.parametrize("name", ["sft", "new tokens"])
def test_what_is_left_is_an_adapter_that_says_how_its_base_was_quantised(runs, files, name):
    out = runs[name]
    note = json.loads((out / "quantised.json").read_text())
    assert note["method"] == "nf4"
    assert len(note["layers"]) == 14
    if name == "new tokens":
        kept, before = (load_file(folder / "model.safetensors") for folder in (out / "base", files["tuned"]))
        assert kept.keys() == before.keys()
        assert all(torch.equal(kept[key][: len(weight)], weight) for key, weight in before.items())
    else:
        assert not (out / "base" / "model.safetensors").exists() or (out / "base" / "model.safetensors").is_symlink()


@pytest.mark.parametrize("name", ["sft", "new tokens"])
def test_eval_and_chat_load_the_base_as_it_was_trained_and_say_so(runs, name, tmp_path, capsys):
    (tmp_path / "data.jsonl").write_text('{"question": "What colour is grass?", "answer": "It is green."}\n')
    (tmp_path / "one.yaml").write_text(ONE_QUESTION)
    words = ["eval", "--model", str(runs[name]), "--task", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "eval")]
    status = main([*words, "--device", "cpu"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "its base is quantised as it was trained" in said.out + said.err
    assert "base in NF4: 14 linear layers with 18,432 of " in said.out + said.err
    assert "embeddings, head and norms stay as they are\n" in said.out + said.err
    for dtype in ("float32", "bfloat16"):
        told: list[str] = []
        settings = load_settings(ChatSettings, None, {"model": str(runs[name]), "device": "cpu", "dtype": dtype})
        chat = open_chat(settings, told.append)
        assert len(packed_layers(chat.loaded.model)) == 14
        assert any("its base is quantised as it was trained" in line for line in told)
        pieces: list[str] = []
        chat.answer("What colour is grass?", pieces.append)
        assert chat.messages[-1].role == "assistant"


@pytest.mark.parametrize("name", ["sft", "new tokens"])
def test_merge_goes_into_the_whole_base_and_says_how_far_that_is(runs, files, name, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", "--model", str(runs[name]), "--out", str(out), "--device", "cpu"]) == 0
    told = re.search(
        r"trained on this base in NF4, and is merged into the whole one: log-probabilities of the (\d+) tokens move by "
        r"(\S+) nats in the mean and (\S+) at most; the likeliest token stays at (\d+) of (\d+) places; of a greedy "
        r"answer of (\d+) tokens the first (\d+) stay",
        capsys.readouterr().out,
    )
    assert told is not None
    merged = t.AutoModelForCausalLM.from_pretrained(out)
    fresh = load_file(Path(runs[name] / "base" if name == "new tokens" else files["tuned"]) / "model.safetensors")
    adapter = load_file(runs[name] / "adapter_model.safetensors")
    key = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{key}.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(merged.state_dict()[f"{key}.weight"], fresh[f"{key}.weight"] + 2 * b @ a)
    tokenizer = t.AutoTokenizer.from_pretrained(out)
    from heed.recipes.merge import words

    ids = tokenizer(words(tokenizer), add_special_tokens=False).input_ids
    assert len(ids) - 1 == int(told[1])
    trained, whole = (next_token_logp(load_model(str(f), CPU), ids) for f in (runs[name], out))
    at = [torch.tensor([float(x[i, token]) for i, token in enumerate(ids[1:])]) for x in (trained, whole)]
    assert float((at[0] - at[1]).abs().mean()) == pytest.approx(float(told[2]), rel=0.1)
    assert float((at[0] - at[1]).abs().max()) == pytest.approx(float(told[3]), rel=0.1)
    assert int((trained.argmax(-1) == whole.argmax(-1)).sum()) == int(told[4])
    assert 0 < float(told[3]) < 5


def test_a_run_on_a_quantised_base_can_be_tuned_further_as_what_it_computes(runs, files, tmp_path):
    options = {**PAIRS, "steps": 1, "data": files["ranked"]}
    assert heed("dpo", model=runs["sft"], out=tmp_path / "dpo", **options) == 0
    ids = list(range(5, 25))
    ours, base = load_model(str(runs["sft"]), CPU), load_model(str(tmp_path / "dpo" / "base"), CPU)
    torch.testing.assert_close(next_token_logp(base, ids), next_token_logp(ours, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "ppo", "grpo"])
def test_what_cannot_be_quantised_is_refused_and_the_fix_cures(command, files, runs, tmp_path, capsys):
    data = files[{"sft": "any", "ppo": "prompts", "grpo": "prompts"}.get(command, "ranked")]
    options = {"model": files["tuned"], "data": data, "out": tmp_path / "run", "quantise": "nf4", "steps": 1}
    if command in ("ppo", "grpo"):
        options |= {"reward": "contains: wanted", "batch_size": 4, "max_new_tokens": 4}
    if command == "grpo":
        options |= {"group_size": 2}
    assert heed(command, **options, lora_rank=0) == 2
    parts = parts_of_refusal(capsys, tmp_path / "run", leaves=True)
    assert parts["where"] == "--quantise, --lora.rank"
    assert parts["fix"] == "--lora.rank 16"
    again = {**options, "out": tmp_path / "again"}
    assert heed(command, **again, lora_rank=16) == 0
    capsys.readouterr()
    assert heed(command, **{**options, "model": runs["sft"], "out": tmp_path / "third"}, lora_rank=4) == 2
    assert "heed merge" in parts_of_refusal(capsys, tmp_path / "third", leaves=True)["fix"]


def test_a_model_that_is_quantised_already_is_refused_by_every_recipe(files, tmp_path, capsys):
    folder = shutil.copytree(files["tuned"], tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    method = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": method}))
    for command, data in (("sft", "any"), ("dpo", "ranked"), ("grpo", "prompts")):
        for words in ({}, {"quantise": "nf4", "lora_rank": 4}):
            out = tmp_path / f"{command}{len(words)}"
            more = {"reward": "contains: wanted"} if command == "grpo" else {}
            assert heed(command, model=folder, data=files[data], out=out, **words, **more) == 2
            parts = parts_of_refusal(capsys, out, leaves=True)
            assert parts["error"] == "this model is quantised already, and is not tuned as it is"
            assert parts["fix"] == "--model ORIGINAL --quantise nf4 --lora.rank 16"


# -- the optimiser in 8 bits ------------------------------------------------------------------------------------------

IN_8_BITS: dict[str, dict[str, Any]] = {
    "sft": {"lora_rank": 0, "optim_bits": 8},
    "reward": {"lora_rank": 0, "optim_bits": 8},
    "ppo by a rule": {"lora_rank": 0, "optim_bits": 8, "quantise": None},
    "grpo": {"lora_rank": 0, "optim_bits": 8, "steps": 3},
}


@pytest.mark.parametrize("kind", IN_8_BITS)
def test_a_run_with_states_in_8_bits_goes_on_to_the_same_bits_and_to_no_other(
    kind, files, tmp_path, monkeypatch, capsys
):
    command, data, options = COMMANDS[kind]
    named = {"model": files["tuned"], "data": files[data], **options, **IN_8_BITS[kind], "keep_states": True}
    named.pop("quantise", None)
    assert heed(command, out=tmp_path / "whole", **named) == 0
    assert "trained numbers in 8 bits" in capsys.readouterr().err
    module, name = STEPS[command]
    take_step = getattr(module, name)

    def stopping(training: Any, step: int, *rest: Any) -> Any:
        if step == 3:
            raise ZeroDivisionError("the machine stops")
        return take_step(training, step, *rest)

    out = tmp_path / "run"
    with monkeypatch.context() as context:
        context.setattr(module, name, stopping)
        with pytest.raises(ZeroDivisionError):
            heed(command, out=out, **named)
    capsys.readouterr()
    assert heed(command, out=out, **{**named, "optim_bits": 32}) == 2
    assert "optim.bits = 32" in capsys.readouterr().err
    assert heed(command, out=out, **named) == 0
    assert weights_of(out) == weights_of(tmp_path / "whole")
    assert numbers_of(out) == numbers_of(tmp_path / "whole")
    assert same(state_of(out), state_of(tmp_path / "whole"))


def test_values_that_are_trained_whole_start_as_a_reward_model_on_a_quantised_base(files, tmp_path):
    options = {**POLICY, "steps": 1, "lora_rank": 0, "reward": files["model of tuned"], "data": files["prompts"]}
    assert heed("ppo", model=files["tuned"], out=tmp_path / "run", **options) == 0


def test_what_is_exported_computes_what_was_trained(runs, tmp_path, capsys):
    out = tmp_path / "exported"
    assert main(["export", "--model", str(runs["sft"]), "--to", "folder", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "with the weights that its four bits stood for" in said.out + said.err
    ids = list(range(5, 25))
    trained, exported = load_model(str(runs["sft"]), CPU), t.AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(next_token_logp(exported, ids), next_token_logp(trained, ids), rtol=1e-4, atol=1e-4)

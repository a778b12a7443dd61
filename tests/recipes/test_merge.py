"""`heed merge`: the merged model says what the adapter on its base says, loads anywhere, and overwrites nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.cli.main import main
from heed.models.adapters.folder import load_adapter
from heed.models.adapters.lora import next_token_logp
from heed.models.load import load_model
from heed.models.stops import stop_ids_of
from heed.recipes import merge

CPU = torch.device("cpu")
QUESTION = [{"role": "user", "content": "Màu của lá là gì?"}]

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

RUNS = ("new tokens", "no new tokens", "template of its own")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base, instruct, colours, tune):
    """Short runs with an adapter, by what they add to the model."""
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "colours.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in colours))
    common = {"data": data, "steps": 10, "batch_size": 8, "optim_lr": 3e-2, "lora_rank": 4}
    found = {name: folder / name.replace(" ", "-") for name in RUNS}
    assert tune(model=base, out=found["new tokens"], **common) == 0
    assert tune(model=base, out=found["no new tokens"], template="alpaca", **common) == 0
    assert tune(model=instruct, out=found["template of its own"], **common) == 0
    return found


def errors_of(capsys, *words):
    capsys.readouterr()
    assert main(["merge", *map(str, words), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "where", "found", "expected", "fix"]
    return err


@pytest.mark.parametrize("name", RUNS)
def test_the_merged_model_says_what_the_adapter_says(runs, name, tmp_path, capsys):
    run, out = runs[name], tmp_path / "merged"
    capsys.readouterr()
    assert main(["merge", "--model", str(run), "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "log-probabilities differ by at most" in said
    assert f"heed chat --model {out}" in said

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ours = AutoTokenizer.from_pretrained(run)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert ids == ours.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    adapter = load_adapter(str(run), CPU)
    torch.testing.assert_close(next_token_logp(model, ids), next_token_logp(adapter, ids), rtol=1e-4, atol=1e-4)
    with adapter.disable_adapter():  # the adapter did learn something that could have been lost
        assert (next_token_logp(adapter, ids) - next_token_logp(model, ids)).abs().max() > 0.1
    assert stop_ids_of(model) == stop_ids_of(adapter.get_base_model())
    assert stop_ids_of(model) != []
    assert not (out / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_merged_model_keeps_the_new_tokens(runs, base, tmp_path):
    out = tmp_path / "merged"
    assert main(["merge", str(runs["new tokens"]), "--out", str(out), "--device", "cpu"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    new = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert (
        len(tokenizer) == len(AutoTokenizer.from_pretrained(base)) + 2 == model.get_input_embeddings().weight.shape[0]
    )
    end = AutoTokenizer.from_pretrained(base).eos_token
    assert tokenizer.convert_ids_to_tokens(stop_ids_of(model)) == ["<|im_end|>", end]
    adapter = load_file(runs["new tokens"] / "adapter_model.safetensors")
    rows = next(tensor for name, tensor in adapter.items() if "embed_tokens" in name)
    assert torch.equal(model.get_input_embeddings().weight[new], rows)


def test_a_base_in_bfloat16_stays_in_it_and_the_rounding_is_told(instruct, colours, write, tune, tmp_path, capsys):
    half, run, out = tmp_path / "half", tmp_path / "run", tmp_path / "merged"
    AutoModelForCausalLM.from_pretrained(instruct, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(instruct).save_pretrained(half)
    assert tune(model=half, data=write(colours), out=run, steps=4, batch_size=8, optim_lr=3e-2, lora_rank=4) == 0
    assert main(["merge", "--model", str(run), "--out", str(out), "--device", "cpu"]) == 0
    assert "written in bfloat16" in capsys.readouterr().out
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    ids = AutoTokenizer.from_pretrained(out)("The sky is blue.").input_ids
    expected = next_token_logp(load_adapter(str(run), CPU), ids)
    apart = (next_token_logp(load_model(str(out), CPU), ids) - expected).abs().max()
    assert 0 < apart < merge.TOLERANCE[torch.bfloat16]


def test_another_place_of_the_base_can_be_named(runs, instruct, tmp_path, capsys):
    run, out = runs["template of its own"], tmp_path / "merged"
    assert main(["merge", str(run), "--base", str(instruct), "--out", str(out), "--device", "cpu"]) == 0
    assert f"on base {instruct}" in capsys.readouterr().out


def test_a_model_without_an_adapter_is_refused(instruct, tmp_path, capsys):
    out = tmp_path / "merged"
    assert "there is no adapter to merge" in errors_of(capsys, "--model", instruct, "--out", out)
    absent = errors_of(capsys, "--model", tmp_path / "absent", "--out", out)
    assert "no such folder" in absent
    assert "heed chat" not in absent  # there is nothing to talk to
    assert not out.exists()


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(runs, tmp_path, capsys):
    out = tmp_path / "taken"
    out.mkdir()
    (out / "thesis.txt").write_text("all of it")
    err = errors_of(capsys, "--model", runs["no new tokens"], "--out", out)
    assert "thesis.txt" in err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    assert "a file" in errors_of(capsys, "--model", runs["no new tokens"], "--out", out / "thesis.txt")
    (out / "thesis.txt").unlink()
    assert main(["merge", str(runs["no new tokens"]), "--out", str(out), "--device", "cpu"]) == 0


def test_a_base_that_the_adapter_does_not_fit_is_refused(runs, base, tmp_path, capsys):
    err = errors_of(capsys, "--model", runs["new tokens"], "--base", base, "--out", tmp_path / "merged")
    assert "does not fit this base model" in err


def test_a_model_that_computes_no_numbers_is_not_kept(runs, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "merged"
    run.mkdir()
    for path in runs["no new tokens"].iterdir():
        if path.is_file() and path.name.startswith(("adapter", "tokenizer", "chat", "generation")):
            (run / path.name).write_bytes(path.read_bytes())
    weights = load_file(run / "adapter_model.safetensors")
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights.items()}
    save_file(weights, run / "adapter_model.safetensors", metadata={"format": "pt"})
    assert "disagrees" in errors_of(capsys, "--model", run, "--out", out)
    assert not out.exists()


def test_a_copy_that_says_something_else_never_gets_the_name(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "merged"

    def damaged(name, device, **more):
        model = load_model(name, device, **more)
        with torch.no_grad():
            model.get_output_embeddings().weight[7] += 0.5
        return model

    monkeypatch.setattr(merge, "load_model", damaged)  # stands for a disk that gives back other bits
    err = errors_of(capsys, "--model", runs["template of its own"], "--out", out)
    assert "the written model disagrees with the merged one" in err
    assert list(tmp_path.iterdir()) == []


def test_the_differences_that_count_are_the_largest_and_those_of_no_number():
    ours = torch.tensor([[0.0, -1.0], [-2.0, -3.0]])
    assert merge.largest_difference(ours, ours + torch.tensor([[0.0, 0.0], [-0.5, 0.25]])) == 0.5
    assert merge.largest_difference(ours, ours * float("nan")) == float("inf")

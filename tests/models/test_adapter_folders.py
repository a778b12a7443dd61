"""Folders of runs with an adapter, with and without new tokens: plain transformers and heed read them alike."""

import json

import pytest
import torch
from peft import PeftModel
from tiny import CHATML, CHATML_TOKENS, CPU, END, PLAIN, SHAPES, opened, train, trained, write_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.models.adapters.folder import base_of, load_adapter
from heed.models.adapters.lora import _into_place, _unfinished
from heed.models.decode.sample import greedy
from heed.models.load import load_model, save
from heed.models.stops import stop_ids_of

IDS = torch.tensor([[5, 60, 7, 270, 9, 11]])


def written(run, shape: str, new_tokens=(), stop_tokens=None, **base):
    """A run's folder with a trained adapter, and the model in memory that was written there."""
    stop_tokens = stop_tokens or (["<|im_end|>"] if new_tokens else []) + [END]
    name = write_base(run.parent / "original", shape, **base)
    loaded = opened(name, run, rank=4, new_tokens=new_tokens, stop_tokens=stop_tokens)
    train(loaded)
    save(loaded, run, template=CHATML if new_tokens else PLAIN, stop_tokens=stop_tokens)
    return loaded


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_starts_as_the_base_and_the_head_has_none(shape, tmp_path):
    base = write_base(tmp_path / "base", shape)
    loaded = opened(base, tmp_path / "run", rank=4, new_tokens=(), stop_tokens=[END])
    assert torch.equal(loaded.model(IDS).logits, load_model(base, CPU)(IDS).logits)
    names = [name for name, _ in loaded.trained_parameters()]
    assert names
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("shape", SHAPES)
def test_new_tokens_have_a_trained_row_in_embeddings_and_head(shape, tmp_path):
    base = write_base(tmp_path / "base", shape)
    loaded = opened(base, tmp_path / "run", rank=4, new_tokens=CHATML_TOKENS, stop_tokens=[END])
    rows = {name: p.shape for name, p in loaded.trained_parameters() if "lora_" not in name}
    assert len(rows) == (2 if "untied" in shape else 1)
    assert all(shape == (2, 32) for shape in rows.values())
    before = loaded.model(IDS).logits.detach()
    train(loaded)
    new = torch.tensor([[len(loaded.tokenizer) - 1, 5]])
    after = loaded.model(new).logits
    with loaded.adapter.disable_adapter():
        assert torch.equal(loaded.model(IDS).logits, before)
        assert not torch.allclose(loaded.model(new).logits, after)


def test_the_seed_alone_decides_how_an_adapter_starts(tmp_path):
    base = write_base(tmp_path / "base", "llama tied")
    starts = []
    for run, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(len(starts))
        starts.append(trained(opened(base, tmp_path / run, rank=4, new_tokens=(), stop_tokens=[END], seed=seed)))
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert any(not torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("new_tokens", [(), CHATML_TOKENS], ids=["no new tokens", "new tokens"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_run_with_an_adapter_is_the_same_in_plain_transformers(shape, new_tokens, dtype, tmp_path):
    run = tmp_path / "run"
    loaded = written(run, shape, new_tokens, dtype=dtype)
    logits = loaded.model(IDS).logits

    # transformers puts the adapter on its base by itself
    model = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert torch.equal(model(IDS).logits, logits)
    assert torch.equal(load_adapter(str(run), CPU)(IDS).logits, logits)
    assert tokenizer.chat_template == (CHATML if new_tokens else PLAIN)
    assert tokenizer.convert_ids_to_tokens(stop_ids_of(model)) == (["<|im_end|>"] if new_tokens else []) + [END]

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Chào bạn!"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    plain = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    unmerged = load_adapter(str(run), CPU).get_base_model()
    assert greedy(unmerged, ids, stop_ids=stop_ids_of(unmerged), max_new_tokens=12) == plain
    merged = load_model(str(run), CPU)
    assert stop_ids_of(merged) == stop_ids_of(model)
    torch.testing.assert_close(merged(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    shares = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert shares is ("untied" not in shape)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own call
def test_peft_reads_the_adapter_without_heed(tmp_path):
    loaded = written(tmp_path / "run", "gpt2 tied", CHATML_TOKENS)
    named = json.loads((tmp_path / "run" / "adapter_config.json").read_text())["base_model_name_or_path"]
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), tmp_path / "run")
    assert torch.equal(adapter(IDS).logits, loaded.model(IDS).logits)


# ---- where the base is


def test_a_relative_name_of_the_base_is_written_so_that_it_holds_anywhere(tmp_path, monkeypatch):
    write_base(tmp_path / "original", "llama tied")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    loaded = opened("original", run, rank=4, new_tokens=(), stop_tokens=[END])
    train(loaded)
    save(loaded, run, template=PLAIN, stop_tokens=[END])
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoModelForCausalLM.from_pretrained(run)
    assert torch.equal(model(IDS).logits, loaded.model(IDS).logits)
    assert not (run / "base").exists()  # the original does as it is


def test_a_run_that_was_moved_finds_the_base_it_keeps(tmp_path):
    loaded = written(tmp_path / "run", "llama untied", CHATML_TOKENS)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000005"
    checkpoint.mkdir(parents=True)
    save(loaded, checkpoint, template=CHATML, stop_tokens=["<|im_end|>"])
    logits = loaded.model(IDS).logits
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert base_of(str(moved)) == str(moved / "base")
    for folder in (moved, moved / "checkpoints" / "step-000005"):
        assert torch.equal(load_adapter(str(folder), CPU)(IDS).logits, logits)


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_a_base_that_stops_elsewhere_is_kept_by_links_and_the_run_stops_where_it_was_taught(shape, tmp_path):
    run = tmp_path / "run"
    loaded = written(run, shape, stop_tokens=["!", END])
    assert (run / "base" / "model.safetensors").is_symlink()
    assert sum(path.lstat().st_size for path in (run / "base").iterdir() if not path.is_symlink()) < 2_000
    assert stop_ids_of(AutoModelForCausalLM.from_pretrained(tmp_path / "original")) == [0]
    model = AutoModelForCausalLM.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert tokenizer.convert_ids_to_tokens(stop_ids_of(model)) == ["!", END]
    assert torch.equal(model(IDS).logits, loaded.model(IDS).logits)


def test_a_base_that_is_kept_already_stays_when_the_run_is_resumed(tmp_path):
    run = tmp_path / "run"
    first = written(run, "llama tied", CHATML_TOKENS)
    times = {path.name: path.stat().st_mtime_ns for path in (run / "base").iterdir()}
    again = opened(str(tmp_path / "original"), run, rank=4, new_tokens=CHATML_TOKENS, stop_tokens=["<|im_end|>"])
    assert {path.name: path.stat().st_mtime_ns for path in (run / "base").iterdir()} == times
    name = first.adapter.peft_config["default"].base_model_name_or_path
    assert again.adapter.peft_config["default"].base_model_name_or_path == name == str(run / "base")
    assert not [path for path in run.iterdir() if path.name.startswith(".tmp-")]


def test_an_adapter_tuned_further_stands_on_the_merged_model(tmp_path):
    written(tmp_path / "first", "llama tied")
    second = opened(str(tmp_path / "first"), tmp_path / "second", rank=2, new_tokens=(), stop_tokens=[END])
    merged = load_model(str(tmp_path / "first"), CPU)
    assert torch.equal(second.model(IDS).logits, merged(IDS).logits)
    train(second)
    save(second, tmp_path / "second", template=PLAIN, stop_tokens=[END])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(model(IDS).logits, second.model(IDS).logits)


def test_the_base_that_another_process_put_there_first_stays(tmp_path):
    folder = tmp_path / "base"
    unfinished = _unfinished(folder)
    (unfinished / "config.json").write_text("ours")
    folder.mkdir()
    (folder / "config.json").write_text("theirs")
    _into_place(unfinished, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert (folder / "config.json").read_text() == "theirs"

"""Models of the wild: what is not whole is refused with its cause, what is only odd is loaded to the bit and said."""

import json
import re
import shutil

import pytest
import torch
from damage import (
    WEIGHTS,
    another_layer,
    as_pickle,
    change_config,
    change_weights,
    drop,
    emptied,
    in_shards,
    pointer,
    rename_weights,
    truncated,
    with_code,
)
from tiny import CPU, END, PLAIN, opened, train, write_base

from heed.errors import UserError
from heed.models.adapters.folder import load_adapter
from heed.models.intake.access import Access
from heed.models.load import load_model, load_tokenizer, save

QUIET = Access(say=lambda line: None)
IDS = torch.tensor([[5, 6, 7, 8]])


def quantised(method, **how):
    return lambda folder: change_config(folder, quantization_config={"quant_method": method, "bits": 4, **how})


REFUSED = {
    "a layer is missing": ("llama tied", lambda f: drop(f, "layers.1."), ("9 of", "layers.1."), "--model"),
    "one weight is missing": (
        "gpt2 tied",
        lambda f: drop(f, "h.1.mlp.c_fc.weight"),
        ("1 of", "h.1.mlp.c_fc"),
        "--model",
    ),
    "the head is missing where nothing is tied": (
        "llama untied",
        lambda f: drop(f, "lm_head"),
        ("1 of", "lm_head.weight"),
        "tie_word_embeddings",
    ),
    "the embeddings are missing": ("llama tied", lambda f: drop(f, "embed_tokens"), ("embed_tokens",), "--model"),
    "the config speaks of another layer": (
        "llama tied",
        lambda f: change_config(f, num_hidden_layers=3),
        ("9 of", "layers.2."),
        "--model",
    ),
    "weights have names of nobody's": (
        "llama tied",
        lambda f: rename_weights(f, lambda name: f"student.{name}"),
        ("21 of 21", "student."),
        "--model",
    ),
    "an adapter was not merged": (
        "llama tied",
        lambda f: rename_weights(f, lambda n: "base_model.model." + n.replace("q_proj.w", "q_proj.base_layer.w")),
        ("2 of", "q_proj.weight", "adapter"),
        "merge_and_unload",
    ),
    "a vocabulary in the config that is not the table's": (
        "llama untied",
        lambda f: change_config(f, vocab_size=1000),
        ("(1000, 32)", "(280, 32)"),
        '"vocab_size": 280',
    ),
    "a width in the config that is not the weights'": (
        "llama tied",
        lambda f: change_config(f, intermediate_size=40),
        ("(32, 48)", "(32, 40)"),
        "config.json",
    ),
    "a shard is missing": (
        "llama tied",
        lambda f: in_shards(f, absent=1),
        ("1 of 3", "model-00002-of-00003.safetensors"),
        "model-00002-of-00003.safetensors",
    ),
    "an index that names weights that are nowhere": (
        "llama tied",
        lambda f: (in_shards(f), drop(f, "norm.weight", "model-00003-of-00003.safetensors")),
        ("missing", "norm.weight"),
        "--model",
    ),
    "weights that end half way": ("llama tied", truncated, ("model.safetensors",), "download"),
    "a Git LFS pointer for weights": ("llama tied", pointer(WEIGHTS), ("bytes",), "lfs pull"),
    "a Git LFS pointer for the config": ("llama tied", pointer("config.json"), ("bytes",), "lfs pull"),
    "a Git LFS pointer for the generation config": (
        "llama tied",
        pointer("generation_config.json"),
        ("bytes",),
        "lfs pull",
    ),
    "a generation config that is broken": (
        "llama tied",
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": '),
        ("column",),
        "generation_config.json",
    ),
    "a config that is a list": ("llama tied", lambda f: (f / "config.json").write_text("[]"), ("list",), "config.json"),
    "a config of no family": (
        "llama tied",
        lambda f: (f / "config.json").write_text("{}"),
        ("model_type",),
        "path",
    ),
    "an empty folder": ("llama tied", emptied, ("nothing in it",), "path"),
    "quantised, its library not installed": ("llama tied", quantised("awq"), ("awq",), "pip install"),
    "quantised by a method of nobody's": ("llama tied", quantised("own", load_in_4bit=True), ("own",), "--model"),
    "code of its own": ("llama tied", with_code, ("configuration_own.py", "modeling_own.py"), "--trust-remote-code"),
    "another kind of model": (
        "llama tied",
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "t5"})),
        ("T5",),
        "path",
    ),
}
"""shape, damage, what the message says was found, and what its fix names"""


def wild(tmp_path, shape, damage):
    folder = tmp_path / "wild"
    write_base(folder, shape)
    damage(folder)
    return str(folder)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_is_not_whole_is_refused_with_its_cause(kind, tmp_path):
    shape, damage, found, fix = REFUSED[kind]
    folder = wild(tmp_path, shape, damage)
    with pytest.raises(UserError) as caught:
        load_model(folder, CPU, access=QUIET)
    said = str(caught.value)
    assert all(each in caught.value.found for each in found), said
    assert fix in caught.value.fix, said
    assert "wild" in caught.value.where
    assert len(said.splitlines()) == 5


LOADED = {
    "compiled": (lambda f: rename_weights(f, lambda name: f"_orig_mod.{name}"), "_orig_mod."),
    "parallel": (lambda f: rename_weights(f, lambda name: f"module.{name}"), "module."),
    "from peft": (lambda f: rename_weights(f, lambda name: f"base_model.model.{name}"), "base_model.model."),
    "parallel and compiled": (
        lambda f: rename_weights(f, lambda name: f"module._orig_mod.{name}"),
        "module._orig_mod.",
    ),
    "compiled layer by layer": (
        lambda f: rename_weights(f, lambda name: re.sub(r"(layers|h)\.(\d)\.", r"\1.\2._orig_mod.", name)),
        "_orig_mod.",
    ),
    "compiled inside": (
        lambda f: rename_weights(f, lambda n: re.sub(r"^(model|transformer)\.", r"\1._orig_mod.", n)),
        "_orig_mod.",
    ),
    "a layer too many": (another_layer, "layers.2.|h.2."),
    "weights of nobody's": (
        lambda f: change_weights(f, lambda weights: weights.update(own=torch.ones(2))),
        "1 weights .* own",
    ),
    "flash attention in the config": (lambda f: change_config(f, attn_implementation="flash_attention_2"), None),
    "a kernel of a hub in the config": (lambda f: change_config(f, attn_implementation="someone/kernel"), None),
    "no architectures": (lambda f: change_config(f, architectures=None), None),
    "in shards": (in_shards, None),
    "pickled": (as_pickle, None),
    "a padding token beyond the table": (lambda f: change_config(f, pad_token_id=280), "280"),
    "a padding token of -1": (lambda f: change_config(f, pad_token_id=-1), "-1"),
    "no generation config": (lambda f: (f / "generation_config.json").unlink(missing_ok=True), None),
}
"""damage, and what is said of it"""


@pytest.mark.parametrize("shape", ["llama untied", "gpt2 tied"])
@pytest.mark.parametrize("kind", LOADED)
def test_a_model_that_is_only_odd_is_loaded_to_the_bit_and_said(kind, shape, tmp_path):
    damage, says = LOADED[kind]
    expected = load_model(write_base(tmp_path / "whole", shape), CPU)
    told: list[str] = []
    found = load_model(wild(tmp_path, shape, damage), CPU, access=Access(say=told.append))
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(weight, found.state_dict()[name]) for name, weight in expected.state_dict().items())
    found.save_pretrained(tmp_path / "again")
    again = load_model(str(tmp_path / "again"), CPU, access=Access(say=pytest.fail)).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in expected.state_dict().items())
    if says is None:
        assert told == []
    else:
        assert len(told) == 1
        assert re.search(says, told[0])


def test_a_head_of_its_own_stays_its_own_where_the_config_says_that_it_is_tied(tmp_path):
    base = write_base(tmp_path / "base", "llama untied")
    head = load_model(base, CPU).get_output_embeddings().weight.detach().clone()
    change_config(tmp_path / "base", tie_word_embeddings=True)
    told: list[str] = []
    model = load_model(base, CPU, access=Access(say=told.append))
    assert "tie" in told[0] or "head" in told[0]
    model.resize_token_embeddings(300, mean_resizing=False)
    assert torch.equal(model.get_output_embeddings().weight[: len(head)], head)


# ---- tokenizers


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_pointer_in_place_of_a_tokenizers_file_is_named(file, tmp_path):
    folder = wild(tmp_path, "llama tied", pointer(file))
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    assert file in caught.value.where
    assert "lfs pull" in caught.value.fix


def test_a_tokenizer_without_its_library_names_the_library(tmp_path):
    folder = tmp_path / "wild"
    write_base(folder, "llama tied")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    change_config(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder))
    assert "tokenizer.model" in caught.value.where
    assert "pip install" in caught.value.fix
    assert "sentencepiece" in caught.value.fix


# ---- adapters


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base and a trained adapter on it."""
    folder = tmp_path_factory.mktemp("adapted")
    loaded = opened(
        write_base(folder / "base", "llama untied"), folder / "run", rank=4, new_tokens=(), stop_tokens=[END]
    )
    train(loaded)
    save(loaded, folder / "run", template=PLAIN, stop_tokens=[END])
    return folder / "run"


ADAPTER = "adapter_model.safetensors"

REFUSED_ADAPTERS = {
    "keys that do not match": (
        lambda f: rename_weights(f, lambda name: name.replace("self_attn", "attention"), ADAPTER),
        ("attention", "self_attn"),
    ),
    "a layer is missing": (lambda f: drop(f, "layers.1.", ADAPTER), ("14 are missing", "layers.1.")),
    "weights for a layer more": (
        lambda f: change_weights(
            f, lambda w: w.update({k.replace(".1.", ".7."): v.clone() for k, v in w.items()}), ADAPTER
        ),
        ("14 of", "layers.7."),
    ),
    "another rank": (lambda f: change_config(f, "adapter_config.json", r=8), ("lora_A",)),
    "no module of that name": (
        lambda f: change_config(f, "adapter_config.json", target_modules=["query_key_value"]),
        ("query_key_value",),
    ),
    "a pointer": (pointer(ADAPTER), ("bytes",)),
    "ends half way": (lambda f: truncated(f, ADAPTER), ("adapter",)),
    "a config that is a pointer": (pointer("adapter_config.json"), ("bytes",)),
    "a base that is not there": (
        lambda f: change_config(f, "adapter_config.json", base_model_name_or_path="/nowhere/base"),
        ("/nowhere/base",),
    ),
    "no base named": (lambda f: change_config(f, "adapter_config.json", base_model_name_or_path=None), ("nothing",)),
}


def copied(adapted, tmp_path):
    return shutil.copytree(adapted, tmp_path / "wild", ignore=shutil.ignore_patterns("base"))


@pytest.mark.parametrize("kind", REFUSED_ADAPTERS)
def test_an_adapter_that_is_not_whole_or_not_this_bases_is_refused(kind, adapted, tmp_path):
    damage, found = REFUSED_ADAPTERS[kind]
    folder = copied(adapted, tmp_path)
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_model(str(folder), CPU, access=QUIET)
    assert all(each in caught.value.found for each in found), str(caught.value)
    assert len(str(caught.value).splitlines()) == 5


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
        lambda name: re.sub(r"(lora_[AB])\.", r"\1.default.", name),
    ],
    ids=["compiled inside", "compiled", "parallel", "compiled layer by layer", "with peft's name for it"],
)
def test_an_adapter_under_wrappers_names_is_the_adapter(rename, adapted, tmp_path):
    folder = copied(adapted, tmp_path)
    rename_weights(folder, rename, ADAPTER)
    expected = load_adapter(str(adapted), CPU)(IDS).logits
    assert torch.equal(load_adapter(str(folder), CPU)(IDS).logits, expected)
    base = load_model(str(adapted.parent / "base"), CPU)(IDS).logits
    assert (expected - base).abs().max() > 0.1


def test_an_adapter_that_brings_no_tokenizer_has_its_bases(adapted, tmp_path):
    folder = copied(adapted, tmp_path)
    for path in folder.iterdir():
        if "adapter" not in path.name:
            path.unlink()
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(str(adapted.parent / "base")).get_vocab()


def test_a_path_that_is_not_there_is_told_as_a_folder_before_it_is_told_as_a_name_of_the_hub(tmp_path):
    with pytest.raises(UserError) as caught:
        load_tokenizer("no-such-run", QUIET)
    assert "no folder no-such-run" in caught.value.found

"""Opening, extending, writing and restoring models, with plain transformers as the judge of what was written."""

import json

import pytest
import torch
from tiny import CHATML, CHATML_TOKENS, CPU, END, PLAIN, SHAPES, opened, train, trained, write_base
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from heed.errors import UserError
from heed.models.adapters.folder import load_adapter
from heed.models.decode.sample import greedy
from heed.models.load import (
    LoadedModel,
    add_tokens,
    load_model,
    load_tokenizer,
    restore,
    save,
    stored_dtype,
)
from heed.models.stops import stop_ids_of

NEW = ("<|im_end|>", "<|im_start|>")
QUESTION = [{"role": "user", "content": "Xin chào 👋"}]


def prompt_of(tokenizer) -> list[int]:
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids


# ---- new tokens


@pytest.mark.parametrize("shape", [*SHAPES, "phi untied"])
def test_new_rows_are_near_the_mean_of_the_known_ones_and_each_its_own(shape, tmp_path):
    base = write_base(tmp_path, shape)
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    width, num_known = layers[0].weight.shape[1], len(layers[0].weight)
    with torch.no_grad():  # each coordinate about a mean and with a spread of its own
        for weight in {layer.weight for layer in layers}:
            weight.mul_(torch.linspace(1, 20, width)).add_(torch.linspace(-1, 1, width))
    before = [layer.weight.detach().clone() for layer in layers]
    new = [f"<new {number}>" for number in range(400)]
    ids = add_tokens(model, tokenizer, new, seed=0)
    assert tokenizer.convert_ids_to_tokens(ids) == new
    assert ids == list(range(num_known, num_known + 400))
    for layer, known in zip((model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True):
        assert torch.equal(layer.weight[: len(known)], known)
        apart = (layer.weight.detach()[ids] - known.mean(0)) / known.std(0)
        # Four standard errors of 400 numbers a coordinate, and of all of them.
        assert apart.mean(0) == pytest.approx(torch.zeros(width), abs=4 * 0.1 / 400**0.5)
        assert apart.std(0) == pytest.approx(torch.full((width,), 0.1), abs=4 * 0.1 / 800**0.5)
        assert apart.std() == pytest.approx(0.1, abs=4 * 0.1 / (800 * width) ** 0.5)
        assert len(layer.weight[ids].unique(dim=0)) == 400
    shares = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shares is ("untied" not in shape)


def test_a_heads_bias_gives_new_tokens_the_mean_of_the_known_ones(tmp_path):
    base = write_base(tmp_path, "phi untied")
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    bias = model.get_output_embeddings().bias
    with torch.no_grad():
        bias.copy_(torch.linspace(-1, 3, len(bias)))
    known = bias.detach().clone()
    ids = add_tokens(model, tokenizer, NEW, seed=0)
    after = model.get_output_embeddings().bias
    assert torch.equal(after[: len(known)], known)
    torch.testing.assert_close(after[ids], torch.full((2,), 1.0))


def test_new_rows_are_the_same_for_the_same_seed_and_others_for_another(tmp_path):
    base = write_base(tmp_path, "llama untied")
    rows = []
    for seed in (0, 0, 1):
        model, tokenizer = load_model(base, CPU), load_tokenizer(base)
        torch.manual_seed(len(rows))  # what else was drawn before has no say
        ids = add_tokens(model, tokenizer, NEW, seed=seed)
        rows.append(torch.cat([model.get_input_embeddings().weight[ids], model.get_output_embeddings().weight[ids]]))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("shape", ["llama tied", "gpt2 untied"])
def test_rows_to_spare_are_used_before_the_vocabulary_grows(shape, tmp_path):
    base = write_base(tmp_path, shape, num_spare_rows=10)
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[len(tokenizer) :] = 100.0  # rows that stand for nothing have no say in the mean
    num_rows, num_known = len(weight), len(tokenizer)
    ids = add_tokens(model, tokenizer, NEW, seed=0)
    weight = model.get_input_embeddings().weight
    assert (len(weight), ids) == (num_rows, [num_known, num_known + 1])
    assert weight[ids].abs().max() < 1
    assert (weight[num_known + 2 :] == 100).all()


def test_a_token_that_is_known_is_not_added_again(tmp_path):
    base = write_base(tmp_path, "llama tied")
    model, tokenizer = load_model(base, CPU), load_tokenizer(base)
    num_rows = len(model.get_input_embeddings().weight)
    assert add_tokens(model, tokenizer, [END], seed=0) == []
    assert len(add_tokens(model, tokenizer, [END, NEW[0]], seed=0)) == 1
    assert len(model.get_input_embeddings().weight) == num_rows + 1


# ---- what is written, as plain transformers reads it


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("new_tokens", [(), CHATML_TOKENS], ids=["no new tokens", "new tokens"])
def test_a_tuned_model_is_the_same_in_plain_transformers(shape, new_tokens, tmp_path):
    stop = "<|im_end|>" if new_tokens else END
    base = write_base(tmp_path / "base", shape)
    loaded = opened(base, tmp_path / "run", rank=0, new_tokens=new_tokens, stop_tokens=[stop])
    train(loaded)
    save(loaded, tmp_path / "run", template=CHATML if new_tokens else PLAIN, stop_tokens=[stop])

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert model.dtype == torch.float32
    assert tokenizer.chat_template == (CHATML if new_tokens else PLAIN)
    assert tokenizer.convert_ids_to_tokens(stop_ids_of(model)) == list(dict.fromkeys([stop, END]))
    assert model.generation_config.pad_token_id is not None
    assert len(tokenizer) == len(load_tokenizer(base)) + len(new_tokens)
    ids = prompt_of(tokenizer)
    assert torch.equal(model(torch.tensor([ids])).logits, loaded.model(torch.tensor([ids])).logits)
    plain = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    ours = greedy(load_model(str(tmp_path / "run"), CPU), ids, stop_ids=stop_ids_of(model), max_new_tokens=12)
    assert plain == ours


def test_every_stop_token_and_every_template_is_kept(tmp_path):
    loaded = opened(
        write_base(tmp_path / "base", "llama tied"), tmp_path / "run", rank=0, new_tokens=NEW, stop_tokens=[]
    )
    loaded.tokenizer.pad_token = NEW[1]
    templates = {"default": CHATML, "tool_use": CHATML + "{# with tools #}"}
    save(loaded, tmp_path / "run", template=templates, stop_tokens=[NEW[0], END])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.convert_ids_to_tokens(stop_ids_of(model)) == [NEW[0], END]
    assert tokenizer.convert_ids_to_tokens(model.generation_config.pad_token_id) == NEW[1]
    assert tokenizer.chat_template == templates


def test_a_generation_config_that_transformers_would_not_save_again_is_mended(tmp_path):
    base = write_base(tmp_path / "base", "llama tied", do_sample=False, temperature=0.6, top_p=0.9, length_penalty=2.0)
    loaded = opened(base, tmp_path / "run", rank=0, new_tokens=(), stop_tokens=[END])
    changed = GenerationConfig.from_pretrained(base)
    changed.eos_token_id = 1
    with pytest.raises(ValueError, match="temperature"):
        changed.save_pretrained(tmp_path)
    save(loaded, tmp_path / "run", template=PLAIN, stop_tokens=[END])
    saved = GenerationConfig.from_pretrained(tmp_path / "run")
    assert (saved.do_sample, saved.temperature, saved.top_p, saved.length_penalty) == (False, None, None, None)


def test_a_generation_config_that_samples_goes_on_sampling(tmp_path):
    base = write_base(
        tmp_path / "base", "llama tied", do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.1
    )
    loaded = opened(base, tmp_path / "run", rank=0, new_tokens=(), stop_tokens=[END])
    save(loaded, tmp_path / "run", template=PLAIN, stop_tokens=[END])
    saved = GenerationConfig.from_pretrained(tmp_path / "run")
    assert (saved.do_sample, saved.temperature, saved.top_k, saved.repetition_penalty) == (True, 0.6, 20, 1.1)


# ---- back again


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("new_tokens", [(), CHATML_TOKENS], ids=["no new tokens", "new tokens"])
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "adapter"])
def test_what_was_trained_comes_back_bit_for_bit(shape, dtype, new_tokens, rank, tmp_path):
    base = write_base(tmp_path / "base", shape, dtype=dtype)
    assert stored_dtype(base) == dtype
    stop = ["<|im_end|>" if new_tokens else END]
    settings = {"rank": rank, "new_tokens": new_tokens, "stop_tokens": stop}
    loaded = opened(base, tmp_path / "run", **settings)
    train(loaded)
    (tmp_path / "saved").mkdir()
    save(loaded, tmp_path / "saved", template=PLAIN, stop_tokens=stop)
    ids = torch.tensor([[5, 6, len(loaded.tokenizer) - 1, 7]])
    expected, logits = trained(loaded), loaded.model(ids).logits

    again = opened(base, tmp_path / "run", **settings, seed=3)
    train(again, seed=2)
    assert not torch.equal(again.model(ids).logits, logits)
    restore(again, tmp_path / "saved")
    found = trained(again)
    assert found.keys() == expected.keys()
    assert all(weight.dtype == torch.float32 for weight in found.values())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(again.model(ids).logits, logits)
    if not rank:
        shares = again.model.get_input_embeddings().weight is again.model.get_output_embeddings().weight
        assert shares is ("untied" not in shape)


def test_an_adapter_with_other_weights_is_not_half_restored(tmp_path):
    base = write_base(tmp_path / "base", "llama tied")
    with_rows = opened(base, tmp_path / "one", rank=4, new_tokens=CHATML_TOKENS, stop_tokens=["<|im_end|>"])
    without = opened(base, tmp_path / "two", rank=4, new_tokens=(), stop_tokens=[END])
    save(without, tmp_path / "two", template=PLAIN, stop_tokens=[END])
    with pytest.raises(ValueError, match="other weights"):
        restore(with_rows, tmp_path / "two")


# ---- what cannot be opened


def test_a_model_that_is_not_there_is_told_in_five_parts(tmp_path):
    with pytest.raises(UserError, match="the model cannot be loaded"):
        load_model(str(tmp_path), CPU)
    with pytest.raises(UserError, match="the tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path / "absent"))


@pytest.mark.parametrize("new_tokens", [(), CHATML_TOKENS], ids=["no new tokens", "new tokens"])
def test_an_adapter_on_a_base_that_it_does_not_fit_is_told_in_five_parts(new_tokens, tmp_path):
    base = write_base(tmp_path / "base", "llama untied")
    stop = ["<|im_end|>" if new_tokens else END]
    loaded = opened(base, tmp_path / "run", rank=4, new_tokens=new_tokens, stop_tokens=stop)
    save(loaded, tmp_path / "run", template=PLAIN, stop_tokens=stop)
    other = tmp_path / "other"
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    wrong = AutoModelForCausalLM.from_pretrained(base)
    if not new_tokens:
        wrong = type(wrong)(type(wrong.config)(**{**config, "hidden_size": 64}))
    wrong.save_pretrained(other)
    with pytest.raises(UserError, match="does not fit this base model"):
        load_adapter(str(tmp_path / "run"), CPU, base=str(other))


def test_a_loaded_model_names_its_device_and_what_it_trains(tmp_path):
    base = write_base(tmp_path, "gpt2 tied")
    loaded = LoadedModel(load_model(base, CPU), load_tokenizer(base))
    assert loaded.device == CPU
    names = [name for name, _ in loaded.trained_parameters()]
    assert "lm_head.weight" not in names  # it is the embedding's, which is there once
    assert sum(p.numel() for _, p in loaded.trained_parameters()) == loaded.model.num_parameters()

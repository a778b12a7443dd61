"""The fast step: it computes what the model computes, with the adapters that are active, or it is not used."""

import pytest
import torch
from families import FOREST, tiny
from peft import LoraConfig, get_peft_model
from test_sample import AS_PREDICTED, PROMPTS, assert_same, float32, scored_by_training
from tiny import CHATML_TOKENS, END, opened, train, write_base

from heed.models.decode import fast_step as fast_decode
from heed.models.decode import slots
from heed.models.decode.fast_step import FastStep
from heed.models.decode.sample import sample
from heed.models.decode.self_check import fastest_step
from heed.models.decode.together import PlainStep, compute_prompts

FAST = ["gpt2", "gpt2 scaled by layer", "llama", "llama tied with biases", "mistral", "qwen3"]
HOW = {"stop_ids": [5, 6], "max_new_tokens": 16, "sampling": AS_PREDICTED, "num_samples": 3, "max_sequences": 7}


def with_plain_steps(monkeypatch, model, prompts, **how):
    """The same answers by the model's own forward at every step."""
    with monkeypatch.context() as patched:
        patched.setattr(FastStep, "of", lambda model, longest: None)
        return sample(model, prompts, **how)


@pytest.mark.parametrize("family", FOREST)
def test_the_families_that_are_decoded_fast_and_no_others(family):
    model = float32(family)
    step = fastest_step(model, PROMPTS[0], 40)
    assert isinstance(step, FastStep if family in FAST else PlainStep)


@pytest.mark.parametrize("family", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fast_answers_are_those_of_the_models_own_forward(family, dtype, monkeypatch):
    model = tiny(family, dtype=dtype)
    assert isinstance(fastest_step(model, PROMPTS[0], 40), FastStep)
    assert_same(sample(model, PROMPTS, **HOW), with_plain_steps(monkeypatch, model, PROMPTS, **HOW))


@pytest.mark.parametrize("band_slots", [1, 2, 3, 100])
def test_bands_change_nothing(band_slots, monkeypatch):
    model = float32("llama")
    expected = sample(model, PROMPTS, **HOW)
    monkeypatch.setattr(slots, "MOST_SLOTS", band_slots)
    monkeypatch.setattr(slots, "FEWEST_SLOTS", 1)
    monkeypatch.setattr(slots, "SPARE_COLUMNS", 3)
    assert_same(sample(model, PROMPTS, **HOW), expected)


@pytest.mark.parametrize(
    ("key_heads", "size", "slots_of_bands"), [(6, 32, [16, 4]), (12, 64, [5, 5, 5, 5]), (32, 128, [4] * 5)]
)
def test_the_wider_the_keys_the_fewer_slots_has_a_band(key_heads, size, slots_of_bands):
    key = torch.zeros(key_heads, 1, size)
    prompts = slots.Prompts([(key, key)], [torch.tensor([0])], torch.zeros(1, 8), 1)
    bands = slots.Decoding.like(prompts, num_slots=20, trunk=0).bands
    assert [band.num_slots for band in bands] == slots_of_bands


def test_a_step_that_computes_something_else_is_not_used(monkeypatch):
    model = float32("llama")
    monkeypatch.setattr(fast_decode, "rotated", lambda x, cos, sin: x)
    assert isinstance(fastest_step(model, PROMPTS[0], 40), PlainStep)
    assert isinstance(fastest_step(float32("gpt2"), PROMPTS[0], 40), FastStep), "it rotates nothing"


def test_models_whose_copies_would_be_large_keep_their_own_forward(monkeypatch):
    monkeypatch.setattr(fast_decode, "LARGEST_COPY", 1000)
    assert FastStep.of(float32("llama"), 40) is None


def test_a_model_stored_in_16_bits_or_in_training_keeps_its_own_forward():
    assert FastStep.of(tiny("llama", dtype=torch.bfloat16), 40) is None
    assert FastStep.of(float32("llama").train(), 40) is None


def test_weights_are_read_anew_by_every_call():
    model = float32("llama")
    sample(model, PROMPTS[:1], **HOW)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    (found,) = sample(model, PROMPTS[:1], **HOW)
    for each in found:
        assert each.logp == pytest.approx(scored_by_training(model, PROMPTS[0], each), abs=1e-4)


# ---- adapters


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own call
@pytest.mark.parametrize("shape", ["llama tied", "llama untied", "gpt2 tied", "gpt2 untied"])
def test_an_adapted_model_is_decoded_fast_with_the_adapter_or_without(shape, tmp_path):
    loaded = opened(
        write_base(tmp_path / "base", shape), tmp_path / "run", rank=4, new_tokens=CHATML_TOKENS, stop_tokens=[END]
    )
    train(loaded)
    model = loaded.model

    def answers():
        assert isinstance(fastest_step(model, PROMPTS[0], 40), FastStep)
        (found,) = sample(model, PROMPTS[:1], **HOW)
        for each in found:
            assert each.logp == pytest.approx(scored_by_training(model, PROMPTS[0], each), abs=1e-4)
        return found

    adapted = answers()
    with loaded.adapter.disable_adapter():
        assert answers() != adapted
    assert answers() == adapted


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_adapter_that_is_active_decides():
    model = float32("llama")
    config = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    torch.manual_seed(0)
    adapter = get_peft_model(model, LoraConfig(lora_alpha=4, **config))
    adapter.add_adapter("other", LoraConfig(lora_alpha=9, use_rslora=True, **config))
    found = {}
    for name in ("default", "other"):
        adapter.set_adapter(name)
        assert isinstance(fastest_step(model, PROMPTS[0], 40), FastStep)
        (found[name],) = sample(model, PROMPTS[:1], **HOW)
        for each in found[name]:
            assert each.logp == pytest.approx(scored_by_training(model, PROMPTS[0], each), abs=1e-4)
    assert found["default"] != found["other"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_that_is_more_than_a_product_keeps_the_models_own_forward():
    model = float32("llama")
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True))
    assert FastStep.of(model, 40) is None
    model = float32("llama")
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapter.merge_adapter()
    assert FastStep.of(model, 40) is None


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_under_autocast_weights_are_cast_once_and_keys_and_values_are_kept_in_its_dtype(family):
    model = float32(family)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        step = fastest_step(model, PROMPTS[0], 40)
        computed = compute_prompts(model, PROMPTS)
        decoding = slots.Decoding.like(computed, num_slots=len(PROMPTS), trunk=0)
        logits = step.logits(computed.states)
    assert {x.dtype for layer in decoding.own for x in layer} == {torch.bfloat16}
    assert step.head.weight.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    if family in FAST:
        assert isinstance(step, FastStep)
        assert {layer.qkv[0].dtype for layer in step.layers} == {torch.bfloat16}
    assert model.get_output_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize("family", FAST)
def test_under_autocast_answers_are_as_likely_as_the_models_own_forward_says(family):
    model = float32(family)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample(model, PROMPTS, **HOW)
        with torch.no_grad():
            differences = [
                abs(a - b)
                for prompt, answers in zip(PROMPTS, found, strict=True)
                for each in answers
                for a, b in zip(each.logp, scored_by_training(model, prompt, each), strict=True)
            ]
    assert 0 < sum(differences) / len(differences) < 0.03

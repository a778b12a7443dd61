"""New tokens' rows beside a frozen table: peft's gradient without copies of the table."""

import numpy as np
import pytest
import torch
import transformers as t
from families import PADDING, difference, gradient_of, scored
from held import HeldBytes
from test_adapters import ITEMS, NEW_IDS, adapted, eager_gradient

from heed.forest.build import build
from heed.models.adapters.lora import add_adapter
from heed.models.adapters.switch import adapter_on, switchable_layers
from heed.models.heads.language import Head
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, prepare_training
from heed.models.score import forest_logp, forest_score
from heed.types import Tokens


@pytest.mark.parametrize("new_ids", [NEW_IDS, [PADDING, *NEW_IDS]], ids=["", "padding too"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama tied with biases", "granite"])
def test_the_gradient_is_that_of_pefts_copies(family, new_ids):
    expected_loss, expected_gradient = eager_gradient(family, new_ids)
    model = adapted(family, new_ids).model
    speed_up(model)
    assert Head.of(model) is not None
    loss, gradient = scored(model, forest_score, build(ITEMS))
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert difference(gradient, expected_gradient) < 1e-11

    def surrogate(model, forest):
        logp = forest_logp(model, forest).logp
        return -(logp * forest.weight).sum(), logp

    loss, gradient = scored(model, surrogate, build(ITEMS))
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert difference(gradient, expected_gradient) < 1e-11


def test_where_the_adapter_is_off_the_table_is_the_bases():
    model = adapted("llama", NEW_IDS).model
    speed_up(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name:
                parameter.add_(1.0)
        with adapter_on(switchable_layers(model), None):
            _, off = forest_score(model, build(ITEMS))
        _, on = forest_score(model, build(ITEMS))
    plain = adapted("llama").model
    with torch.no_grad(), adapter_on(switchable_layers(plain), None):
        _, base = forest_score(plain, build(ITEMS))
    torch.testing.assert_close(off, base, rtol=1e-12, atol=1e-12)
    assert float((on - base).abs().mean()) > 1  # in nats: rows that are 1 off say other words


def small_llama(tied: bool) -> t.LlamaConfig:
    return t.LlamaConfig(
        vocab_size=60_000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2_048,
        tie_word_embeddings=tied,
    )


def adapted_model(config: t.PreTrainedConfig, new_ids: list[int], dtype: torch.dtype = torch.float32) -> LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(config, dtype=dtype)
    loaded = add_adapter(LoadedModel(model, None), rank=8, alpha=16, new_token_ids=new_ids, seed=0)
    speed_up(loaded.model)
    prepare_training(loaded.model, activations="keep")
    return loaded


def peak_of_a_step(loaded: LoadedModel, num_tokens: int = 1_024) -> int:
    """Bytes that a forward and a backward over one sequence hold besides the model, with LoRA on all layers."""
    vocabulary = loaded.model.config.vocab_size
    ids = np.random.default_rng(0).integers(0, vocabulary, num_tokens).astype(np.int32)
    forest = build([Tokens(ids, np.concatenate([[0.0], np.ones(num_tokens - 1)]).astype(np.float32))])
    with HeldBytes() as held:
        loss, _ = forest_score(loaded.model, forest)
        loss.backward()
    assert gradient_of(loaded.model)
    return held.peak


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_cost_a_step_less_than_a_tenth_more_memory(tied):
    """The default for a base model, chatml with LoRA, beside alpaca with LoRA, which adds no tokens."""
    plain, with_rows = (peak_of_a_step(adapted_model(small_llama(tied), new)) for new in ([], [59_998, 59_999]))
    assert plain < 4 * 64 * 2**20, "logits are made in chunks of 64 MiB"
    assert with_rows < 1.1 * plain


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [32, 512])
def test_lora_on_gpt2_of_124m_in_bfloat16_holds_two_bytes_per_frozen_weight_and_no_more_for_new_tokens(num_tokens):
    found = {}
    for name, new_ids in (("alpaca", []), ("chatml", [50_257, 50_258])):
        loaded = adapted_model(t.GPT2Config(vocab_size=50_257 + len(new_ids)), new_ids, torch.bfloat16)
        frozen = [p for p in loaded.model.parameters() if not p.requires_grad]
        num_weights, num_bytes = sum(p.numel() for p in frozen), sum(p.numel() * p.element_size() for p in frozen)
        assert num_weights > 124e6
        assert num_bytes / num_weights == pytest.approx(2.0, abs=0.002), "norms and biases alone are float32"
        found[name] = num_bytes + peak_of_a_step(loaded, num_tokens)
        found[f"{name}'s step"] = found[name] - num_bytes
    assert found["chatml"] < 1.1 * found["alpaca"], found
    assert found["chatml's step"] < 1.1 * found["alpaca's step"], found

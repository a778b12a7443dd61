"""Dropout is off in every family, whatever way it drops, with checkpointing and without."""

from functools import partial

import pytest
import torch
import transformers as t
from torch import nn

from heed.models.load import prepare_training

COMMON = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BART_LIKE = COMMON | {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "dropout": 0.4,
    "attention_dropout": 0.4,
    "activation_dropout": 0.4,
    "decoder_layerdrop": 0.4,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
GPT2_LIKE = COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
PDROPS = {"resid_pdrop": 0.4, "embd_pdrop": 0.4, "attn_pdrop": 0.4}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

FAMILIES = {
    "opt": lambda: t.OPTConfig(
        **COMMON | SIZES, ffn_dim=48, word_embed_proj_dim=32, dropout=0.4, attention_dropout=0.4, layerdrop=0.4
    ),
    "biogpt": lambda: t.BioGptConfig(
        **COMMON | SIZES,
        intermediate_size=48,
        hidden_dropout_prob=0.4,
        attention_probs_dropout_prob=0.4,
        activation_dropout=0.4,
        layerdrop=0.4,
    ),
    "xglm": lambda: t.XGLMConfig(
        **COMMON,
        d_model=32,
        ffn_dim=48,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=64,
        dropout=0.4,
        attention_dropout=0.4,
        activation_dropout=0.4,
        layerdrop=0.4,
    ),
    "bart": lambda: t.BartConfig(**BART_LIKE),
    "mbart": lambda: t.MBartConfig(**BART_LIKE),
    "pegasus": lambda: t.PegasusConfig(**BART_LIKE),
    "blenderbot": lambda: t.BlenderbotConfig(**BART_LIKE),
    "gpt2": lambda: t.GPT2Config(**GPT2_LIKE, **PDROPS),
    "gpt-j": lambda: t.GPTJConfig(**GPT2_LIKE, rotary_dim=4, **PDROPS),
    "codegen": lambda: t.CodeGenConfig(**GPT2_LIKE, n_ctx=64, rotary_dim=4, **PDROPS),
    "gpt-neo": lambda: t.GPTNeoConfig(
        **COMMON,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        embed_dropout=0.4,
        resid_dropout=0.4,
        attention_dropout=0.4,
    ),
    "gpt-neox": lambda: t.GPTNeoXConfig(
        **COMMON | SIZES, intermediate_size=48, hidden_dropout=0.4, attention_dropout=0.4
    ),
    "bloom": lambda: t.BloomConfig(
        **COMMON, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.4, attention_dropout=0.4
    ),
    "falcon": lambda: t.FalconConfig(**COMMON | SIZES, hidden_dropout=0.4, attention_dropout=0.4),
    "phi": lambda: t.PhiConfig(**LLAMA_LIKE, resid_pdrop=0.4, embd_pdrop=0.4, attention_dropout=0.4),
    "phi3": lambda: t.Phi3Config(**LLAMA_LIKE, resid_pdrop=0.4, embd_pdrop=0.4, attention_dropout=0.4),
    "llama": lambda: t.LlamaConfig(**LLAMA_LIKE, attention_dropout=0.4),
    "stablelm": lambda: t.StableLmConfig(**LLAMA_LIKE, hidden_dropout=0.4, attention_dropout=0.4),
    "starcoder2": lambda: t.Starcoder2Config(
        **LLAMA_LIKE, residual_dropout=0.4, embedding_dropout=0.4, attention_dropout=0.4
    ),
    "persimmon": lambda: t.PersimmonConfig(**COMMON | SIZES, intermediate_size=48, hidden_dropout=0.4),
    "mixtral": lambda: t.MixtralConfig(**LLAMA_LIKE | MOE, router_jitter_noise=0.4, attention_dropout=0.4),
    "phimoe": lambda: t.PhimoeConfig(
        **LLAMA_LIKE | MOE, router_jitter_noise=0.4, input_jitter_noise=0.4, attention_dropout=0.4
    ),
}
"""families that drop, or add noise, in ways of their own, with every probability well above 0"""

IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))


def built(family: str) -> t.PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(FAMILIES[family]())


def logits_and_gradients(model: t.PreTrainedModel, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What the model says and learns, with a random state of its own."""
    model.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        logits = model(input_ids=IDS, use_cache=False).logits
        logits.square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_forwards_are_one_and_are_the_plain_models(family, checkpointing):
    plain = built(family).eval()
    logits, gradients = logits_and_gradients(plain, seed=1)
    model = built(family)
    prepare_training(model, activations="recompute" if checkpointing else "keep")
    for seed in (2, 3):
        found, learned = logits_and_gradients(model, seed)
        assert torch.equal(found, logits)
        assert learned.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(learned[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_module_keeps_a_probability_and_the_config_that_is_saved_keeps_its_own(family):
    model, before = built(family), FAMILIES[family]().to_dict()
    prepare_training(model, activations="keep")
    model.train()  # even where somebody puts it back
    for module in model.modules():
        assert not isinstance(module, nn.Dropout) or module.p == 0
        kept = {k: v for k, v in vars(module).items() if isinstance(v, float) and "drop" in k}
        assert not any(kept.values()), kept
    after = model.config.to_dict()
    assert {k: v for k, v in after.items() if "drop" in k} == {k: v for k, v in before.items() if "drop" in k}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", ["opt", "biogpt", "llama", "gpt2"])
def test_layers_are_still_recomputed(family):
    model = built(family)
    prepare_training(model, activations="recompute")
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    def saved(model: t.PreTrainedModel) -> int:
        nonlocal kept
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=IDS, use_cache=False)
        return kept

    assert saved(model) < 0.5 * saved(built(family).eval())


def test_what_drops_is_noticed_by_these_tests():
    dropping = partial(logits_and_gradients, built("opt").train())
    assert not torch.equal(dropping(2)[0], dropping(3)[0])

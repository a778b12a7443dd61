"""Tiny random models of many families, what is trained on them, and transformers' own loss and gradient of it.

Freshly initialised models hide mistakes: their logits are small and their multipliers 1. So weights are scaled up,
every norm and bias is moved off its start, multipliers are away from 1, soft-caps bite and windows are shorter than
the sequences.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import transformers as t
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heed.types import Forest, Tokens

VOCABULARY = 90
PADDING = 0
WINDOW = 7
LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 4.0],
    "original_max_position_embeddings": 24,
}


def like_llama(config: type, **settings: Any) -> Any:
    return config(**(LLAMA_LIKE | settings))


FOREST: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: t.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt2 scaled by layer": lambda: t.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True
    ),
    "llama": lambda: like_llama(t.LlamaConfig),
    "llama tied with biases": lambda: like_llama(
        t.LlamaConfig, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "mistral": lambda: like_llama(t.MistralConfig, sliding_window=None),
    "mistral with a window": lambda: like_llama(t.MistralConfig, sliding_window=WINDOW),
    "qwen2 with a window": lambda: like_llama(
        t.Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: like_llama(t.Qwen3Config, head_dim=16),
    "gemma2": lambda: like_llama(
        t.Gemma2Config,
        sliding_window=WINDOW,
        head_dim=8,
        query_pre_attn_scalar=5,
        final_logit_softcapping=1.0,
        attn_logit_softcapping=0.8,
    ),
    "gemma3": lambda: like_llama(
        t.Gemma3TextConfig, sliding_window=WINDOW, head_dim=8, query_pre_attn_scalar=5, num_hidden_layers=6
    ),
    "phi3 with a window": lambda: like_llama(t.Phi3Config, sliding_window=WINDOW, partial_rotary_factor=0.5),
    "smollm3": lambda: like_llama(t.SmolLM3Config, no_rope_layers=[1, 0, 1]),
    "olmo2": lambda: like_llama(t.Olmo2Config),
    "gpt-neox": lambda: t.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        rotary_pct=0.5,
        max_position_embeddings=128,
    ),
    "granite": lambda: like_llama(
        t.GraniteConfig, logits_scaling=3.0, embedding_multiplier=2.5, attention_multiplier=0.3, residual_multiplier=0.6
    ),
    "gpt-oss": lambda: like_llama(
        t.GptOssConfig,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        head_dim=8,
        experts_implementation="eager",  # its grouped products have no float64
    ),
    "cohere": lambda: like_llama(t.CohereConfig, logit_scale=0.4),
    "phi": lambda: like_llama(t.PhiConfig),
}
"""families that the forest serves, by name"""

FALLBACK: dict[str, Callable[[], Any]] = {
    "bloom": lambda: t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4),
    "mpt": lambda: t.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4, max_seq_len=128),
    "qwen3-next": lambda: like_llama(
        t.Qwen3NextConfig,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        experts_implementation="eager",
    ),
    "llama4": lambda: like_llama(
        t.Llama4TextConfig, attention_chunk_size=16, num_local_experts=2, intermediate_size_mlp=48, head_dim=8
    ),
    "phi3 with longrope": lambda: like_llama(
        t.Phi3Config, rope_parameters=LONGROPE, original_max_position_embeddings=24
    ),
}
"""families that must be refused the forest, by name"""


def tiny(family: str, attention: str | None = None, dtype: torch.dtype = torch.float64) -> t.PreTrainedModel:
    """The family's model, the same weights every time; a fresh one, with its own forwards."""
    config = (FOREST | FALLBACK)[family]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if parameter.dim() >= 2:
                    gain = 3.0 if name in ("lm_head.weight", "embed_out.weight") else 1.3
                    parameter.copy_(noise * gain / min(parameter.shape[-2:]) ** 0.5)
                else:
                    parameter.add_(0.3 * noise)
    return model


def branching_sequences(seed: int = 0) -> list[Tokens]:
    """Seven conversations' sequences that branch at several depths; several outgrow the window, one ends in another."""
    rng = np.random.default_rng(seed)
    preamble, question = rng.integers(3, VOCABULARY, 9), rng.integers(3, VOCABULARY, 6)
    question[2] = PADDING  # as a token like any other: a table's padding row learns from the head alone

    def with_weights(*parts: np.ndarray, trained_from: int, weight: float = 1.0) -> Tokens:
        ids = np.concatenate(parts).astype(np.int32)
        return Tokens(ids, np.where(np.arange(len(ids)) >= trained_from, weight, 0.0).astype(np.float32))

    answer, other = rng.integers(3, VOCABULARY, 12), rng.integers(3, VOCABULARY, 14)
    return [
        with_weights(preamble, question, answer, trained_from=15),
        with_weights(preamble, question, other, trained_from=15, weight=2.0),
        with_weights(preamble, question, answer[:5], rng.integers(3, VOCABULARY, 4), trained_from=15, weight=0.5),
        with_weights(preamble, question, answer[:5], trained_from=17),  # ends inside the first
        with_weights(preamble, rng.integers(3, VOCABULARY, 11), trained_from=12),
        with_weights(rng.integers(3, VOCABULARY, 8), trained_from=1, weight=0.25),
        with_weights(rng.integers(3, VOCABULARY, 33), trained_from=20),
    ]


class CastsToFloat64(TorchFunctionMode):
    """Families cast norms, softmaxes and rotations to float32 inside, which would hide differences below 1e-7.

    Under this mode those casts go to float64, on whichever path runs under it, and nothing else changes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.to or func is torch.nn.functional.softmax:
            args = tuple(torch.float64 if x is torch.float32 else x for x in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def casts_in(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return CastsToFloat64() if dtype == torch.float64 else nullcontext()


Gradient = dict[str, Tensor]


def gradient_of(model: t.PreTrainedModel) -> Gradient:
    return {name: p.grad.detach().double() for name, p in model.named_parameters() if p.grad is not None}


def reference(family: str, items: Sequence[Tokens], dtype: torch.dtype = torch.float64) -> tuple[float, Gradient]:
    """Weighted sum of token NLLs and its gradient by transformers' own eager forward, one sequence at a time."""
    model = tiny(family, attention="eager", dtype=dtype)
    total = 0.0
    for each in items:
        ids = torch.tensor(each.ids.tolist())
        with casts_in(dtype):
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            labels = torch.where(torch.tensor(each.weight.tolist()) != 0, ids, -100)
            nll = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="none")
            loss = (nll * torch.tensor(each.weight.tolist(), dtype=nll.dtype)[1:]).sum()
        loss.backward()
        total += loss.item()
    return total, gradient_of(model)


def scored(model: t.PreTrainedModel, score: Callable[..., Any], forest: Forest, **how: Any) -> tuple[float, Gradient]:
    """Loss and gradient by one of heed's ways."""
    model.zero_grad(set_to_none=True)
    with casts_in(model.dtype):
        loss, _ = score(model, forest, **how)
        loss.backward()  # under the casts too: activations may be recomputed in it
    return loss.item(), gradient_of(model)


def difference(actual: Gradient, expected: Gradient) -> float:
    """Largest relative difference of any parameter's gradient, of its largest entry or a thousandth of the largest.

    Some gradients are 0 in exact arithmetic (a bias of keys moves no softmax) and hold nothing but rounding.
    """
    assert actual.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    return max(
        float((actual[name] - g).abs().max()) / max(float(g.abs().max()), 1e-3 * largest)
        for name, g in expected.items()
    )

"""Models of every family that is exported, tiny, with real tokenizers, in folders as a user has them."""

from pathlib import Path

import torch
import transformers as t

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.1}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
CONFIGS = {
    "llama tied": lambda v: t.LlamaConfig(vocab_size=v, tie_word_embeddings=True, **LLAMA),
    "llama untied": lambda v: t.LlamaConfig(vocab_size=v, tie_word_embeddings=False, **LLAMA),
    "llama biased": lambda v: t.LlamaConfig(vocab_size=v, attention_bias=True, mlp_bias=True, **LLAMA),
    "llama wide heads": lambda v: t.LlamaConfig(vocab_size=v, head_dim=32, **LLAMA),
    "llama 3 positions": lambda v: t.LlamaConfig(vocab_size=v, rope_parameters=LLAMA3, **LLAMA),
    "linear positions": lambda v: t.LlamaConfig(vocab_size=v, rope_parameters=LINEAR, **LLAMA),
    "mistral": lambda v: t.MistralConfig(vocab_size=v, sliding_window=None, **LLAMA),
    "qwen2": lambda v: t.Qwen2Config(vocab_size=v, tie_word_embeddings=True, **LLAMA),
    "qwen3": lambda v: t.Qwen3Config(vocab_size=v, head_dim=16, **LLAMA),
    "qwen3 wide heads": lambda v: t.Qwen3Config(vocab_size=v, head_dim=128, **LLAMA),
    "gpt2 tied": lambda v: t.GPT2Config(vocab_size=v, n_embd=64, n_layer=2, n_head=4, n_positions=128),
    "gpt2 untied": lambda v: t.GPT2Config(
        vocab_size=v, n_embd=64, n_layer=2, n_head=4, n_positions=128, n_inner=96, tie_word_embeddings=False
    ),
}


def write_model(folder: Path, config, tokenizer, *, spare_rows: int = 0) -> Path:
    """A random model of this shape whose biases and norms are random, too, beside its tokenizer."""
    torch.manual_seed(0)
    made = config(len(tokenizer) + spare_rows) if callable(config) else config
    made.eos_token_id, made.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    model = t.AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

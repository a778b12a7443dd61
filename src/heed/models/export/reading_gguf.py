"""Read a GGUF file back into a model of transformers, by tables that share nothing with those it was written by."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from heed.models.export.differs import differs

LLAMA_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_PARTS = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
LLAMA_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
GPT2_WHOLE = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
ROPE_FACTORS = "rope_freqs.weight"
"""no weight: what rotary frequencies are divided by"""
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gpt2": GPT2Config}


@dataclass(frozen=True, eq=False)
class Opened:
    """A GGUF file, its tensors still on the disk."""

    path: Path
    fields: Mapping[str, Any]
    stored: Mapping[str, gguf.ReaderTensor]
    pages: mmap.mmap
    """the file in memory, as far as it was read"""

    @property
    def arch(self) -> str:
        """`general.architecture`."""
        return str(self.fields["general.architecture"])

    def size(self, key: str) -> Any:
        """A number of the architecture, such as `block_count`."""
        return self.fields[f"{self.arch}.{key}"]

    def plain(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, in the file's own layout."""
        tensor = self.stored[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)


def open_gguf(path: Path) -> Opened:
    """Open a file.

    Raises:
        UserError: it is not GGUF, or ends too early.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: entry.contents() for name, entry in reader.fields.items()}
        stored = {tensor.name: tensor for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError, OverflowError) as error:
        raise differs(
            "the file cannot be read", path, " ".join(str(error).split())[:200], "a whole GGUF file"
        ) from error
    return Opened(path, fields, stored, reader.data._mmap)  # type: ignore[attr-defined]


def weights_of(file: Opened) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Every weight: its name in the file, its name in transformers, and its value in transformers' layout."""
    for name in file.stored:
        if name == ROPE_FACTORS:
            continue
        yield name, _name_in_transformers(file, name), torch.from_numpy(_as_in_transformers(file, name))
        if hasattr(mmap, "MADV_DONTNEED"):
            file.pages.madvise(mmap.MADV_DONTNEED)  # or the whole file would come to lie beside the model


def _name_in_transformers(file: Opened, name: str) -> str:
    is_gpt2 = file.arch == "gpt2"
    stem, _, kind = name.rpartition(".")
    if of_layer := re.fullmatch(r"blk\.(\d+)\.(\w+)", stem):
        part = (GPT2_PARTS if is_gpt2 else LLAMA_PARTS).get(of_layer[2])
        before = f"transformer.h.{of_layer[1]}" if is_gpt2 else f"model.layers.{of_layer[1]}"
        full = part and f"{before}.{part}"
    else:
        full = (GPT2_WHOLE if is_gpt2 else LLAMA_WHOLE).get(stem)
    if not full:
        raise differs("a tensor without a place in it", file.path, name, f"the tensors of {file.arch}")
    return f"{full}.{kind}"


def _as_in_transformers(file: Opened, name: str) -> NDArray[np.float32]:
    weight = file.plain(name)
    if file.arch == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", name):
        weight = weight.T
    if file.arch == "llama" and (part := re.search(r"attn_([qk])\.", name)):
        heads = int(file.size("attention.head_count" if part[1] == "q" else "attention.head_count_kv"))
        weight = weight[_half_rows(heads, weight.shape[0] // heads)]
    return np.array(weight, order="C")  # a copy: the file may be removed


def _half_rows(heads: int, size: int) -> NDArray[np.int64]:
    """For each row of transformers' layout, where the file has it: coordinate i < size / 2 is at 2 i, i + size / 2
    beside it."""
    within = [2 * (row % (size // 2)) + row // (size // 2) for row in range(size)]
    return np.array([head * size + row for head in range(heads) for row in within], dtype=np.int64)


def config_of(file: Opened) -> PreTrainedConfig:
    """The config of the model that the file describes."""
    common = {
        "vocab_size": len(file.fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in file.stored,
        "bos_token_id": file.fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": None,
    }
    if file.arch == "gpt2":
        return GPT2Config(
            n_embd=file.size("embedding_length"),
            n_layer=file.size("block_count"),
            n_head=file.size("attention.head_count"),
            n_inner=file.size("feed_forward_length"),
            n_positions=file.size("context_length"),
            layer_norm_epsilon=file.size("attention.layer_norm_epsilon"),
            **common,
        )
    rope = {"rope_type": "default", "rope_theta": file.size("rope.freq_base")}
    if file.fields.get(f"{file.arch}.rope.scaling.type") == "linear":
        rope |= {"rope_type": "linear", "factor": file.size("rope.scaling.factor")}
    more = {"attention_bias": "blk.0.attn_q.bias" in file.stored, "mlp_bias": "blk.0.ffn_up.bias" in file.stored}
    return CONFIGS[file.arch](
        hidden_size=file.size("embedding_length"),
        intermediate_size=file.size("feed_forward_length"),
        num_hidden_layers=file.size("block_count"),
        num_attention_heads=file.size("attention.head_count"),
        num_key_value_heads=file.size("attention.head_count_kv"),
        head_dim=file.size("attention.key_length"),
        max_position_embeddings=file.size("context_length"),
        rms_norm_eps=file.size("attention.layer_norm_rms_epsilon"),
        rope_parameters=rope,
        **(more if file.arch == "llama" else {}),
        **common,
    )


def model_of(file: Opened) -> PreTrainedModel:
    """The model that the file holds, in float32 on the CPU.

    Raises:
        UserError: a weight is missing, is one too many, or has another shape than the sizes say.
    """
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config_of(file), dtype=torch.float32)
    head = next(f"{name}.weight" for name, module in model.named_modules() if module is model.get_output_embeddings())
    places = model.state_dict()  # the model's own tensors, to be filled one by one
    expected = set(places) - ({head} if model.config.tie_word_embeddings else set())
    read, unknown = set(), []
    for stored, name, weight in weights_of(file):
        if name not in places:
            unknown.append(name)
            continue
        if places[name].shape != weight.shape:
            found = f"{stored}: {tuple(weight.shape)}"
            raise differs("its sizes are others", file.path, found, f"{tuple(places[name].shape)}, as its metadata say")
        places[name].copy_(weight)
        read.add(name)
    missing = sorted(expected - read)
    if missing or unknown:
        found = f"missing: {', '.join(missing[:3]) or 'none'}; unknown: {', '.join(unknown[:3]) or 'none'}"
        raise differs("it has other tensors", file.path, found, "every tensor of the architecture, once")
    model.tie_weights()
    if ROPE_FACTORS in file.stored:
        factors = torch.from_numpy(file.plain(ROPE_FACTORS).copy())
        model.model.rotary_emb.inv_freq /= factors
    return model.eval()

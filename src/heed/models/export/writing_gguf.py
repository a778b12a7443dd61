"""Write a model and its tokenizer as one GGUF file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Keys, tensor names and block formats are those of the
official `gguf` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heed.errors import UserError
from heed.models.export.families import Family, rope_of
from heed.models.export.vocabulary import Vocabulary

Dtype = Literal["f32", "f16", "q8_0"]
"""float32; float16 (11 bits); blocks of 32 whole numbers of 8 bits with one float16 step between them"""
DTYPES: dict[str, Dtype] = {"f32": "f32", "f16": "f16", "q8_0": "q8_0"}
BLOCK = 32
"""weights in a block of q8_0"""
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
ALWAYS_F32 = ("position_embd.weight", "rope_freqs.weight")
"""tables that llama.cpp adds to numbers in float32, whatever the matrices are kept in"""


def write_gguf(
    path: Path, model: PreTrainedModel, vocabulary: Vocabulary, family: Family, dtype: Dtype, *, name: str
) -> list[str]:
    """Write the file; return the names of matrices that could not be kept in `dtype` and are float16.

    Args:
        name: `general.name`, which programs show.

    Raises:
        UserError: a weight is no number, or too large for the dtype.
    """
    writer = gguf.GGUFWriter(path, family.arch)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, model, family)
    _add_vocabulary(writer, vocabulary)
    wider = []
    for tensor_name, weight in tensors(model, family):
        kind = _kind(tensor_name, weight.shape, dtype)
        if kind is gguf.GGMLQuantizationType.F16 and dtype == "q8_0":
            wider.append(tensor_name)
        in_block, size = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(tensor_name, weight.shape, weight.dtype, weight.size // in_block * size, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor_name, weight in tensors(model, family):  # again, so that one copy at a time is there
            writer.write_tensor_data(_stored(tensor_name, weight, dtype))
    finally:
        writer.close()
    return wider


def tensors(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every weight of the model by its name in the file, laid out as llama.cpp multiplies it.

    A head that is tied to the embeddings is left out: llama.cpp then takes the embeddings.
    """
    names = gguf.get_tensor_name_map(_arch(family), model.config.num_hidden_layers)
    transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = model.config.tie_word_embeddings and torch.equal(inner.weight, outer.weight)
    head = next(f"{name}.weight" for name, module in model.named_modules() if module is outer)
    for key, parameter in model.named_parameters(remove_duplicate=False):
        if is_tied and key == head:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise AssertionError(f"no name in {family.arch} for the weight {key}")
        weight = parameter.detach().float().cpu()
        if key in transposed:
            weight = weight.T
        if family.rotates_pairs and ".self_attn." in key and key.split(".")[-2] in ("q_proj", "k_proj"):
            config = model.config
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            weight = _neighbours(weight, heads)
        yield name, np.ascontiguousarray(weight.numpy())
    if rope_of(model.config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(model)


def _neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows (or a bias) of queries or keys, so that the two coordinates that turn together lie side by side."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _llama3_factors(model: PreTrainedModel) -> NDArray[np.float32]:
    """What llama.cpp divides each rotary frequency by: (head size / 2,)."""
    base = float(rope_of(model.config)["rope_theta"])
    frequencies = model.model.rotary_emb.inv_freq.double().cpu()
    size = 2 * len(frequencies)
    unscaled = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    return (unscaled / frequencies).float().numpy()


def _kind(name: str, shape: Sequence[int], dtype: Dtype) -> gguf.GGMLQuantizationType:
    """What a weight is kept in: vectors stay float32, and rows that are no whole blocks are float16."""
    kinds = gguf.GGMLQuantizationType
    if len(shape) < 2 or dtype == "f32" or name in ALWAYS_F32:
        return kinds.F32
    return kinds.Q8_0 if dtype == "q8_0" and shape[-1] % BLOCK == 0 else kinds.F16


def _stored(name: str, weight: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """A weight as it lies in the file."""
    if not np.isfinite(weight).all():
        raise _unfit(name, "a weight that is no number", "finite weights", "train again with a lower --optim.lr")
    kind = _kind(name, weight.shape, dtype)
    if kind is gguf.GGMLQuantizationType.F32:
        return weight
    if kind is gguf.GGMLQuantizationType.Q8_0:
        largest = float(np.abs(weight).max(initial=0.0))
        if largest / 127 > float(np.finfo(np.float16).max):
            raise _unfit(
                name, f"a weight of {largest:.3g}", "at most 127 x 65,504, the largest step of q8_0", "--dtype f32"
            )
        blocks: NDArray[np.uint8] = gguf.quants.quantize(weight, kind)
        return blocks
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    if not np.isfinite(half).all():
        largest = float(np.abs(weight).max())
        raise _unfit(name, f"a weight of {largest:.3g}", "at most 65,504, the largest number of float16", "--dtype f32")
    return half


def _unfit(name: str, found: str, expected: str, fix: str) -> UserError:
    return UserError("a weight does not fit the file's dtype", where=name, found=found, expected=expected, fix=fix)


def _arch(family: Family) -> gguf.MODEL_ARCH:
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)


def _add_sizes(writer: gguf.GGUFWriter, model: PreTrainedModel, family: Family) -> None:
    """What the architecture needs to know of the model's shape."""
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(int(model.get_input_embeddings().weight.shape[0]))
    if family.arch == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    rope = rope_of(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Tokens, how text becomes them, and the chat templates."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.adds_space)
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
    for add, token_id in (
        (writer.add_bos_token_id, vocabulary.bos_id),
        (writer.add_eos_token_id, vocabulary.eos_id),
        (writer.add_eot_token_id, vocabulary.eot_id),
        (writer.add_unk_token_id, vocabulary.unknown_id),
        (writer.add_pad_token_id, vocabulary.padding_id),
    ):
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    if vocabulary.templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in vocabulary.templates.items()])

"""Hold what a GGUF file says besides its tensors against what it was to say: every entry, and no other one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from heed.models.export.differs import differs
from heed.models.export.families import Family, rope_of
from heed.models.export.reading_gguf import Opened
from heed.models.export.vocabulary import Vocabulary

FILE_TYPE = {"f32": 0, "f16": 1, "q8_0": 7}
"""`general.file_type`, ggml's number of the kind that most weights have"""
QUANTIZATION_VERSION = 2
OF_FORMAT = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
"""what a file says of itself, whatever it holds"""


def compare_fields(
    file: Opened, model: PreTrainedModel, vocabulary: Vocabulary, family: Family, dtype: str, name: str
) -> None:
    """Sizes of the model, tokens with their types and scores or merges, special tokens, templates, and names.

    Raises:
        UserError: an entry is another than it was to be, is missing, or is one that nobody asked for.
    """
    wanted = {
        **_general(family, dtype, name),
        **{f"{family.arch}.{key}": value for key, value in _sizes(model, family).items()},
        **_vocabulary(vocabulary),
    }
    wanted = {key: value for key, value in wanted.items() if value is not None}
    for key in dict.fromkeys([*wanted, *file.fields]):
        if key not in OF_FORMAT:
            _compare(file, key, file.fields.get(key), wanted.get(key))


def _compare(file: Opened, key: str, found: Any, expected: Any) -> None:
    if key == "tokenizer.chat_templates" and isinstance(found, list) and isinstance(expected, list):
        found, expected = sorted(found), sorted(expected)  # names, which are in no order
    if found == expected and type(found) is type(expected):
        return
    if isinstance(expected, list) and isinstance(found, list):
        place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        found, expected = _at(found, place), _at(expected, place)
        key = f"{key}, number {place:,}"
    told = ["no such entry" if each is None else repr(each)[:200] for each in (found, expected)]
    raise differs(f"{key} is another", file.path, *told)


def _at(values: Sequence[object], place: int) -> object:
    return values[place] if place < len(values) else f"an end after {len(values):,}"


def _general(family: Family, dtype: str, name: str) -> dict[str, object]:
    return {
        "general.architecture": family.arch,
        "general.name": name or None,
        "general.file_type": FILE_TYPE[dtype],
        "general.quantization_version": QUANTIZATION_VERSION if dtype == "q8_0" else None,
    }


def _sizes(model: PreTrainedModel, family: Family) -> dict[str, object]:
    """What llama.cpp is told of the model's shape; None is left out."""
    config = model.config
    common = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "vocab_size": model.get_input_embeddings().weight.shape[0],
    }
    if family.arch == "gpt2":
        inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        return {**common, "feed_forward_length": inner, "attention.layer_norm_epsilon": _f32(config.layer_norm_epsilon)}
    rope = rope_of(config)
    is_linear = rope.get("rope_type") == "linear"
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        **common,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": _f32(config.rms_norm_eps),
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        "rope.freq_base": _f32(rope.get("rope_theta", 10_000.0)),
        "rope.scaling.type": "linear" if is_linear else None,
        "rope.scaling.factor": _f32(rope["factor"]) if is_linear else None,
    }


def _vocabulary(vocabulary: Vocabulary) -> Mapping[str, object]:
    """The entries `tokenizer.*`; None is left out."""
    by_scores = vocabulary.scores is not None
    ggml = {
        "model": vocabulary.model,
        "pre": vocabulary.pre,
        "tokens": list(vocabulary.tokens),
        "token_type": list(vocabulary.types),
        "merges": None if vocabulary.merges is None else list(vocabulary.merges),
        "scores": [_f32(score) for score in vocabulary.scores or []] if by_scores else None,
        "add_space_prefix": vocabulary.adds_space if by_scores else None,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "eot_token_id": vocabulary.eot_id,
        "unknown_token_id": vocabulary.unknown_id,
        "padding_token_id": vocabulary.padding_id,
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": vocabulary.adds_eos,
    }
    named = {re.sub("[^A-Za-z0-9]", "_", name): text for name, text in vocabulary.templates.items() if text}
    default = named.pop("default", None)
    return {
        **{f"tokenizer.ggml.{key}": value for key, value in ggml.items()},
        "tokenizer.chat_template": default,
        "tokenizer.chat_templates": list(named) or None,
        **{f"tokenizer.chat_template.{name}": text for name, text in named.items()},
    }


def _f32(value: float) -> float:
    """As the file has it."""
    return float(np.float32(value))

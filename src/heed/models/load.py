"""Open a model folder or hub name, and write one that plain transformers reads back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from heed.errors import UserError

transformers_logging.disable_progress_bar()  # heed shows one of its own
transformers_logging.set_verbosity_error()


SavedTokenizer = PreTrainedTokenizerBase
"""a tokenizer as transformers reads and writes it"""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on its device with its tokenizer. An adapter's layers, if any, are inside `model`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: PeftModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.device

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that learn, each once, by name."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device by its setting: `auto` is the GPU of this process where there is one."""
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "there is no GPU that PyTorch can use",
            where="--device",
            found=name,
            expected="auto or cpu on this machine",
            fix="--device auto",
        )
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name; it must be a fast one, whose offsets the mask needs."""
    tokenizer: PreTrainedTokenizerBase = _opened(name, lambda: AutoTokenizer.from_pretrained(name), "tokenizer")
    if not tokenizer.is_fast:
        raise UserError(
            "this tokenizer cannot tell where its tokens lie in the text",
            where=name,
            found=f"{type(tokenizer).__name__}, without a tokenizer.json",
            expected="a tokenizer.json, from which the training mask is read off",
            fix="convert it once: AutoTokenizer.from_pretrained(MODEL, use_fast=True).save_pretrained(FOLDER)",
        )
    return tokenizer


@dataclass(frozen=True, eq=False)
class TokenizerFacts:
    """What the text side needs of a tokenizer, without transformers."""

    backend: tokenizers.Tokenizer
    variables: dict[str, str]
    """its named special tokens, such as `bos_token`"""
    special_tokens: frozenset[str]
    adds_bos: bool | None
    """whether encoding puts BOS first; None where the tokenizer's own post-processor tells"""
    templates: dict[str, str]
    """chat templates by name; a single one is called `default`"""


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> TokenizerFacts:
    """Read a transformers tokenizer."""
    named = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    template = tokenizer.chat_template
    return TokenizerFacts(
        tokenizer.backend_tokenizer,
        named,
        frozenset(str(token) for token in tokenizer.all_special_tokens),
        tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else False,
        dict(template) if isinstance(template, dict) else {"default": template} if template else {},
    )


def load_model(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal language model of a folder or hub name. An adapter's folder gives its base with the adapter merged."""
    if is_adapter(name):
        adapter = load_adapter(name, device, dtype)
        model: PreTrainedModel = adapter.merge_and_unload()
    else:
        model = _opened(name, lambda: AutoModelForCausalLM.from_pretrained(name, dtype=dtype), "model")
    return model.to(device).eval()


def load_adapter(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, base: str | None = None
) -> PeftModel:
    """An adapter on its base model; `base` replaces the one that the adapter names."""
    config = _opened(name, lambda: PeftConfig.from_pretrained(name), "adapter")
    base = base or str(config.base_model_name_or_path)
    inner = _opened(base, lambda: AutoModelForCausalLM.from_pretrained(base, dtype=dtype), "base model of the adapter")
    return _opened(name, lambda: PeftModel.from_pretrained(inner.to(device), name).eval(), "adapter")


def is_adapter(name: str) -> bool:
    """Whether the folder holds an adapter and not a model of its own."""
    return (Path(name) / "adapter_config.json").is_file()


def num_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence the model has positions for, or None where there is no limit."""
    config = model.config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(value := getattr(config, key, None), int) and value > 0:
            return value
    return None


def add_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], seed: int
) -> list[int]:
    """Add special tokens with embeddings near the mean of those that are there; return the ids of the new ones.

    A new row is mean + 0.1 * standard deviation * noise, coordinate by coordinate: close enough to the known tokens for
    the model to take it in its stride, and different for each token.
    """
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    if not new:
        return []
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    ids: list[int] = tokenizer.convert_tokens_to_ids(new)
    num_before = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_before:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    layers = {id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for layer in layers.values():
            known_rows = layer.weight[: min(ids)].float()
            noise = torch.randn(len(ids), known_rows.shape[1], generator=generator).to(known_rows)
            layer.weight[ids] = (known_rows.mean(0) + 0.1 * known_rows.std(0) * noise).to(layer.weight.dtype)
            if getattr(layer, "bias", None) is not None:
                layer.bias[ids] = layer.bias[: min(ids)].mean()
    return ids


def prepare_training(model: PreTrainedModel, *, gradient_checkpointing: bool) -> None:
    """Dropout off, so that a token has one hidden state in whatever sequences it is shared by; checkpointing if asked.

    Transformers recomputes a layer's activations only while that layer is in training mode, so the layers that can
    be recomputed are put in it and everything inside them is not.
    """
    model.eval()
    if not gradient_checkpointing:
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def save(loaded: LoadedModel, folder: Path, *, template: dict[str, str] | str, stop_tokens: Sequence[str]) -> None:
    """Write the model so that plain transformers loads it, renders chats with it and stops where it was taught to.

    Args:
        folder: an existing empty folder.
        template: chat template that the model was tuned with; several by name where the family has several.
        stop_tokens: tokens that end a response; they become the generation config's `eos_token_id`.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    stop_ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in stop_tokens]
    generation = model.generation_config
    if generation is not None:
        generation.eos_token_id = stop_ids if len(stop_ids) > 1 else stop_ids[0]
        if generation.pad_token_id is None:
            generation.pad_token_id = stop_ids[0]
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if loaded.adapter is None:
        model.save_pretrained(folder)
        return
    loaded.adapter.save_pretrained(folder)
    if generation is not None:
        generation.save_pretrained(folder)


def _opened(name: str, opening: Any, what: str) -> Any:
    """Call `opening`, and turn what transformers says of a wrong name into an error with a way out."""
    try:
        return opening()
    except (OSError, ValueError, KeyError) as error:
        is_folder = Path(name).is_dir()
        found = "a folder with " + (", ".join(sorted(p.name for p in Path(name).iterdir())[:8]) or "nothing in it")
        raise UserError(
            f"the {what} cannot be loaded",
            where=name,
            found=f"{found}; {str(error).splitlines()[0]}" if is_folder else str(error).splitlines()[0],
            expected="a folder with a Hugging Face model (config.json, weights, tokenizer.json), or a hub name",
            fix="check the path; without a network, download the model once elsewhere and give its folder",
        ) from error


def restore(loaded: LoadedModel, folder: Path) -> None:
    """Put the trained weights that `save` wrote back into the model, bit for bit."""
    if loaded.adapter is not None:
        set_peft_model_state_dict(loaded.adapter, load_peft_weights(str(folder), device=str(loaded.device)))
        return
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=loaded.model.dtype)
    loaded.model.load_state_dict(saved.state_dict())

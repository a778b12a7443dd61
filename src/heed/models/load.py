"""Open a model folder or hub name, and write one that plain transformers reads back."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from heed.errors import UserError
from heed.models.adapters.switch import State, Switchable, adapters_as, state_of, switchable_layers
from heed.models.attention.forest_attention import attention_named
from heed.models.dropout import dropout_off, recompute_in_evaluation
from heed.models.stops import stop_ids

transformers_logging.disable_progress_bar()  # heed shows one of its own
transformers_logging.set_verbosity_error()

GENERATION = "generation_config.json"
OWN_BASE = "base"
"""folder in a run with an adapter that holds the base where the original alone would not do"""

# Settings that greedy decoding, or decoding with one beam, does not look at; saving refuses to write them.
ONLY_SAMPLED = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
ONLY_BEAMS = ("early_stopping", "length_penalty")


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

    @property
    def width(self) -> int:
        """Numbers in a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

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
    tokenizer: PreTrainedTokenizerBase = opened(name, lambda: AutoTokenizer.from_pretrained(name), "tokenizer")
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
        model: PreTrainedModel = load_adapter(name, device, dtype).merge_and_unload()
        model.name_or_path = name  # what is tuned from here on stands on the merged model, not on the base
    else:
        model = opened(name, lambda: AutoModelForCausalLM.from_pretrained(name, dtype=dtype), "model")
    return model.to(device).eval()


def load_adapter(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, base: str | None = None
) -> PeftModel:
    """An adapter on its base model, which stops where the adapter was taught to; `base` replaces the base it names."""
    base = base or base_of(name)
    found = opened(base, lambda: AutoModelForCausalLM.from_pretrained(base, dtype=dtype), "base model of the adapter")
    inner: PreTrainedModel = found.to(device)
    try:
        with peft_warnings_hidden():
            adapter = opened(name, lambda: PeftModel.from_pretrained(inner, name).eval(), "adapter")
    except (RuntimeError, IndexError) as error:
        raise UserError(
            "the adapter does not fit this base model",
            where=f"{name}, on {base}",
            found=" ".join(str(error).split())[:200],
            expected="the base model that the adapter was trained on, with the tokens that were added to it",
            fix="--base FOLDER names another one; left out, the one that the adapter names is taken",
        ) from error
    if (Path(name) / GENERATION).is_file():
        inner.generation_config = GenerationConfig.from_pretrained(name)
    return adapter


def base_of(name: str) -> str:
    """The folder or hub name of an adapter's base.

    A base that the run keeps is found beside the adapter, or beside the checkpoints that the adapter is one of, even
    after the run's folder was moved.
    """
    folder = Path(name)
    if (folder / OWN_BASE / "config.json").is_file():
        return str(folder / OWN_BASE)
    named = str(opened(name, lambda: PeftConfig.from_pretrained(name), "adapter").base_model_name_or_path)
    of_run = folder.absolute().parents[1] / OWN_BASE if len(folder.absolute().parents) > 1 else folder
    if Path(named).name == OWN_BASE and not Path(named).is_dir() and (of_run / "config.json").is_file():
        return str(of_run)
    return named


@contextmanager
def peft_warnings_hidden() -> Iterator[None]:
    """Hide what peft calls in transformers although it is going away; users can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def is_adapter(name: str) -> bool:
    """Whether the folder holds an adapter and not a model of its own."""
    return (Path(name) / "adapter_config.json").is_file()


def stored_dtype(name: str) -> torch.dtype:
    """The dtype that a model's weights are stored in; float32 where its config does not say."""
    dtype: torch.dtype | None = opened(name, lambda: AutoConfig.from_pretrained(name), "model").dtype
    return dtype or torch.float32


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
    # A vocabulary padded for speed has rows to spare, and then nothing grows.
    if max(ids) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
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

    See `heed.models.dropout`.
    """
    dropout_off(model)
    if not gradient_checkpointing:
        return

    def as_in_the_forward() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Recompute, in the backward, with what the forward ran with: by then the model has its own back."""
        layers = switchable_layers(model)
        name = model.config._attn_implementation_internal
        return nullcontext(), _recomputed(model, name, layers, state_of(layers))

    # Newer releases of transformers warn of the older name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": as_in_the_forward})
    recompute_in_evaluation(model)


@contextmanager
def _recomputed(model: PreTrainedModel, attention: str, layers: Sequence[Switchable], state: State) -> Iterator[None]:
    """The attention and the adapters that a forward ran with."""
    with attention_named(model, attention), adapters_as(layers, state):
        yield


def save(loaded: LoadedModel, folder: Path, *, template: dict[str, str] | str, stop_tokens: Sequence[str]) -> None:
    """Write the model so that plain transformers loads it, renders chats with it and stops where it was taught to.

    Args:
        folder: an existing empty folder.
        template: chat template that the model was tuned with; several by name where the family has several.
        stop_tokens: tokens that end a response; joined with the checkpoint's own they become the generation config's
            `eos_token_id`.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    generation = set_stops(model, tokenizer, stop_tokens)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if loaded.adapter is None:
        model.save_pretrained(folder)
        return
    # Rows of new tokens are in the adapter already; left to itself, peft asks the hub for the size of the vocabulary.
    loaded.adapter.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=["default"])
    generation.save_pretrained(folder)


def set_stops(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]
) -> GenerationConfig:
    """Let the model's generation config stop at these tokens too, pad if it could not, and be fit to be saved."""
    stops = stop_ids(model, tokenizer, stop_tokens)
    generation: GenerationConfig = model.generation_config
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    if generation.pad_token_id is None:
        generation.pad_token_id = stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if generation.do_sample is not True:
        _unset(generation, ONLY_SAMPLED)
    if (generation.num_beams or 1) == 1:
        _unset(generation, ONLY_BEAMS)
    return generation


def _unset(generation: GenerationConfig, names: Sequence[str]) -> None:
    for name in names:
        setattr(generation, name, None)


def opened(name: str, opening: Any, what: str) -> Any:
    """Call `opening`, and turn what transformers says of a wrong name into an error with a way out."""
    try:
        return opening()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        says = str(error).splitlines()[0] if str(error) else type(error).__name__
        if Path(name).is_dir():
            names = sorted(path.name for path in Path(name).iterdir())
            says = f"a folder with {', '.join(names[:8]) or 'nothing in it'}; {says}"
        raise UserError(
            f"the {what} cannot be loaded",
            where=name,
            found=says,
            expected="a folder with a Hugging Face model (config.json, weights, tokenizer.json), or a hub name",
            fix="check the path; without a network, download the model once elsewhere and give its folder",
        ) from error


def restore(loaded: LoadedModel, folder: Path) -> None:
    """Put the trained weights that `save` wrote back into the model, bit for bit."""
    if loaded.adapter is None:
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=loaded.model.dtype)
        loaded.model.load_state_dict(saved.state_dict())
        return
    weights = load_peft_weights(str(folder), device=str(loaded.device))
    ours = get_peft_model_state_dict(loaded.adapter, save_embedding_layers=False)
    if differing := weights.keys() ^ ours.keys():
        # peft would leave out what it does not find, and the run would go on from random weights.
        raise ValueError(f"the adapter in {folder} has other weights than the one that is trained: {min(differing)}")
    set_peft_model_state_dict(loaded.adapter, weights)

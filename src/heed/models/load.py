"""Open a model folder or hub name, and write one that plain transformers reads back."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from heed.allocator import freed_at_once
from heed.dist.divided import is_shard, put
from heed.errors import UserError
from heed.memory_config import Activations
from heed.models.adapters.folder import base_of, is_adapter, load_adapter, read_adapter_weights
from heed.models.dropout import dropout_off, nothing_around, recompute_in_evaluation
from heed.models.intake.access import CAREFUL, Access, peft_warnings_hidden, quiet_transformers
from heed.models.intake.files import TOKENIZER_FILES, code_of, file_of, opened
from heed.models.intake.quantise import layers_of_note, told, write_note
from heed.models.intake.vocabulary import fit_vocabulary, num_rows
from heed.models.intake.weights import load_weights
from heed.models.pieces import opened_in_pieces, settle_on, value_of
from heed.models.recompute import contexts_of, inputs_on_cpu
from heed.models.stops import stop_ids
from heed.models.writing import write

# Settings that greedy decoding, or decoding with one beam, does not look at; saving refuses to write them.
ONLY_SAMPLED = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
ONLY_BEAMS = ("early_stopping", "length_penalty")


SavedTokenizer = PreTrainedTokenizerBase
"""a tokenizer as transformers reads and writes it"""
SavedModel = PreTrainedModel
"""a model as transformers reads and writes it"""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on its device with its tokenizer. An adapter's layers, if any, are inside `model`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: PeftModel | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

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
    if name == "mps":
        raise UserError(
            "heed does not compute on Apple's GPUs",
            where="--device",
            found="mps, which has no float64: losses and rewards are summed in it",
            expected="auto, cpu or cuda",
            fix="--device cpu",
        )
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "there is no GPU that PyTorch can use",
            where="--device",
            found=name,
            expected="auto or cpu on this machine",
            fix="--device auto",
        )
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def load_tokenizer(name: str, access: Access = CAREFUL, *, add_bos: bool | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name; it must be a fast one, whose offsets the mask needs.

    An adapter that brings no tokenizer has its base's.

    Args:
        add_bos: whether texts are to begin with BOS; None leaves it to the folder.
    """
    how = {} if add_bos is None else {"add_bos_token": add_bos}
    if is_adapter(name) and not any(file_of(name, file) for file in TOKENIZER_FILES):
        name = base_of(name)
    tokenizer: PreTrainedTokenizerBase = opened(
        name,
        lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=access.trust_remote_code, **how),
        "tokenizer",
    )
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


def load_with_tokenizer(
    name: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    access: Access = CAREFUL,
    *,
    add_bos: bool | None = None,
    quantise: bool = False,
    for_tuning: bool = False,
    in_pieces: bool = False,
) -> LoadedModel:
    """The model and the tokenizer of a folder or hub name, which fit each other: see `fit_vocabulary`.

    See `load_model` for the arguments.
    """
    tokenizer = load_tokenizer(name, access, add_bos=add_bos)
    model = load_model(name, device, dtype, access, quantise=quantise, for_tuning=for_tuning, in_pieces=in_pieces)
    fit_vocabulary(model, tokenizer, name, access)
    return LoadedModel(model, tokenizer)


def load_model(
    name: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    access: Access = CAREFUL,
    *,
    quantise: bool = False,
    for_tuning: bool = False,
    in_pieces: bool = False,
) -> PreTrainedModel:
    """The causal language model of a folder or hub name. An adapter's folder gives its base with the adapter merged.

    Where the adapter was trained on a quantised base, it stays beside that base, which is quantised again: merged, the
    two are no numbers of four bits. A model that is to be tuned is given whole: the weights of that base, as four bits
    have them, and the adapter merged into them.

    Args:
        quantise: whether the linear layers are put in four bits while they are read.
        for_tuning: whether all weights are to be plain ones.
        in_pieces: whether it is to be divided, so that its layers need not be in memory before: see
            `heed.models.pieces`. An adapter's base, and what is quantised, are read whole.

    Raises:
        UserError: the folder does not hold every weight of a model, or asks for code that may not run.
    """
    if access.trust_remote_code and (files := code_of(name)):
        access.say(f"--trust-remote-code: this code of the model's runs: {', '.join(files)}")
    if in_pieces and (quantise or is_adapter(name)):
        why = "it is put in four bits" if quantise else "it is an adapter on its base"
        access.say(f"{name}: every process reads the whole model before it is divided: {why}")
    if is_adapter(name) and not for_tuning and layers_of_note(name):
        model: PreTrainedModel = load_adapter(name, device, dtype, access=access).get_base_model()
        model.name_or_path = name
        return model.eval()
    if is_adapter(name):
        with peft_warnings_hidden():
            model = load_adapter(name, device, dtype, access=access, base_as="rounded").merge_and_unload()
        model.requires_grad_(True)  # peft froze it
        model.name_or_path = name  # what is tuned from here on stands on the merged model, not on the base
    else:
        at = device if quantise else None
        with freed_at_once() if quantise else nullcontext():
            model = load_weights(
                AutoModelForCausalLM, name, dtype, access, "model", quantise_on=at, in_pieces=in_pieces
            )
        if quantise:
            access.say(told(model))
    return settle_on(model, device).eval()


def stored_dtype(name: str, access: Access = CAREFUL) -> torch.dtype:
    """The dtype that a model's weights are stored in; float32 where its config does not say."""
    config = opened(name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=access.trust_remote_code), "model")
    dtype: torch.dtype | None = config.dtype
    return dtype or torch.float32


def drop_weights(model: PreTrainedModel) -> None:
    """Let go of a model's weights, whoever else still holds it: room for the next one. Shapes and config stay."""
    model.to("meta")  # type: ignore[arg-type]


def num_positions(model: PreTrainedModel) -> int | None:
    """The longest sequence the model has positions for, or None where there is no limit."""
    return _positions_in(model.config)


def positions_at(name: str, access: Access = CAREFUL) -> int | None:
    """As `num_positions`, of a model folder, an adapter or a hub name whose weights are not loaded."""
    folder = base_of(name) if is_adapter(name) else name
    code = access.trust_remote_code
    return _positions_in(opened(folder, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=code), "model"))


def _positions_in(whole_config: Any) -> int | None:
    config = whole_config.get_text_config()
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
    rows_before = num_rows(model)
    if max(ids) >= rows_before:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    num_known = min(rows_before, *ids)
    fresh = sorted({*ids, *range(rows_before, num_rows(model))})  # also of older tokens that had no row
    generator = torch.Generator().manual_seed(seed)
    layers = {id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for layer in layers.values():
            known_rows = layer.weight[:num_known].float()
            noise = torch.randn(len(fresh), known_rows.shape[1], generator=generator).to(known_rows)
            layer.weight[fresh] = (known_rows.mean(0) + 0.1 * known_rows.std(0) * noise).to(layer.weight.dtype)
            if getattr(layer, "bias", None) is not None:
                layer.bias[fresh] = layer.bias[:num_known].mean()
    return ids


def prepare_training(model: PreTrainedModel, *, activations: Activations = "keep") -> None:
    """Dropout off, so that a token has one hidden state in whatever sequences it is shared by.

    See `heed.models.dropout`, and `heed.models.recompute` for what each value keeps.

    Args:
        activations: what a forward keeps for its backward. Gradients are the same whatever it is.
    """
    dropout_off(model)
    if activations == "keep":
        return
    # Newer releases of transformers warn of the older name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": contexts_of(model, activations)})
    recompute_in_evaluation(model, around=inputs_on_cpu if activations == "offload" else nothing_around)


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
    write(tokenizer, folder)
    if loaded.adapter is None:
        write(model, folder)
        return
    # Rows of new tokens are in the adapter already; left to itself, peft asks the hub for the size of the vocabulary.
    write(loaded.adapter, folder, save_embedding_layers=False, selected_adapters=["default"])
    write_note(model, folder)
    generation.save_pretrained(folder)


def set_stops(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]
) -> GenerationConfig:
    """Let the model's generation config stop at these tokens too, pad if it could not, and be fit to be saved."""
    stops = stop_ids(model, tokenizer, stop_tokens)
    generation: GenerationConfig = model.generation_config
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    if not _has_row(model, generation.pad_token_id):
        generation.pad_token_id = tokenizer.pad_token_id if _has_row(model, tokenizer.pad_token_id) else stops[0]
    if generation.do_sample is not True:
        _unset(generation, ONLY_SAMPLED)
    if (generation.num_beams or 1) == 1:
        _unset(generation, ONLY_BEAMS)
    return generation


def _has_row(model: PreTrainedModel, token_id: int | None) -> bool:
    return token_id is not None and 0 <= token_id < num_rows(model)


def _unset(generation: GenerationConfig, names: Sequence[str]) -> None:
    for name in names:
        setattr(generation, name, None)


def restore(loaded: LoadedModel, folder: Path) -> None:
    """Put the trained weights that `save` wrote back into the model, bit for bit."""
    if loaded.adapter is None:
        # By the model's own class: no code of the folder is looked for, and its config is the one that is trained.
        kind, how = type(loaded.model), {"config": loaded.model.config, "dtype": loaded.model.dtype}
        with quiet_transformers():
            pieces = opened_in_pieces(kind, str(folder), **how) if is_divided(loaded.model) else ""
            saved = kind.from_pretrained(folder, **how) if isinstance(pieces, str) else pieces[0]
        load_whole(saved, loaded.model)
        return
    weights = read_adapter_weights(str(folder))
    ours = get_peft_model_state_dict(loaded.adapter, save_embedding_layers=False)
    if differing := weights.keys() ^ ours.keys():
        # peft would leave out what it does not find, and the run would go on from random weights.
        raise ValueError(f"the adapter in {folder} has other weights than the one that is trained: {min(differing)}")
    if any(map(is_shard, ours.values())):
        put_all(weights, ours)
        return
    with peft_warnings_hidden():
        set_peft_model_state_dict(loaded.adapter, weights)


def load_whole(saved: nn.Module, into: nn.Module) -> None:
    """Load a model's weights into another one, divided or not; all of its own must be there."""
    if not is_divided(into):
        into.load_state_dict(saved.state_dict())
        return
    theirs = saved.state_dict(keep_vars=True)
    for name, tensor in into.state_dict().items():
        put(value_of(saved, theirs[name]).detach(), tensor)


def is_divided(model: nn.Module) -> bool:
    """Whether this process holds a part of the model alone."""
    return any(map(is_shard, model.parameters()))


def put_all(weights: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Put whole weights into tensors of a module, or a process's part of them into its shards."""
    for name, tensor in ours.items():
        put(weights[name], tensor)

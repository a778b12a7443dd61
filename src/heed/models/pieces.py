"""A model whose layers' matrices stay in its files until they are wanted: for processes that will each hold a part.

    memory of a process while it opens the model:   embeddings, head, norms, and one layer

In the place of a matrix stands one number that is repeated: not a number, so that whatever reads it by mistake shows.
A layer's own matrices are read for each forward of it and let go after, so that such a model computes like any other;
`complete` reads them for good, a layer before it is divided, or all. What they are then is what transformers reads,
to the bit: it is transformers that says, given the stand-ins, which tensor of the files each parameter is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from heed.models.intake.dtypes import weight_files
from heed.models.score import layers_of

PIECES = "heed_pieces"
"""attribute of a model that is in pieces"""
IN_A_LAYER = re.compile(r"\.\d+\.")
"""what the names of weights of layers have in common"""
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Piece:
    """A parameter that is still in a file."""

    parameter: nn.Parameter
    file: Path
    key: str
    dtype: torch.dtype
    """that it is read as; the parameter's own may have become another one since"""

    def read(self) -> Tensor:
        """What the parameter is to be."""
        with safe_open(str(self.file), framework="pt") as weights:
            found: Tensor = weights.get_tensor(self.key)
        return found.to(self.dtype).to(self.parameter.device, self.parameter.dtype)

    def put(self) -> None:
        """Fill the parameter."""
        self.parameter.data = self.read()

    def let_go(self) -> None:
        """Let the stand-in take the parameter's place again."""
        self.parameter.data = stand_in(self.parameter.shape, self.parameter.dtype, self.parameter.device)


class Pieces:
    """What of a model is still in its files."""

    def __init__(self, pieces: dict[int, Piece], layers: list[nn.Module]) -> None:
        self.pieces = pieces
        """by the id of the parameter"""
        self._hooks: dict[nn.Module, list[RemovableHandle]] = {
            layer: [
                layer.register_forward_pre_hook(lambda layer, _: self._each(layer, Piece.put)),
                layer.register_forward_hook(lambda layer, _, __: self._each(layer, Piece.let_go), always_call=True),
            ]
            for layer in layers
        }

    def _each(self, module: nn.Module, what: Any) -> None:
        for parameter in module.parameters():
            if (piece := self.pieces.get(id(parameter))) is not None:
                what(piece)

    def complete(self, module: nn.Module) -> None:
        """Read what a part of the model lacks, for good."""
        for parameter in module.parameters():
            if (piece := self.pieces.pop(id(parameter), None)) is not None:
                piece.put()
        for inner in module.modules():
            for hook in self._hooks.pop(inner, ()):
                hook.remove()


def stand_in(shape: Any, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor of this shape in the memory of one number."""
    return torch.full((1,), torch.nan, dtype=dtype, device=device).expand(tuple(shape))


def complete(model: nn.Module, part: nn.Module | None = None) -> None:
    """Read what a model, or a part of it, lacks of its files; nothing where it is whole."""
    pieces: Pieces | None = getattr(model, PIECES, None)
    if pieces is not None:
        pieces.complete(model if part is None else part)


def is_in_pieces(model: nn.Module) -> bool:
    """Whether some of a model is still in its files."""
    pieces: Pieces | None = getattr(model, PIECES, None)
    return pieces is not None and bool(pieces.pieces)


def value_of(model: nn.Module, parameter: Tensor) -> Tensor:
    """A parameter's numbers, read for the moment where they are still in a file."""
    pieces: Pieces | None = getattr(model, PIECES, None)
    piece = None if pieces is None else pieces.pieces.get(id(parameter))
    return parameter if piece is None else piece.read()


def settle_on(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on a device, on which stand-ins stay what they are."""
    pieces: Pieces | None = getattr(model, PIECES, None)
    for piece in () if pieces is None else pieces.pieces.values():
        piece.parameter.data = stand_in(piece.parameter.shape, piece.parameter.dtype, device)
    moved: PreTrainedModel = model.to(device)
    return moved


def opened_in_pieces(
    kind: type[PreTrainedModel] | None, name: str, config: Any, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]] | str:
    """The model of a folder or hub name in pieces, with transformers' report of its loading; or why it cannot be.

    Args:
        kind: transformers' class of the model.
        dtype: that the weights are loaded in.
    """
    files = weight_files(name)
    if not files:
        return "its weights are in no safetensors files on this machine"
    if not isinstance(kind, type) or getattr(config, "quantization_config", None) is not None:
        return "it is read by code of its own"
    weights, later = _read_but_layers(files, dtype)
    model, report = kind.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    pieces = {
        id(parameter): Piece(parameter, *later[place], dtype)
        for parameter in model.parameters()
        if (place := parameter.untyped_storage().data_ptr()) in later
    }
    if len(pieces) != len(later):
        return "some of its weights are made of several of its files', or have no place in it"
    layers = layers_of(model)
    setattr(model, PIECES, Pieces(pieces, layers))
    in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for piece in [piece for key, piece in pieces.items() if key not in in_layers]:
        del pieces[id(piece.parameter)]
        piece.put()
    _name(model, name)
    return model, report


def _read_but_layers(files: list[Path], dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[int, tuple[Path, str]]]:
    """The tensors of files by name, with stand-ins for layers' matrices; and where those are, by their memory."""
    found: dict[str, Tensor] = {}
    later: dict[int, tuple[Path, str]] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                part = weights.get_slice(key)
                shape, kept_as = part.get_shape(), part.get_dtype()
                if len(shape) > 1 and kept_as in FLOATS and IN_A_LAYER.search(key):
                    found[key] = stand_in(shape, dtype)
                    later[found[key].untyped_storage().data_ptr()] = (file, key)
                else:
                    found[key] = weights.get_tensor(key)
    return found, later


def _name(model: PreTrainedModel, name: str) -> None:
    """What transformers does for a model that it reads by name: where it is from, and how it generates."""
    model.config.name_or_path = model.name_or_path = name
    if model.can_generate():
        no_wishes: dict[str, Any] = {"cache_dir": None, "force_download": False, "proxies": None, "token": None}
        no_wishes |= {"local_files_only": False, "revision": "main", "subfolder": "", "trust_remote_code": False}
        model.adjust_generation_fn(None, True, False, name, **no_wishes)

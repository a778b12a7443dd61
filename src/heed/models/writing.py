"""Write what transformers, peft and safetensors write, readable by whom the user's umask allows."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heed.models.intake.access import peft_warnings_hidden, quiet_transformers
from heed.models.intake.files import CONFIG, settings_in
from heed.models.pieces import complete


def write(part: PreTrainedModel | PreTrainedTokenizerBase | PeftModel, folder: Path, **how: object) -> None:
    """`save_pretrained` into a folder of ours, without what the libraries say meanwhile."""
    if isinstance(part, PreTrainedModel):
        complete(part)
    with quiet_transformers(), peft_warnings_hidden():
        part.save_pretrained(str(folder), **how)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            _allow(path)


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Tensors by name, as one safetensors file."""
    save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, file)
    _allow(file)


def store_as(folder: Path, dtype: torch.dtype) -> None:
    """Round the float32 weights of a model that was written into `folder` to the dtype it is to be kept in."""
    files = sorted(folder.glob("model*.safetensors"))
    for file in files:
        weights = load_file(file)
        rounded = {name: w.to(dtype) if w.dtype == torch.float32 else w for name, w in weights.items()}
        save_file(rounded, file, metadata={"format": "pt"})
        _allow(file)
    if files:
        config = settings_in(str(folder), CONFIG)
        text = json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _allow(file: Path) -> None:
    """Safetensors lets nobody else read; the folder, which we made, shows what the umask allows."""
    file.chmod(file.parent.stat().st_mode & 0o666)

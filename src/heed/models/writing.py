"""Write what transformers, peft and safetensors write, readable by whom the user's umask allows."""

from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heed.models.intake.access import peft_warnings_hidden, quiet_transformers


def write(part: PreTrainedModel | PreTrainedTokenizerBase | PeftModel, folder: Path, **how: object) -> None:
    """`save_pretrained` into a folder of ours, without what the libraries say meanwhile."""
    with quiet_transformers(), peft_warnings_hidden():
        part.save_pretrained(str(folder), **how)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            _allow(path)


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Tensors by name, as one safetensors file."""
    save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, file)
    _allow(file)


def _allow(file: Path) -> None:
    """Safetensors lets nobody else read; the folder, which we made, shows what the umask allows."""
    file.chmod(file.parent.stat().st_mode & 0o666)

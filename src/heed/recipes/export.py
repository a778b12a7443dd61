"""Write a model for other programs: GGUF, or a folder of safetensors; compared before it gets its name.

adapter merged -> written -> read back -> compared with what was given
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from heed import files
from heed.allocator import freed_at_once
from heed.errors import UserError, typed
from heed.export_config import ExportSettings
from heed.models.adapters.folder import base_of, is_adapter
from heed.models.heads.scalar import is_reward_model
from heed.models.intake.access import Access
from heed.models.intake.quantise import was_quantised
from heed.models.load import load_with_tokenizer, stored_dtype
from heed.recipes import merge
from heed.recipes.exporting import folder

CPU = torch.device("cpu")


def run(settings: ExportSettings, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Load, merge, write and compare; `say` is told what was found.

    Everything is computed on the CPU, in float32, with one model at a time in memory.
    """
    with freed_at_once():
        _export(settings, say)


def _export(settings: ExportSettings, say: Callable[[str], None]) -> None:
    refuse_reward_model(settings.model)
    out = Path(settings.out)
    if settings.to == "gguf":
        refuse_without_gguf()
        from heed.recipes.exporting import gguf  # behind the check: it imports the extra's package

        for path in (out, gguf.modelfile_of(out)):
            gguf.refuse_taken(path)
    else:
        merge.refuse_taken(out)
    files.refuse_unwritable(out)
    access = Access(settings.trust_remote_code, say)
    if settings.to == "gguf":
        from heed.models.export.early import refuse_unwritable_model

        refuse_unwritable_model(settings.model, access)
    loaded = load_with_tokenizer(settings.model, CPU, access=access, for_tuning=True)
    if is_adapter(settings.model):
        as_trained = ", with the weights that its four bits stood for" if was_quantised(settings.model) else ""
        say(f"adapter {settings.model} merged into {base_of(settings.model)}{as_trained}")
    if settings.to == "folder":
        base = base_of(settings.model) if is_adapter(settings.model) else settings.model
        dtype = stored_dtype(base, access) if settings.dtype is None else getattr(torch, settings.dtype)
        folder.export(loaded, settings, dtype, access)
        return
    from heed.models.export.writing_gguf import DTYPES

    gguf.export(loaded, settings, DTYPES[settings.dtype or "f32"], say)


def refuse_reward_model(name: str) -> None:
    """Programs that read these formats make text; none of them would know what to do with a score."""
    if is_reward_model(name):
        raise UserError(
            "a reward model is not exported",
            where="--model",
            found=f"{name}, which scores answers",
            expected="a model that answers",
            fix=f"--model RUN, with a run of heed sft, dpo, ppo or grpo; AutoModelForSequenceClassification opens "
            f"{typed(name)} as it is",
        )


def refuse_without_gguf() -> None:
    """The extra brings the official package of the format."""
    if find_spec("gguf") is None:
        raise UserError(
            "the package that writes GGUF is not installed",
            where="--to gguf",
            found="no package gguf",
            expected="heed with its extra for export",
            fix="pip install 'heed-lm[export]'",
        )

"""In which dtype a checkpoint keeps its weights: what its files say, not its config."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from heed.errors import UserError
from heed.models.intake.files import ADAPTER_CONFIG, file_of, settings_in

HALF = {"BF16": torch.bfloat16, "F16": torch.float16}
CPU_INFO = Path("/proc/cpuinfo")
MULTIPLY_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""instructions as Linux names them, on x86 (Cooper Lake, Sapphire Rapids and Zen 4 on) and on ARM"""
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def checkpoint_dtype(name: str) -> torch.dtype:
    """bfloat16 or float16 where all matrices of a folder or hub name are kept in it, else float32.

    An adapter on its base is float32: the two merged are no numbers of 16 bits.
    """
    if file_of(name, ADAPTER_CONFIG) is not None:
        return torch.float32
    try:
        dtypes = {dtype for file in weight_files(name) for dtype in _dtypes_of_matrices(file)}
    except (OSError, SafetensorError):  # loading tells what is wrong with them
        return torch.float32
    return HALF.get(dtypes.pop(), torch.float32) if len(dtypes) == 1 else torch.float32


def dtype_to_save(wanted: str, name: str) -> torch.dtype:
    """The dtype that a tuned model is left in: `wanted` by its name, or its checkpoint's where that is `checkpoint`."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return named[wanted] if wanted in named else checkpoint_dtype(name)


def dtype_to_load(wanted: str, name: str) -> torch.dtype:
    """The dtype that a model is measured in: `wanted` by its name, or its checkpoint's where that is `auto`.

    Raises:
        UserError: there is no such dtype, or none that a model computes in.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if wanted not in named and wanted != "auto":
        raise UserError(
            "no model computes in this dtype",
            where="dtype",
            found=wanted,
            expected=f"auto, {', '.join(named)}",
            fix="dtype=float32",
        )
    return named[wanted] if wanted in named else checkpoint_dtype(name)


def slower_in_bfloat16(device: torch.device, dtype: str, cpu_info: Path = CPU_INFO) -> str | None:
    """What to say where products in bfloat16 are wanted of a processor that has no instructions for them.

    It then computes them by way of float32: right, and slower. None where it has them, or does not tell.
    """
    if dtype != "bfloat16" or device.type != "cpu":
        return None
    try:
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    fields = [line.partition(":") for line in lines]
    known = {word for name, _, words in fields if name.strip() in ("flags", "Features") for word in words.split()}
    if not known or known & MULTIPLY_BFLOAT16:
        return None
    return "this processor has no instructions for bfloat16: --dtype bfloat16 is slower here than float32"


def weight_files(name: str) -> list[Path]:
    """The safetensors files of a folder or hub name; none where its weights are kept otherwise."""
    single = file_of(name, SINGLE)
    if single is not None:
        return [single]
    shards = sorted(set(settings_in(name, INDEX).get("weight_map", {}).values()))
    return [path for shard in shards if (path := file_of(name, shard)) is not None]


def _dtypes_of_matrices(file: Path) -> Iterator[str]:
    with safe_open(str(file), framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118
            part = weights.get_slice(key)
            if len(part.get_shape()) > 1:
                yield str(part.get_dtype())

"""A checkpoint copied with other tables in it, piece by piece: the whole of it is never in memory."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""of weights, as safetensors calls them"""
INDEX = "model.safetensors.index.json"
PIECE = 16 * 2**20
"""bytes copied at a time"""


def copy_with_tables(files: list[Path], tables: Mapping[str, Tensor], folder: Path) -> bool:
    """Copy a model's safetensors files into `folder`, with `tables` in place of the tensors of these names.

    Args:
        files: the checkpoint's, beside their index where there are several.
        tables: by the model's own names, which files may have with another prefix; a tied one under several.

    Returns:
        Whether it was done: not where a table is nowhere in the files, or in a dtype that is none of `DTYPES`.
    """
    headers = [_header(file) for file in files]
    by_key = _renamed({key for header in headers for key in header}, tables)
    placed = [{key: by_key[key] for key in header if key in by_key} for header in headers]
    dtypes = {header[key]["dtype"] for header, of_file in zip(headers, placed, strict=True) for key in of_file}
    if not by_key or not dtypes <= DTYPES.keys():
        return False
    total = 0
    for file, header, of_file in zip(files, headers, placed, strict=True):
        total += _copy(file, header, of_file, folder / file.name)
    if len(files) > 1:
        index = json.loads((files[0].parent / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return True


def _renamed(keys: set[str], tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tables by the names of files, which have one prefix more or less than the model's throughout; {}: none fits.

    The names as they are come first: a part that ends like a table, such as a second head's, is not taken for it.
    """
    more = {key.removesuffix(name) for name in tables for key in keys if key.endswith(f".{name}")}
    less = {name.removesuffix(key) for name in tables for key in keys if name.endswith(f".{key}")}
    wanted = {id(table) for table in tables.values()}
    for added, removed in (("", ""), *((each, "") for each in sorted(more)), *(("", each) for each in sorted(less))):
        found = {
            key: table
            for name, table in tables.items()
            if name.startswith(removed) and (key := added + name.removeprefix(removed)) in keys
        }
        if {id(table) for table in found.values()} == wanted:
            return found
    return {}


def _header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: dtype, shape and place of each, in the order in which they lie."""
    with file.open("rb") as source:
        size = int.from_bytes(source.read(8), "little")
        header: dict[str, Any] = json.loads(source.read(size))
    header.pop("__metadata__", None)
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))


def _copy(file: Path, header: dict[str, Any], tables: Mapping[str, Tensor], to: Path) -> int:
    """Write one file anew; returns the bytes of its tensors."""
    ours: dict[str, Any] = {}
    end = 0
    for key, entry in header.items():
        begin = end
        first, last = entry["data_offsets"]
        num_bytes = last - first
        if key in tables:
            num_bytes = tables[key].numel() * DTYPES[entry["dtype"]].itemsize
            entry = {**entry, "shape": list(tables[key].shape)}
        end = begin + num_bytes
        ours[key] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **ours}).encode()
    text += b" " * (-len(text) % 8)
    with file.open("rb") as source, to.open("wb") as target:
        start = 8 + int.from_bytes(source.read(8), "little")
        target.write(len(text).to_bytes(8, "little") + text)
        for key, entry in header.items():
            if key in tables:
                table = tables[key].detach().cpu().to(DTYPES[entry["dtype"]]).contiguous()
                target.write(table.reshape(-1).view(torch.uint8).numpy().data)
            else:
                source.seek(start + entry["data_offsets"][0])
                _copy_bytes(source, target, entry["data_offsets"][1] - entry["data_offsets"][0])
    shutil.copymode(file, to)
    return end


def _copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(PIECE, count))
        if not piece:
            raise OSError(f"{source.name} is shorter than its header says")
        target.write(piece)
        count -= len(piece)

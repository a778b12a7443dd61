"""The files of a model's folder: found, read, and named as the cause where a library's error names none."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.utils import cached_file

from heed.errors import UserError
from heed.hub import offline_if_unreachable
from heed.models.intake.access import quiet_transformers

CONFIG, ADAPTER_CONFIG, GENERATION = "config.json", "adapter_config.json", "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SETTINGS_FILES = (CONFIG, GENERATION, ADAPTER_CONFIG, TOKENIZER_CONFIG, "special_tokens_map.json", "tokenizer.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", TOKENIZER_CONFIG, "vocab.json", "vocab.txt", "spiece.model")
VOCABULARY_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.tiktoken")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LIBRARY_OF_METHOD = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
    "eetq": "eetq",
}
"""what a method of quantisation is read with, as pip knows it, by the config's `quant_method`"""

T = TypeVar("T")


def file_of(name: str, file: str) -> Path | None:
    """A file of a model folder or hub name; None where it has none that can be reached."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    offline_if_unreachable()
    try:
        found = cached_file(
            name,
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return None if found is None else Path(str(found))


def settings_in(name: str, file: str) -> dict[str, Any]:
    """The JSON object in a file of a model folder or hub name; empty where the file is absent.

    Raises:
        UserError: the file is a Git LFS pointer, or no JSON object.
    """
    path = file_of(name, file)
    if path is None:
        return {}
    refuse_pointer(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = "" if isinstance(values, dict) else f"a {type(values).__name__}"
    except ValueError as error:
        values, found = {}, str(error)
    if found:
        raise UserError(
            "a file of the model is not a JSON object",
            where=str(path),
            found=found,
            expected="one JSON object in UTF-8, as save_pretrained writes it",
            fix=f"copy {path.name} again from where the model came from",
        )
    return dict(values)


def refuse_pointer(path: Path) -> None:
    """Raise if the file is what Git leaves where large files were not fetched."""
    with path.open("rb") as file:
        if not file.read(len(LFS_POINTER)).startswith(LFS_POINTER):
            return
    raise UserError(
        "a Git LFS pointer, not the file itself",
        where=str(path),
        found=f"{path.stat().st_size:,} bytes that say where the file is kept",
        expected="the file, which Git fetches apart",
        fix=f"git -C '{path.parent}' lfs pull",
    )


def opened(name: str, opening: Callable[[], T], what: str) -> T:
    """Call `opening`, and turn what a library says of a model's folder into an error with a way out.

    Whatever a library raises on a user's folder is about that folder, but for memory that ran out.
    """
    for file in SETTINGS_FILES:
        settings_in(name, file)
    try:
        with quiet_transformers():
            return opening()
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _cause(name, error, what) from error


def _cause(name: str, error: Exception, what: str) -> UserError:
    """The error with its cause named, where the folder shows one."""
    folder = Path(name)
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_file():
                try:
                    refuse_pointer(path)
                except UserError as pointer:
                    return pointer
    for cause in (_missing_shard, _code, _quantised, _missing_library):
        if (told := cause(name, error, what)) is not None:
            return told
    says = " ".join(str(error).split())[:300] or type(error).__name__
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
        says = f"a folder with {', '.join(names[:8]) or 'nothing in it'}{more}; {says}"
    else:
        says = f"no folder {name} here, and as a name of the hub: {says}"
    return UserError(
        f"the {what} cannot be loaded",
        where=name,
        found=says,
        expected="a folder with a Hugging Face model (config.json, weights, tokenizer.json), or a hub name",
        fix="check the path; without a network, download the model once elsewhere and give its folder",
    )


def _missing_shard(name: str, error: Exception, what: str) -> UserError | None:
    if "token" in what:
        return None
    for file in INDEX_FILES if Path(name).is_dir() else ():
        named = set(settings_in(name, file).get("weight_map", {}).values())
        absent = sorted(shard for shard in named if not (Path(name) / shard).is_file())
        if absent:
            return UserError(
                f"the {what} is not whole: files with weights are missing",
                where=f"{name}/{file}",
                found=f"{len(absent):,} of {len(named):,} files are not there: {', '.join(absent[:4])}",
                expected="every file that the index names",
                fix=f"copy {absent[0]} into {name} from where the model came from",
            )
    return None


def code_of(name: str) -> list[str]:
    """The Python files that a model folder or hub name asks to run, as its configs name them."""
    files = []
    for file in (CONFIG, TOKENIZER_CONFIG):
        named = settings_in(name, file).get("auto_map", {})
        classes = named.values() if isinstance(named, dict) else named if isinstance(named, list) else [named]
        for each in classes:
            for reference in each if isinstance(each, (list, tuple)) else (each,):
                if isinstance(reference, str):
                    repository, _, path = reference.rpartition("--")
                    files.append(f"{repository or name}/{path.rpartition('.')[0]}.py")
    return list(dict.fromkeys(files))


def _code(name: str, error: Exception, what: str) -> UserError | None:
    files = code_of(name)
    if not files or "trust_remote_code" not in str(error):
        return None
    return UserError(
        f"the {what} brings code of its own, which is not run unasked",
        where=name,
        found=", ".join(files),
        expected="a model of a family that transformers knows, or your word that this code may run",
        fix="read that code; if you trust it with this account and all its files, add --trust-remote-code",
    )


def _quantised(name: str, error: Exception, what: str) -> UserError | None:
    settings = settings_in(name, CONFIG).get("quantization_config")
    if not isinstance(settings, dict) or "token" in what:
        return None
    method = str(settings.get("quant_method", "bitsandbytes"))
    library = LIBRARY_OF_METHOD.get(method)
    installed = library is not None and _is_installed(library.replace("-", "_"))
    says = " ".join(str(error).split())[:200]
    return UserError(
        f"the {what} is quantised, and cannot be read here",
        where=f"{name}, quantization_config",
        found=f"{method}; {says}",
        expected="weights in float32, bfloat16 or float16, or the library that reads these",
        fix="give the model that it was made from: --model ORIGINAL"
        if library is None or installed
        else f"pip install {library}; or give the model that it was made from: --model ORIGINAL",
    )


def _missing_library(name: str, error: Exception, what: str) -> UserError | None:
    """Tokenizers that are read by a library of their own, which transformers asks for in many words."""
    if "token" not in what:
        return None
    file = next((file for file in VOCABULARY_FILES if file_of(name, file)), None)
    if file is None or file_of(name, "tokenizer.json"):
        return None
    path = file_of(name, file)
    assert path is not None
    # SentencePiece writes a protocol buffer, tiktoken a line of base64 for each token.
    ranks = re.match(rb"[A-Za-z0-9+/=]+ \d+\s", path.read_bytes()[:200])
    needs = {"tiktoken": "tiktoken"} if ranks else {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    lacking = [library for library, module in needs.items() if not _is_installed(module)]
    if not lacking:
        return None
    return UserError(
        "the tokenizer's file needs a library that is not installed",
        where=f"{name}/{file}",
        found=f"no {' and no '.join(lacking)}, and no tokenizer.json, which needs none",
        expected=f"{', '.join(lacking)}, or a tokenizer.json",
        fix=f"pip install {' '.join(lacking)}",
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False

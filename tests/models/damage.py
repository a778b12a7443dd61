"""A model's folder as it may come: whole, or with one thing wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 548105171\n"


def change_config(folder: Path, file: str = "config.json", **values: Any) -> None:
    """Write other values into a JSON file of the folder."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], file: str = WEIGHTS) -> None:
    """Write the weights as `change` leaves them."""
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})


def rename_weights(folder: Path, rename: Callable[[str], str], file: str = WEIGHTS) -> None:
    """Write every weight under another name."""
    weights = load_file(folder / file)
    save_file({rename(name): weight for name, weight in weights.items()}, folder / file, metadata={"format": "pt"})


def drop(folder: Path, part: str, file: str = WEIGHTS) -> None:
    """Leave out the weights whose names hold `part`."""

    def without(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    change_weights(folder, without, file)


def another_layer(folder: Path) -> None:
    """A layer more than the config speaks of."""

    def more(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if ".1." in name]:
            weights[name.replace(".1.", ".2.")] = weights[name].clone()

    change_weights(folder, more)


def in_shards(folder: Path, absent: int | None = None) -> None:
    """The weights in three files with an index; one of them may be absent."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        some = {name: weights[name] for name in sorted(weights)[number::3]}
        where |= dict.fromkeys(some, file)
        if number != absent:
            save_file(some, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def as_pickle(folder: Path) -> None:
    """The weights as older checkpoints have them."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def truncated(folder: Path, file: str = WEIGHTS) -> None:
    """A download that stopped half way."""
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])


def pointer(file: str) -> Callable[[Path], None]:
    """What Git leaves where large files were not fetched."""
    return lambda folder: (folder / file).write_text(POINTER) and None


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def with_code(folder: Path) -> Path:
    """A family that transformers does not know, with code that leaves a mark where it runs; returns the mark."""
    mark = folder.parent / "it ran"
    leaves = f"open({str(mark)!r}, 'w').close()\n"
    (folder / "configuration_own.py").write_text(
        f"{leaves}from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        f"{leaves}from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    change_config(folder, model_type="own", architectures=["OwnForCausalLM"], auto_map=code)
    return mark


def with_code_in_the_tokenizer(folder: Path) -> Path:
    """A tokenizer with code that leaves a mark where it runs; returns the mark."""
    mark = folder.parent / "it ran"
    (folder / "tokenization_own.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast\n"
        "class OwnTokenizer(PreTrainedTokenizerFast): ...\n"
    )
    change_config(
        folder,
        "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )
    return mark

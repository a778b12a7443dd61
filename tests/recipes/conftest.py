"""Tiny models with tokenizers of their own, and short ways to write a data set and to tune on it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tastes
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from heed.cli.main import main
from heed.config import SftSettings, load_settings

LINES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName the colour of the sky.\n\n### Response:\nThe sky is blue.",
    "Give three tips for staying healthy. Eat well, sleep enough, and walk every day.",
    "Hãy kể tên thủ đô của Việt Nam. Thủ đô của Việt Nam là Hà Nội.",
    "Viết một câu về mùa xuân. Mùa xuân đến, hoa nở khắp nơi.",
)
"""what the tokenizers learn their merges from"""

OWN_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "lemon": "yellow"}


def make_tokenizer(special_tokens: Sequence[str], template: str | None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of some 330 tokens; the first special token ends a text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special_tokens[0], extra_special_tokens=list(special_tokens[1:])
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A Llama of width 32 and 256 positions, its weights far enough from 0 that attention matters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A base model: no chat template, and one special token, which ends a text."""
    return make_model(tmp_path_factory.mktemp("models") / "base", make_tokenizer(["<|endoftext|>"], None))


@pytest.fixture(scope="session")
def instruct(tmp_path_factory) -> Path:
    """A model with a chat template of its own, whose turns end in a token of their own."""
    special = ["<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    return make_model(tmp_path_factory.mktemp("models") / "instruct", make_tokenizer(special, OWN_TEMPLATE))


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Write records as JSON lines, and say where."""

    def written(records: Sequence[Any], name: str = "data.jsonl") -> Path:
        path: Path = tmp_path / name
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return path

    return written


@pytest.fixture(scope="session")
def colours() -> list[dict[str, str]]:
    """24 records of a task that a tiny model learns: four ways to ask for six colours."""
    asked = ("What colour is {}?", "Name the colour of {}.", "{}: which colour?", "Màu của {} là gì?")
    return [
        {"instruction": ask.format(thing), "output": f"It is {colour}."}
        for thing, colour in COLOURS.items()
        for ask in asked
    ]


@pytest.fixture(scope="session")
def tune() -> Callable[..., int]:
    """Run `heed sft` in this process and return its exit status; options are words or keywords."""

    def tuned(*words: object, **options: object) -> int:
        flags = [str(word) for name, value in options.items() for word in flag_words(name, value)]
        return main(["sft", *map(str, words), "--device", "cpu", *flags])

    return tuned


def flag_words(name: str, value: object) -> list[object]:
    """`optim_lr=1e-3` is `--optim.lr 1e-3`; True is a flag alone; a list repeats it."""
    flag = "--" + name.replace("optim_", "optim.").replace("lora_", "lora.").replace("loss_", "loss.").replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [word for item in (value if isinstance(value, list) else [value]) for word in (flag, item)]


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., SftSettings]:
    """Settings of `heed sft` from keywords, as the command line would make them."""

    def made(**options: object) -> SftSettings:
        overrides: dict[str, object] = {}
        for name, value in {"device": "cpu", **options}.items():
            section, _, rest = name.partition("_")
            key = f"{section}.{rest}" if section in ("optim", "lora", "loss") else name
            overrides[key] = str(value) if isinstance(value, Path) else value
        return load_settings(SftSettings, None, overrides)

    return made


@pytest.fixture(scope="session")
def lines_of() -> Callable[..., list[dict[str, Any]]]:
    """The objects of a file of JSON lines; of one phase, if it is a run's metrics."""

    def read(path: Path, phase: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [line for line in found if phase is None or line["phase"] == phase]

    return read


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, instruct) -> Path:
    """A tuned model that names some colour whatever it is asked, and stops: see `tastes`."""
    folder = tmp_path_factory.mktemp("tuned")
    data = tastes.write(folder / "any.jsonl", tastes.any_colour())
    status = tastes.heed(
        "sft", model=instruct, data=data, out=folder / "run", steps=50, batch_size=12, optim_lr=1e-2, held_out_share=0
    )
    assert status == 0
    return folder / "run"


@pytest.fixture(scope="session")
def green_reward(tmp_path_factory, tuned) -> Path:
    """A reward model that likes green, as an adapter on the tuned model."""
    folder = tmp_path_factory.mktemp("green")
    data = tastes.write(folder / "ranked.jsonl", tastes.liking_green())
    options = {"epochs": 3, "batch_size": 6, "optim_lr": 1e-2, "lora_rank": 4, "held_out_share": 0.2, "eval_every": 0}
    assert tastes.heed("reward", model=tuned, data=data, out=folder / "run", **options) == 0
    return folder / "run"

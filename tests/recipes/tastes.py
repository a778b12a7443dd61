"""A tiny world for learning from preferences: a model that names colours at random, and people who want green."""

import json
from pathlib import Path
from typing import Any

from heed.cli.main import main

COLOURS = ("blue", "green", "white", "red")
THINGS = ("sky", "grass", "snow", "coal", "blood", "lemon", "milk", "sea", "rose", "night")
ASKED = ("What colour is {}?", "Name the colour of {}.", "Màu của {} là gì?")
QUESTIONS = tuple(ask.format(thing) for thing in THINGS for ask in ASKED)
SECTIONS = ("optim", "lora", "kl", "ptx", "value", "sft")


def answer(colour: str) -> str:
    return f"It is {colour}."


def words_of(**options: object) -> list[str]:
    """`optim_lr=1e-3` is `--optim.lr 1e-3`."""
    words = []
    for name, value in options.items():
        section, _, rest = name.partition("_")
        flag = f"--{section}.{rest}" if section in SECTIONS else f"--{name}"
        flag = flag.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, str(value)]
    return words


def heed(command: str, **options: object) -> int:
    """Run a command in this process and return its exit status."""
    return main([command, "--device", "cpu", *words_of(**options)])


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def any_colour() -> list[dict[str, str]]:
    """To imitate: each question with two colours, so that a model learns to answer, and not what."""
    return [
        {"instruction": question, "output": answer(COLOURS[(i + k) % len(COLOURS)])}
        for i, question in enumerate(QUESTIONS)
        for k in (0, 1 + i % 3)
    ]


def liking_green() -> list[dict[str, Any]]:
    """Pairs and lists of four in which green is best; in the lists the other colours tie."""
    ranked: list[dict[str, Any]] = []
    others = [colour for colour in COLOURS if colour != "green"]
    for i, question in enumerate(QUESTIONS):
        if i % 5 == 4:
            texts = [answer(colour) for colour in ("green", *others)]
            ranked.append({"prompt": question, "answers": texts, "scores": [1.0, 0.0, 0.0, 0.0]})
        else:
            ranked.append({"prompt": question, "chosen": answer("green"), "rejected": answer(others[i % 3])})
    return ranked


def judged() -> list[dict[str, Any]]:
    """Single answers, called good where they are green; twice as many are not."""
    return [
        {"prompt": question, "completion": answer(colour), "label": colour == "green"}
        for i, question in enumerate(QUESTIONS)
        for colour in ("green", "red" if i % 2 else "blue", "white")
    ]


def prompts() -> list[dict[str, str]]:
    return [{"prompt": question, "wanted": "green"} for question in QUESTIONS]


def lines(path: Path, phase: str | None = None) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; of one phase, if it is a run's metrics."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in found if phase is None or line["phase"] == phase]

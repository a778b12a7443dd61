"""Every fix is tried: what stands under a mistake is typed as it stands there, and then the command runs.

All of it happens in a folder with a space in its name, so that a path without quotes cures nothing.
"""

import io
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tastes import answer

from heed.cli.main import main

pytestmark = [
    # transformers 5.23 gave these new names, and says so when peft or we use the old ones.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

GOOD = [{"instruction": f"Which colour is it, {i}?", "output": answer("blue")} for i in range(8)]
PAIRS = [{"prompt": f"Which, {i}?", "chosen": "It is green.", "rejected": "It is red."} for i in range(6)]
PROMPTS = [{"prompt": f"Which is it, {i}?", "words": ["blue"]} for i in range(8)]
LONG_PROMPT = {"prompt": "Why? " * 100, "words": ["blue"]}
LONG = {"instruction": "Count.", "output": "one " * 300}
PROGRAMS = ("mv", "iconv", "sed", "rm", "chmod")
OPTION = re.compile(r"(--[a-z][\w.-]*) (?!or\b)('[^']*'(?:\"'\"'[^']*')*|\"[^\"]*\"|(?:[^\s,;()]|,(?=\S))+)")


@pytest.fixture
def place(tmp_path, monkeypatch, instruct, base) -> SimpleNamespace:
    """A folder with a space in its name to stand in, with ways to put things there."""
    folder = tmp_path / "my files"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def write(records: list[Any], name: str = "my data.jsonl") -> Path:
        path: Path = folder / name
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
        return path

    model = folder / "my model"
    model.symlink_to(instruct)
    return SimpleNamespace(folder=folder, write=write, model=model, base=base)


def sft(place: Any, *more: object, records: list[Any] = GOOD, data: object = None, **options: object) -> list[str]:
    """The words of a short `heed sft`; options replace its own."""
    own = {"model": place.model, "data": data or place.write(records), "out": place.folder / "my run", "steps": 1}
    return ["sft", *words(own | {"batch_size": 4, "held_out_share": 0, "eval_every": 0} | options), *map(str, more)]


def policy(place: Any, command: str = "ppo", records: list[Any] = PROMPTS, **options: object) -> list[str]:
    own = {"model": place.model, "data": place.write(records), "out": place.folder / "my run", "reward": "regex: e"}
    return [command, *words(own | {"steps": 1, "batch_size": 4, "max_new_tokens": 3, "lora.rank": 2} | options)]


def show(place: Any, **options: object) -> list[str]:
    return ["show", str(place.write(GOOD)), *words({"model": place.model} | options)]


def words(options: dict[str, object]) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


# ---- reading a fix


def cured(command: list[str], told: dict[str, str]) -> list[str]:
    """The command as the fix says it: options replaced or left out, words corrected, programs run."""
    fix = told["fix"]
    in_file = re.match(r"(.+\.yaml)", told["where"])
    if match := re.search(r"did you mean (.+)\?", fix):
        meant = shlex.split(match[1])[0].removeprefix("heed ")
        wrong = told["found"].split(" with the value ")[0]
        if in_file:
            Path(in_file[1]).write_text(Path(in_file[1]).read_text().replace(wrong, meant))
        return [meant if word in (wrong, told["where"]) else word for word in command]
    if match := re.fullmatch(r"remove one '(.+)'", fix):
        *lines, last = Path(in_file[1]).read_text().splitlines(keepends=True)
        assert last.startswith(match[1])
        Path(in_file[1]).write_text("".join(lines))
        return command
    if match := re.search(rf"(?:^|: )((?:{'|'.join(PROGRAMS)}) [^,;(]+)", fix):
        ran = match[1].strip()
        subprocess.run(ran, shell=True, check=True, capture_output=True)
        program, *rest = shlex.split(ran)
        if program == "mv":
            return [rest[-1] if word == rest[-2] else word for word in command]
        if program == "iconv":
            source, _, target = rest[-3:]
            return [target if word == source else word for word in command]
        return command
    if match := re.match(r"heed (.+?)(?: talks| makes|: | needs|$)", fix):
        return shlex.split(match[1])
    if fix == "leave it out":
        return without(command, told["found"].split(" with the value ")[0])
    if match := re.match(r"leave out (--)?([\w.-]+)", fix):
        return without(command, "--" + match[2].replace("_", "-"))
    if match := re.search(r"--columns ((?:\w+=\w+ ?)+)", fix):
        return [*command, "--columns", *match[1].split()]
    name, value = OPTION.search(fix).groups()
    if told["found"] in command and told["found"] != value and name not in command:
        command = [word for word in command if word != told["found"]]
    return [*without(command, name), name, *shlex.split(value)]


def without(command: list[str], name: str) -> list[str]:
    """The command without an option, however often it is given, and without its value."""
    left, rest = [], list(command)
    while rest:
        word = rest.pop(0)
        if word != name:
            left.append(word)
        elif rest and not rest[0].startswith("--"):
            rest.pop(0)
    return left


# ---- mistakes


def out_is_a_file(place):
    (place.folder / "my run").write_text("a file")
    return sft(place)


def out_is_somebodys(place):
    (place.folder / "my run").mkdir()
    (place.folder / "my run" / "thesis.tex").write_text("years of work")
    return sft(place)


def out_is_another_run(place):
    assert main(sft(place)) == 0
    return sft(place, seed=1)


def broken_metrics(place):
    command = sft(place, steps=2, save_every=1)
    assert main(command) == 0
    run = place.folder / "my run"
    (run / "state.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(["not json\n", *lines]))
    return command


def not_utf8(place):
    path = place.folder / "my data.jsonl"
    lines = [json.dumps(record).encode() for record in GOOD]
    path.write_bytes(b"\n".join([*lines, b'{"instruction": "Caf\xe9?", "output": "Oui."}', b""]))
    return sft(place, data=path)


def misspelt_file(place):
    place.write(GOOD)
    return sft(place, data=place.folder / "my dta.jsonl")


def setting_in_a_file(text):
    def written(place):
        path = place.folder / "my settings.yaml"
        path.write_text(text)
        return [*without(without(sft(place), "--batch-size"), "--seed"), str(path)]

    return written


def function(name, asked="score"):
    def written(place):
        (place.folder / "my rule.py").write_text(
            f"def {name}(prompts, answers, records): return [1.0] * len(answers)\n"
        )
        return policy(place, reward=f"{place.folder / 'my rule.py'}:{asked}")

    return written


def misspelt_function_file(place):
    command = function("score")(place)
    return [word.replace("my rule.py", "my rul.py") for word in command]


def program_that_may_not_be_run(place):
    path = place.folder / "judge"
    path.write_text("#!/bin/sh\nwhile read line; do echo 1; done\n")
    return policy(place, reward=f"command: {path.relative_to(place.folder)}".replace("command: ", "command: ./"))


def merge_of_no_adapter(place):
    return ["merge", "--model", str(place.model), "--out", str(place.folder / "merged")]


def merge_into_something(place):
    assert main(sft(place, **{"lora.rank": 2})) == 0
    (place.folder / "merged").mkdir()
    (place.folder / "merged" / "thesis.tex").write_text("years of work")
    return ["merge", "--model", str(place.folder / "my run"), "--out", str(place.folder / "merged")]


def ranked(place, **options):
    own = {"model": place.model, "data": place.write(PAIRS), "out": place.folder / "my run", "held_out_share": 0}
    return ["reward", *words(own | {"batch_size": 6} | options)]


MISTAKES: dict[str, Callable[[Any], list[str]]] = {
    "a misspelt command": lambda place: ["sfd", *sft(place)[1:]],
    "a misspelt option": lambda place: [*without(sft(place), "--batch-size"), "--bathc-size", "4"],
    "an option with one dash": lambda place: [*without(sft(place), "--steps"), "-steps", "1"],
    "a number out of range": lambda place: sft(place, batch_size=0),
    "no number": lambda place: sft(place, seed="one"),
    "no choice": lambda place: sft(place, too_long="cut"),
    "an option twice": lambda place: sft(place, "--seed", 2, seed=1),
    "an option without its value": lambda place: sft(place, "--too-long"),
    "data without its option": lambda place: [*without(sft(place), "--data"), str(place.write(GOOD))],
    "two lengths of training": lambda place: sft(place, epochs=1),
    "a misspelt topic of help": lambda place: ["sft", "--help", "warmpu"],
    "Apple's GPU": lambda place: sft(place, device="mps"),
    "a GPU that is not there": lambda place: sft(place, device="cuda"),
    "more length than positions": lambda place: sft(place, max_length=300),
    "a record beyond the positions": lambda place: sft(place, records=[*GOOD, LONG]),
    "a record beyond the length": lambda place: sft(place, records=[*GOOD, LONG], max_length=200),
    "everything held out": lambda place: sft(place, held_out_share=0.999999),
    "a record without an answer": lambda place: sft(place, records=[*GOOD, {"instruction": "Why?", "output": " "}]),
    "a misspelt file": misspelt_file,
    "another encoding": not_utf8,
    "an unknown suffix": lambda place: sft(place, data=place.write(GOOD, "my data.jsnl")),
    "a misspelt template": lambda place: sft(place, template="alpacca"),
    "out is a file": out_is_a_file,
    "out is somebody's": out_is_somebodys,
    "out is another run": out_is_another_run,
    "a broken line of metrics": broken_metrics,
    "a misspelt target": lambda place: sft(place, **{"lora.rank": 2, "lora.targets": "q_prj"}),
    "a misspelt parameter": lambda place: sft(place, train="nroms"),
    "more last layers than layers": lambda place: sft(place, train="last:9"),
    "parameters beside an adapter": lambda place: sft(place, train="head", **{"lora.rank": 2}),
    "new tokens that would not learn": lambda place: sft(place, model=place.base, template="chatml", train="last:1"),
    "a record that is not there": lambda place: show(place, record=99),
    "a page onto a folder": lambda place: show(place, html="."),
    "a merge of no adapter": merge_of_no_adapter,
    "a merge into something": merge_into_something,
    "a margin without scores": lambda place: ranked(place, margin=1),
    "an option of another command": lambda place: ranked(place, group_size=4),
    "a misspelt kind of reward": lambda place: policy(place, reward="regexp: a b"),
    "a pattern that is none": lambda place: policy(place, reward="regex: ("),
    "a misspelt field": lambda place: policy(place, reward="contains: wrods"),
    "a misspelt function": function("score", asked="scroe"),
    "a misspelt file of a function": misspelt_function_file,
    "a program that may not be run": program_that_may_not_be_run,
    "a misspelt key of a settings file": setting_in_a_file("bathc_size: 2\n"),
    "a key of a settings file twice": setting_in_a_file("seed: 1\nseed: 2\n"),
    "a special token in the text": lambda place: sft(
        place, records=[*GOOD, {"instruction": "Say <|end|>", "output": "No."}]
    ),
    "a table of unknown columns": lambda place: sft(place, records=[{"ask": "Why?", "reply": "So."}] * 4),
    "a home folder of nobody": lambda place: sft(place, out="~nobody-here/run"),
    "no rate": lambda place: sft(place, **{"optim.lr": "nan"}),
    "groups that do not fit": lambda place: policy(place, "grpo", group_size=4, batch_size=10),
    "a beta that stays 0": lambda place: policy(place, **{"kl.beta": 0, "kl.target": 5}),
    "answers without room": lambda place: policy(place, max_new_tokens=256),
    "prompts without room": lambda place: policy(place, max_prompt_length=255),
    "a prompt beyond the length": lambda place: policy(place, records=[*PROMPTS, LONG_PROMPT], max_prompt_length=40),
}


@pytest.fixture
def told(capsys) -> Callable[[], dict[str, str]]:
    """The five parts of the error that was told last."""

    def parts() -> dict[str, str]:
        lines = capsys.readouterr().err.splitlines()[-5:]
        return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}

    return parts


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_fix_cures_what_it_stands_under(place, told, monkeypatch, mistake):
    command = MISTAKES[mistake](place)
    told()
    assert main(command) == 2
    parts = told()
    assert list(parts) == ["error", "where", "found", "expected", "fix"]
    monkeypatch.setattr("sys.stdin", io.StringIO())  # `heed chat` may be what is advised
    status = main(cured(command, parts))
    assert status == 0, f"{parts['error']}\n  fix: {parts['fix']}\n  then: {told()}"

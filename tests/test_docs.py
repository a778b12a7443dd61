"""The written pages agree with the code: the settings page is generated, and what the README shows is what happens."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import yaml

from heed.cli.main import main
from heed.config import SftSettings, load_settings
from heed.lab.base_model import BASE_MODEL
from heed.lab.tasks.splits import training_tasks
from heed.lab.world import make_world
from heed.recipes.demo import write_tasks

ROOT = Path(__file__).parents[1]
RECORD = "13"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown_in_readme(command):
    """What the README prints below a command, without its indentation."""
    block = re.search(rf"^    \$ {re.escape(command)}.*\n((?:    .*\n)+)", README, re.MULTILINE)
    assert block is not None
    return re.sub(r"^    ", "", block[1], flags=re.MULTILINE)


def fenced(language, containing):
    (block,) = (text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text)
    return block


def test_the_settings_page_is_the_one_the_settings_write():
    make_docs = tool("make_docs")
    assert make_docs.PAGE.read_text(encoding="utf-8") == make_docs.text(), "type: make docs"


def test_the_written_arguments_and_the_page_are_current():
    make_api = tool("make_api")
    assert make_api.ARGUMENTS.read_text(encoding="utf-8") == make_api.arguments(), "type: make docs"
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.page(), "type: make docs"


def test_the_mistake_in_the_readme_is_answered_as_shown(capsys):
    command = "heed sft --model base --data answers.jsonl --out runs/first --optim.warmpu 0.1"
    assert main(shlex.split(command)[1:]) == 2
    assert capsys.readouterr().err == shown_in_readme(command)


def test_the_mask_in_the_readme_is_the_one_shown(tmp_path, capsys):
    write_tasks(tmp_path / "train.jsonl", list(training_tasks(make_world(), seed=0, count=40)))
    words = ["--tokenizer", str(BASE_MODEL), "--template", "chatml", "--record", RECORD]
    assert main(["show", str(tmp_path / "train.jsonl"), *words]) == 0
    drawn = capsys.readouterr().out.strip().split("\n", 2)[2]  # after the file and the counts, where tokens were added
    shown = shown_in_readme(f"heed show runs/demo/data/train.jsonl --model runs/demo/sft --record {RECORD}")
    assert drawn == shown.strip().split("\n", 1)[1]


def test_the_wordings_in_the_readme_say_the_record_in_the_readme(tmp_path, capsys):
    (tmp_path / "yes_or_no.jsonl").write_text(fenced("json", 'passage": "Cats').strip() + "\n")
    (tmp_path / "wordings.json").write_text(fenced("json", "[["))
    settings = {"data": {"path": str(tmp_path / "yes_or_no.jsonl"), "wordings": str(tmp_path / "wordings.json")}}
    (tmp_path / "show.yaml").write_text(yaml.safe_dump(settings))
    words = [str(tmp_path / "show.yaml"), "--tokenizer", str(BASE_MODEL), "--template", "plain", "--json"]
    assert main(["show", *words]) == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert texts == [
        "Cats sleep a lot.\n\nDo cats sleep?\nOPTIONS:\n- no\n- yes\nyes<|endoftext|>",
        "Is it true? Do cats sleep? Read: Cats sleep a lot.\nyes<|endoftext|>",
    ]


def test_the_settings_file_that_is_shown_loads(tmp_path):
    path = tmp_path / "shown.yaml"
    path.write_text(fenced("yaml", "wordings.json"))
    assert load_settings(SftSettings, path, {"out": "runs/mixture"}).data

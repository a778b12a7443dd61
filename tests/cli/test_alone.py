"""Commands that do not divide their work are refused as one of several processes, before they do anything."""

import shlex
import subprocess
import sys

import pytest

from heed.cli import alone
from heed.cli.main import COMMANDS, POSITIONAL, TRAINING, main


def started_as(monkeypatch, rank, size="2"):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(alone, "SECONDS_TO_TELL", 0.0)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - set(TRAINING)))
def test_what_does_not_divide_its_work_is_refused_and_told_once(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), *(["a b.jsonl"] if command in POSITIONAL else [])]
    started_as(monkeypatch, "1")
    assert main(words) == 2
    assert capsys.readouterr() == ("", "")
    started_as(monkeypatch, "0")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"heed {command} does not divide its work" in said
    assert f"fix:      env -u WORLD_SIZE -u RANK heed {shlex.join(words)}\n" in said
    assert list(tmp_path.iterdir()) == []


def test_one_process_of_torchrun_and_help_are_not_refused(monkeypatch, capsys):
    started_as(monkeypatch, "1")
    assert main(["eval", "--help"]) == 0
    started_as(monkeypatch, "0", size="1")
    assert main(["chat", "--model", "nowhere/at-all"]) == 2
    assert "does not divide" not in capsys.readouterr().err


def test_the_fix_is_a_command_that_runs(monkeypatch, capsys, tmp_path):
    data = tmp_path / "two words.jsonl"
    data.write_text('{"prompt": "2 + 2?", "response": "4"}\n', encoding="utf-8")
    started_as(monkeypatch, "0")
    assert main(["data", "check", str(data)]) == 2
    fix = shlex.split(capsys.readouterr().err.partition("fix:")[2].strip())
    cured = [*fix[:5], sys.executable, "-m", *fix[5:]]
    ended = subprocess.run(cured, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr

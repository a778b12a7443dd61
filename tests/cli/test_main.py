"""The command line: what is typed, what is printed, and the exit status."""

import errno
import os
import subprocess
import sys

import pytest
from pydantic import Field, create_model

from heed.cli.main import COMMANDS, main
from heed.cli.usage import usage
from heed.errors import typed
from heed.settings import Settings, flag, options


def errors_of(capsys, words):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "where", "found", "expected", "fix"]
    return err


def test_a_word_after_a_list_is_not_taken_for_what_the_command_works_on(capsys):
    words = ["data", "decontaminate", "train.jsonl", "--against", "one.jsonl", "two.jsonl", "--out", "clean.jsonl"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "it is not clear what 'two.jsonl' belongs to" in told
    assert "fix:      --against two.jsonl, or --data two.jsonl" in told


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text for name in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_whole_help_explains_every_option_in_at_most_120_columns(command):
    lines = usage(command, COMMANDS[command], columns=120, topic="all").splitlines()
    assert max(map(len, lines)) <= 120
    shown = [line.split()[0].replace("[no-]", "") for line in lines if line.startswith("  --")]
    assert shown == [option.flag for option in options(COMMANDS[command])]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_of_help_names_every_option_and_explains_what_matters_most(command):
    cls = COMMANDS[command]
    lines = usage(command, cls, columns=120).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 120
    words = " ".join(lines).replace("[no-]", "").split()
    assert [option.flag for option in options(cls) if option.flag not in words] == []
    explained = [line.split()[0].replace("[no-]", "") for line in lines if line.startswith("  --")]
    assert explained == [flag(key) for key in cls.common.split() or [option.key for option in options(cls)]]
    assert all(option.flag in explained for option in options(cls) if option.required)


def test_the_first_screen_of_help_stays_one_screen_with_fifty_options():
    fields = {
        f"setting_number_{n}": (int, Field(n, title=f"Part {n // 6}", description="what it does")) for n in range(50)
    }
    many = create_model("Many", __base__=Settings, __doc__="Do something.\n\n    heed many", **fields)
    many.common = " ".join(list(fields)[:12])
    lines = usage("many", many, columns=100).splitlines()
    assert len(lines) <= 45
    assert sum(line.startswith("  --") for line in lines) == 12


def test_help_about_a_word_explains_what_it_names_and_nothing_else(capsys):
    assert main(["sft", "--help", "lora"]) == 0
    out = capsys.readouterr().out
    assert "--lora.rank" in out
    assert "--model " not in out.split("Low-rank")[1]
    assert main(["sft", "--help", "batch-size"]) == 0
    assert "--batch-size" in capsys.readouterr().out


def test_help_about_nothing_that_is_there_names_the_nearest(capsys):
    assert "--help optim.warmup" in errors_of(capsys, ["sft", "--help", "warmpu"])


def test_help_is_given_wherever_it_is_asked_for(capsys):
    assert main(["sft", "--no-such", "x", "--model", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: heed sft ")


def test_help_on_a_narrow_terminal_wraps_below_the_text():
    lines = usage("sft", COMMANDS["sft"], columns=80).splitlines()
    assert any(line.startswith(" " * 20) for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_printed_even_where_options_are_missing(command, capsys):
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: heed {command} ")


def test_the_hub_is_told_nothing_unless_the_user_says_so(monkeypatch):
    # Set first, so that both are put back afterwards.
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    main(["--version"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    main(["--version"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_version_is_the_installed_one(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    ("words", "named", "typed_in_the_fix"),
    [
        (["sfd"], "sfd", "heed sft"),
        (["sft"], "model", "--model MODEL"),
        (["sft", "--optim.warmpu", "5"], "--optim.warmpu", "--optim.warmup"),
        (["sft", "--batchsize=5"], "--batchsize", "--batch-size"),
        (["sft", "--lr", "5"], "--lr", "--optim.lr"),
        (["sft", "--no-model"], "--no-model", "--model"),
        (["sft", "--model"], "--model", "--model MODEL"),
        (["sft", "--too-long", "--seed", "1"], "--too-long", "--too-long error"),
        (["sft", "--seed", "1", "--seed", "2"], "--seed", "--seed 2"),
        (["sft", "data.jsonl"], "data.jsonl", "--data data.jsonl"),
        (["sft", "-s"], "-s", "--help all"),
        (["sft", "-steps", "1"], "-steps", "--steps"),
        (["demo", "runs/first"], "runs/first", "--out runs/first"),
        (["sft", "absent.yaml"], "absent.yaml", "name"),
        (["sft", "--model=m", "--data=d", "--out=o", "--batch-size=0"], "batch_size", "--batch-size 16"),
        (["chat"], "model", "--model MODEL"),
        (["merge", "run"], "out", "--out OUT"),
    ],
)
def test_a_mistake_is_told_in_five_parts_with_status_2(words, named, typed_in_the_fix, capsys):
    problem, where, *_, fix = errors_of(capsys, words).splitlines()
    assert named in f"{problem} {where}"
    assert typed_in_the_fix in fix


def stand_in_for_training(monkeypatch, behaviour):
    """Put `behaviour` where `heed sft` trains: what the command line makes of its end is the behaviour under test."""
    import types

    module = types.ModuleType("heed.recipes.sft")
    module.run = behaviour
    import heed.recipes

    monkeypatch.setitem(sys.modules, "heed.recipes.sft", module)
    monkeypatch.setattr(heed.recipes, "sft", module, raising=False)


SFT = ["sft", "--model", "m", "--data", "a", "--data", "b", "--out", "o"]


def test_flags_reach_the_recipe_as_settings(monkeypatch):
    seen = []
    stand_in_for_training(monkeypatch, seen.append)
    words = [*SFT, "--no-share-prefixes", "--gradient_checkpointing", "--optim.lr=1e-4", "--lora.rank", "8"]
    assert main(words) == 0
    (settings,) = seen
    assert [source.path for source in settings.data] == ["a", "b"]
    assert (settings.share_prefixes, settings.activations) == (False, "recompute")
    assert (settings.optim.lr, settings.lora.rank) == (1e-4, 8)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--gradient-checkpointing", "recompute"),
        ("--no-gradient-checkpointing", "keep"),
        ("--gradient-checkpointing=true", "recompute"),
        ("--activations=offload", "offload"),
    ],
)
def test_a_former_switch_is_a_switch_still(monkeypatch, word, meant):
    seen = []
    stand_in_for_training(monkeypatch, seen.append)
    assert main([*SFT, word, "--seed", "4"]) == 0
    assert (seen[0].activations, seen[0].seed) == (meant, 4)


def test_what_replaced_a_switch_needs_a_value(monkeypatch, capsys):
    stand_in_for_training(monkeypatch, lambda settings: None)
    assert main([*SFT, "--activations", "--seed", "4"]) == 2
    assert "--activations keep" in capsys.readouterr().err
    assert main([*SFT, "--no-activations"]) == 2


def test_a_settings_file_comes_first_and_flags_win(monkeypatch, tmp_path):
    seen = []
    stand_in_for_training(monkeypatch, seen.append)
    path = tmp_path / "sft.yaml"
    path.write_text("model: m\ndata: [a, {path: b, weight: 2}]\nout: o\nseed: 3\n")
    assert main(["sft", str(path), "--seed", "4"]) == 0
    assert (seen[0].seed, seen[0].data[1].weight) == (4, 2.0)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl"),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing: file write failed"
        ),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_in_five_parts(error, monkeypatch, capsys):
    def run(settings):
        raise error

    stand_in_for_training(monkeypatch, run)
    assert "full" in errors_of(capsys, SFT).splitlines()[0]


def test_a_full_disk_behind_another_exception_is_still_seen(monkeypatch, capsys):
    def run(settings):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise RuntimeError("could not save") from cause

    stand_in_for_training(monkeypatch, run)
    assert "full" in errors_of(capsys, SFT).splitlines()[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_what_libraries_raise_on_a_full_device_is_recognised():
    import safetensors.torch
    import torch

    from heed.files import full_disk

    weights = {"weight": torch.zeros(100_000)}
    with pytest.raises(RuntimeError) as from_torch:
        torch.save(weights, "/dev/full")
    with pytest.raises(OSError) as from_python, open("/dev/full", "wb") as file:  # noqa: PT011 - the number is checked
        file.write(safetensors.torch.save(weights))
    assert full_disk(from_torch.value) is not None
    assert full_disk(from_python.value) is not None


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch):
    def run(settings):
        raise ZeroDivisionError("ours")

    stand_in_for_training(monkeypatch, run)
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(SFT)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys):
    def run(settings):
        raise KeyboardInterrupt

    stand_in_for_training(monkeypatch, run)
    assert main(SFT) == 130
    assert "same command" in capsys.readouterr().err


def test_windows_is_refused_in_five_parts_and_still_gets_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["sft", "--help"]) == 0
    capsys.readouterr()
    assert "WSL" in errors_of(capsys, SFT)


def test_apples_gpu_is_refused_in_five_parts_whose_fix_is_a_device(capsys, tmp_path):
    words = ["sft", "--model", "m", "--data", "d", "--out", str(tmp_path / "run"), "--device"]
    assert errors_of(capsys, [*words, "mps"]).splitlines()[-1].endswith("--device cpu")
    assert "mps" not in errors_of(capsys, [*words, "cpu"])  # the model is missing, the device is not at fault


def test_modules_of_linux_are_not_needed_to_import_heed():
    code = (
        "import importlib, pathlib, sys, datasets, peft, transformers\n"  # what they need here is their own affair
        "importlib.import_module('torch.distributed'); transformers.PreTrainedModel\n"
        "sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'readline', 'termios']))\n"
        "import heed; root = pathlib.Path(heed.__file__).parent\n"
        "for path in sorted(root.rglob('*.py')):\n"
        "    parts = ('heed', *path.relative_to(root).with_suffix('').parts)\n"
        "    importlib.import_module('.'.join(parts).removesuffix('.__init__'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_path_with_a_space_is_quoted_where_it_is_to_be_typed():
    assert typed("a b/c'd") == "'a b/c'\"'\"'d'"
    assert typed("plain/path.jsonl") == "plain/path.jsonl"
    assert typed("~/my data/x") == "~/'my data/x'"  # a shell expands no ~ in quotes

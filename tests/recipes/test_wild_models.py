"""Every command that opens a model refuses one that is not whole, runs no code unasked, and says what it mended."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tastes
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from heed.cli.main import main
from heed.models.adapters.folder import load_adapter
from heed.models.load import load_model

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from damage import change_config, drop, rename_weights, with_code, with_code_in_the_tokenizer

CPU = torch.device("cpu")
GOOD = {"instruction": "Name a colour.", "output": "Blue."}
RANKED = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Table."}
JUDGED = {"prompt": "Name a colour.", "completion": "Blue.", "label": True}
BAD = {"prompt": "Name a colour.", "completion": "Table.", "label": False}


def copied(model: Path, to: Path) -> Path:
    return Path(shutil.copytree(model, to))


def words_of(command: str, model: Path, tmp_path: Path) -> list[str]:
    """A short run of a command on this model."""
    data = {"sft": [GOOD], "reward": [RANKED], "dpo": [RANKED], "kto": [JUDGED, BAD], "show": [GOOD]}
    records = data.get(command, [{"prompt": "Name a colour."}]) * 4
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = {
        "sft": ["sft", "--steps", "1", "--held-out-share", "0"],
        "reward": ["reward", "--held-out-share", "0"],
        "dpo": ["dpo", "--held-out-share", "0"],
        "kto": ["dpo", "--objective", "kto", "--held-out-share", "0"],
        "ppo": ["ppo", "--reward", "contains: blue", "--steps", "1", "--batch-size", "2", "--max-new-tokens", "4"],
        "grpo": [
            *["grpo", "--reward", "contains: blue", "--steps", "1", "--batch-size", "2", "--group-size", "2"],
            *["--max-new-tokens", "4"],
        ],
        "chat": ["chat"],
        "show": ["show"],
    }[command]
    if command == "chat":
        return [*words, "--model", str(model), "--device", "cpu", "--max-new-tokens", "2"]
    if command == "show":
        return [*words, str(path), "--model", str(model)]
    return [*words, "--model", str(model), "--data", str(path), "--out", str(tmp_path / "run"), "--device", "cpu"]


def heed(words: list[str], *, says: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with something on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "heed.cli.main", *words],
        input=says,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
    )


# ---- not whole


@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "kto", "ppo", "grpo", "chat"])
def test_no_command_goes_on_from_random_numbers(command, instruct, tmp_path, capsys):
    model = copied(instruct, tmp_path / "model")
    drop(model, "layers.1.mlp")
    assert main(words_of(command, model, tmp_path)) == 2
    told = capsys.readouterr().err
    assert "3 of" in told
    assert "layers.1.mlp" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_under_a_compilers_names_are_tuned_as_they_are(rank, instruct, tmp_path, capsys):
    model = copied(instruct, tmp_path / "model")
    rename_weights(model, lambda name: f"_orig_mod.{name}")
    words = [*words_of("sft", model, tmp_path), "--lora.rank", str(rank), "--optim.lr", "1e-12"]
    assert main(words) == 0
    assert "_orig_mod." in capsys.readouterr().err
    found, expected = load_model(str(tmp_path / "run"), CPU).state_dict(), load_model(str(instruct), CPU).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name][: len(weight)], weight, rtol=1e-5, atol=1e-5)


def test_a_classifier_without_its_score_weights_rewards_nobody(tuned, tmp_path, capsys):
    classifier = AutoModelForSequenceClassification.from_pretrained(tuned, num_labels=1)
    classifier.save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(tuned).save_pretrained(tmp_path / "reward")
    drop(tmp_path / "reward", "score")
    words = [*words_of("ppo", tuned, tmp_path), "--reward", str(tmp_path / "reward")]
    words = [
        word
        for at, word in enumerate(words)
        if "contains" not in word and words[at : at + 2] != ["--reward", "contains: blue"]
    ]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "score.weight" in told
    assert "1 of" in told


def test_an_adapter_whose_keys_do_not_match_is_not_merged_into_nothing(instruct, tmp_path, capsys):
    assert main([*words_of("sft", instruct, tmp_path), "--lora.rank", "2"]) == 0
    rename_weights(tmp_path / "run", lambda name: name.replace("self_attn", "attention"), "adapter_model.safetensors")
    capsys.readouterr()
    assert main(["merge", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- code that comes with a model


@pytest.mark.parametrize("command", ["sft", "chat", "show"])
@pytest.mark.parametrize("damage", [with_code, with_code_in_the_tokenizer], ids=["model", "tokenizer"])
def test_a_models_code_does_not_run_unasked_whatever_is_piped_in(command, damage, instruct, tmp_path):
    if command == "show" and damage is with_code:
        pytest.skip("show opens no model")
    model = copied(instruct, tmp_path / "model")
    mark = damage(model)
    if command == "show":
        (model / "tokenizer.json").rename(model / "other.json")  # which would be read without transformers
    done = heed(words_of(command, model, tmp_path), says="y\n" * 9, HF_HOME=str(tmp_path / "home"))
    assert not mark.exists()
    if damage is with_code:
        assert done.returncode == 2
        assert "configuration_own.py" in done.stderr
        assert "--trust-remote-code" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_that_is_trusted_runs_and_is_named_first(instruct, tmp_path):
    model = copied(instruct, tmp_path / "model")
    mark = with_code(model)
    done = heed(
        [*words_of("sft", model, tmp_path), "--trust-remote-code"],
        HF_HOME=str(tmp_path / "home"),
        HF_MODULES_CACHE=str(tmp_path / "modules"),
    )
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert "modeling_own.py" in done.stderr
    assert "--trust-remote-code" in done.stderr


# ---- vocabularies


def with_rowless_pad(instruct: Path, to: Path) -> Path:
    model = copied(instruct, to)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model)
    assert tokenizer.pad_token_id == json.loads((model / "config.json").read_text())["vocab_size"]
    return model


@pytest.mark.parametrize("rank", [0, 2])
def test_a_padding_token_without_a_row_is_not_saved_as_the_one_to_pad_with(rank, instruct, tmp_path, capsys):
    model = with_rowless_pad(instruct, tmp_path / "model")
    assert main([*words_of("sft", model, tmp_path), "--lora.rank", str(rank)]) == 0
    assert "[PAD]" in capsys.readouterr().err
    rows = json.loads((instruct / "config.json").read_text())["vocab_size"]
    assert GenerationConfig.from_pretrained(tmp_path / "run").pad_token_id < rows
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.pad_token_id is None or tokenizer.pad_token_id < rows
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    plain.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)


def test_text_that_holds_a_token_without_a_row_is_told(instruct, tmp_path, capsys):
    model = with_rowless_pad(instruct, tmp_path / "model")
    words = words_of("sft", model, tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps({"instruction": "What is [PAD]?", "output": "Padding."}) + "\n")
    assert main(words) == 2
    assert "[PAD]" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sft", "chat"])
def test_a_tokenizer_with_more_words_than_rows_is_told_in_five_parts(command, instruct, tmp_path, capsys):
    model = copied(instruct, tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text())
    rows = len(content["model"]["vocab"])
    content["model"]["vocab"]["hello"] = max(content["model"]["vocab"].values()) + 1
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert main(words_of(command, model, tmp_path)) == 2
    told = capsys.readouterr().err
    assert "'hello'" in told
    assert f"{rows:,} rows" in told


def test_templates_without_a_default_are_told_and_a_template_cures_it(instruct, tmp_path, capsys):
    model = copied(instruct, tmp_path / "model")
    source = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    change_config(model, "tokenizer_config.json", chat_template=[{"name": "rag", "template": source}])
    assert main(words_of("sft", model, tmp_path)) == 2
    told = capsys.readouterr().err
    assert "rag" in told
    assert "--template" in told
    (tmp_path / "own.jinja").write_text(source)
    assert main([*words_of("sft", model, tmp_path), "--template", str(tmp_path / "own.jinja")]) == 0


# ---- adapters as the model to tune


def in_a_hub_cache(folder: Path, cache: Path, name: str) -> None:
    """The folder as the hub's client keeps a repository that it has fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, instruct) -> Path:
    """An adapter as other tools publish one: on a base elsewhere, without a tokenizer."""
    folder = tmp_path_factory.mktemp("adapter")
    data = tastes.write(folder / "any.jsonl", tastes.any_colour())
    out = folder / "run"
    options = {"steps": 10, "batch_size": 4, "optim_lr": 1e-2, "lora_rank": 2, "held_out_share": 0}
    assert tastes.heed("sft", model=instruct, data=data, out=out, **options) == 0
    shutil.copytree(out, folder / "adapter", ignore=lambda _, names: [n for n in names if not n.startswith("adapter_")])
    change_config(folder / "adapter", "adapter_config.json", base_model_name_or_path=str(instruct))
    return folder / "adapter"


@pytest.mark.parametrize("rank", ["0", "2"])
@pytest.mark.parametrize("named", ["folder", "hub"])
def test_an_adapter_given_as_the_model_is_merged_and_tuned_further(named, rank, adapter, tmp_path):
    in_a_hub_cache(adapter, tmp_path / "cache", "someone/adapter")
    name = str(adapter) if named == "folder" else "someone/adapter"
    words = [*words_of("sft", Path(name), tmp_path), "--lora.rank", rank, "--optim.lr", "1e-12"]
    done = heed(words, HF_HUB_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = load_adapter(str(adapter), CPU)(ids).logits
    found = load_model(str(tmp_path / "run"), CPU)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    of_base = load_model(load_adapter(str(adapter), CPU).peft_config["default"].base_model_name_or_path, CPU)(
        ids
    ).logits
    assert (expected - of_base).abs().max() > 1e-2


# ---- what is written


@pytest.mark.parametrize("rank", ["0", "2"])
@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_the_umask_decides_who_may_read_what_is_written(rank, umask, file, folder, base, tmp_path):
    before = os.umask(umask)
    try:
        assert main([*words_of("sft", base, tmp_path), "--lora.rank", rank]) == 0
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if not path.is_symlink()}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode != (folder if path.is_dir() else file)} == {}


def test_the_saved_weights_hold_what_was_trained(instruct, tmp_path):
    assert main(words_of("sft", instruct, tmp_path)) == 0
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == load_file(instruct / "model.safetensors").keys()


# ---- the folder that the command runs in


def test_the_folder_that_a_run_is_started_in_may_be_its_own_and_is_told_where_it_is_taken(
    instruct, tmp_path, monkeypatch, capsys
):
    words = words_of("sft", instruct, tmp_path)
    words[words.index("--out") + 1] = "."
    for name, content in (("empty", None), ("taken", "years of work")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if content is not None:
            (tmp_path / name / "thesis.tex").write_text(content)
        assert main(words) == (0 if content is None else 2)
    told = capsys.readouterr().err
    assert "thesis.tex" in told
    assert "taken-2" in told
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_a_merged_model_does_not_take_the_place_of_where_one_stands(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", "--model", str(adapter), "--out", ".", "--device", "cpu"]) == 2
    assert "--out merged" in capsys.readouterr().err


# ---- the process of whoever imports heed


def test_heed_leaves_the_process_that_imports_it_as_it_was():
    code = """
        import logging, warnings, ctypes
        import torch, transformers, peft
        from transformers.utils import logging as theirs
        seen = lambda: (
            theirs.get_verbosity(), theirs.is_progress_bar_enabled(), logging.getLogger().level,
            [h for h in logging.getLogger().handlers], list(warnings.filters),
        )
        before = seen()
        import pkgutil, importlib, sys, heed
        calls = []
        loaded = ctypes.CDLL
        ctypes.CDLL = lambda name, *a, **k: calls.append(name) or loaded(name, *a, **k)
        sys.modules["heed.lm_eval"] = None  # which is lm-eval's, and loads what that loads
        for module in pkgutil.walk_packages(heed.__path__, "heed."):
            if not module.name.startswith("heed.lm_eval"):
                importlib.import_module(module.name)
        from heed.models.kernels.speed import speed_up
        from heed.models.load import load_model
        speed_up(load_model(sys.argv[1], torch.device("cpu")))
        assert seen() == before, (seen(), before)
        assert None not in calls, "the C library was opened, to change its allocator"
    """
    import textwrap

    from heed.lab.base_model import BASE_MODEL

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(BASE_MODEL)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- checkpoints in 16 bits


@pytest.fixture(scope="module")
def half(tmp_path_factory, instruct) -> Path:
    folder = tmp_path_factory.mktemp("half") / "model"
    AutoModelForCausalLM.from_pretrained(instruct, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(instruct).save_pretrained(folder)
    return folder


def dtypes_in(file: Path) -> set[torch.dtype]:
    return {weight.dtype for weight in load_file(file).values()}


@pytest.mark.parametrize("template", [None, "chatml"])
def test_an_adapter_on_a_checkpoint_in_16_bits_leaves_it_in_16_bits(template, half, tmp_path, capsys):
    words = [*words_of("sft", half, tmp_path), "--lora.rank", "2", "--optim.lr", "1e-2"]
    assert main([*words, *(["--template", template] if template else [])]) == 0
    run = tmp_path / "run"
    assert dtypes_in(run / "adapter_model.safetensors") == {torch.float32}
    if template:
        assert dtypes_in(run / "base" / "model.safetensors") == {torch.bfloat16}
    assert main(["merge", "--model", str(run), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert dtypes_in(tmp_path / "out" / "model.safetensors") == {torch.bfloat16}
    plain = AutoModelForCausalLM.from_pretrained(run, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(load_adapter(str(run), CPU)(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


def test_reward_and_policy_stand_on_one_checkpoint_in_16_bits(half, tmp_path, capsys):
    (tmp_path / "reward").mkdir()
    assert main([*words_of("reward", half, tmp_path / "reward"), "--lora.rank", "2"]) == 0
    words = words_of("ppo", half, tmp_path)
    words[words.index("--reward") + 1] = str(tmp_path / "reward" / "run")
    capsys.readouterr()
    assert main(words) == 0
    assert "weights of its own" not in capsys.readouterr().err
    assert dtypes_in(tmp_path / "run" / "adapter_model.safetensors") == {torch.float32}


@pytest.mark.parametrize(
    ("asked", "left"), [(None, torch.bfloat16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_what_is_left_of_a_checkpoint_in_16_bits_is_kept_in_them_unless_told(asked, left, half, tmp_path):
    words = [*words_of("sft", half, tmp_path), *(["--save-dtype", asked] if asked else []), "--keep-states"]
    assert main(words) == 0
    run = tmp_path / "run"
    assert dtypes_in(run / "model.safetensors") == {left}
    assert json.loads((run / "config.json").read_text())["dtype"] == str(left).removeprefix("torch.")
    (trained,) = (run / "checkpoints").glob("step-*")
    assert dtypes_in(trained / "model.safetensors") == {torch.float32}
    found, exact = load_file(run / "model.safetensors"), load_file(trained / "model.safetensors")
    assert all(torch.equal(found[name], weight.to(left)) for name, weight in exact.items())
    assert AutoModelForCausalLM.from_pretrained(run).dtype == left

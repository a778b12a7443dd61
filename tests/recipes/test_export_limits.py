"""`heed export` where something is in the way: memory, a family, a place, a disk, code of its own."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf_files
import pytest
import torch
import transformers as t
from test_export import CUTS, byte_level, errors_of, exported

from heed.errors import UserError
from heed.models.export.families import family_of
from heed.models.export.fields import OF_FORMAT, compare_fields
from heed.models.export.reading_gguf import open_gguf
from heed.models.export.vocabulary import vocabulary_of
from heed.models.export.writing_gguf import write_gguf
from heed.models.intake.vocabulary import num_rows
from heed.models.load import load_with_tokenizer
from heed.models.stops import stop_ids_of

pytest.importorskip("gguf")
sys.path.append(str(Path(__file__).parents[1] / "models"))
from damage import truncated, with_code

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    return gguf_files.write_model(folder, gguf_files.CONFIGS["llama untied"], byte_level(CUTS["gpt-2"]()))


# -- memory -----------------------------------------------------------------------------------------------------------

MEASURED = """
import sys, threading, time
from pathlib import Path
import heed.recipes.exporting.gguf, heed.recipes.export
from heed.cli.main import main

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

from heed.allocator import keep_freed_memory
keep_freed_memory()  # as the command does
for to, out in (("folder", sys.argv[2]), ("gguf", sys.argv[3])):
    before, peak, done = resident(), 0, False
    def watch():
        global peak
        while not done:
            peak = max(peak, resident())
            time.sleep(0.005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    code = main(["export", sys.argv[1], "--to", to, "--out", out, "--answers", "1"])
    done = True
    watcher.join()
    print("measured", to, code, peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell what is resident")
def test_an_export_holds_two_copies_of_the_model_and_not_five(tmp_path):
    """Whichever reads the file at the time, and half a copy for working: transformers' own reader holds the two."""
    sizes = {**gguf_files.LLAMA, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6}
    model = gguf_files.write_model(
        tmp_path / "model", lambda v: t.LlamaConfig(vocab_size=v, **sizes), byte_level(CUTS["gpt-2"]())
    )
    size = (model / "model.safetensors").stat().st_size
    words = map(str, (model, tmp_path / "m", tmp_path / "m.gguf"))
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=False)
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("measured")]
    assert [(to, code) for _, to, code, _ in found] == [("folder", "0"), ("gguf", "0")], done.stderr
    for *_, peak in found:
        assert 0.9 * size < int(peak) < 2.6 * size, int(peak) / size


# -- what the file says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("puts_space", [None, False, True], ids=["pairs", "scores", "scores and a space"])
def test_every_entry_of_the_file_is_compared(puts_space, tmp_path):
    """Left out, changed or put in: each is found, by its name."""
    tokenizer = byte_level(CUTS["gpt-2"](), template={"default": "{{ messages }}", "tool-use": "{{ tools }}"})
    config = t.LlamaConfig(vocab_size=len(tokenizer), rope_parameters=gguf_files.LINEAR, **gguf_files.LLAMA)
    model = gguf_files.write_model(tmp_path / "model", config, tokenizer)
    loaded = load_with_tokenizer(str(model), CPU)
    vocabulary = vocabulary_of(loaded.tokenizer, num_rows(loaded.model), stop_ids_of(loaded.model), "m")
    if puts_space is not None:
        scores = [-0.1 * place for place in range(len(vocabulary.tokens))]
        vocabulary = replace(vocabulary, model="llama", merges=None, scores=scores, adds_space=puts_space)
    family = family_of(loaded.model.config, "m")
    write_gguf(tmp_path / "m.gguf", loaded.model, vocabulary, family, "q8_0", name="m")
    file = open_gguf(tmp_path / "m.gguf")

    def compare(fields):
        compare_fields(replace(file, fields=fields), loaded.model, vocabulary, family, "q8_0", "m")

    compare(file.fields)
    keys = [key for key in file.fields if key not in OF_FORMAT]
    assert len(keys) > 20
    assert ("tokenizer.ggml.add_space_prefix" in keys) == (puts_space is not None)
    assert "tokenizer.chat_template.tool_use" in keys
    for key in keys:
        value = file.fields[key]
        other = not value if isinstance(value, bool) else value[:-1] if isinstance(value, (str, list)) else value + 1
        for fields in (
            {**file.fields, key: other},
            {each: value for each, value in file.fields.items() if each != key},
        ):
            with pytest.raises(UserError, match=f"{key}.* is another"):
                compare(fields)
    with pytest.raises(UserError, match="remove_extra_whitespaces is another"):
        compare({**file.fields, "tokenizer.ggml.remove_extra_whitespaces": True})


# -- refused before the weights are read ------------------------------------------------------------------------------


def test_what_config_and_tokenizer_tell_is_told_before_weights_are_read(tmp_path, capsys):
    """The weights are half there: whoever reads them meets that error."""
    odd = {
        "this family of models is not written as GGUF": (lambda v: t.PhiConfig(vocab_size=v, **gguf_files.SIZES), {}),
        "llama.cpp computes this model otherwise": (
            lambda v: t.LlamaConfig(vocab_size=v, hidden_act="relu", **gguf_files.LLAMA),
            {},
        ),
        "llama.cpp would turn text into other tokens": (gguf_files.CONFIGS["llama tied"], {"takes_whole_words": True}),
    }
    for number, (says, (config, how)) in enumerate(odd.items()):
        model = gguf_files.write_model(tmp_path / str(number), config, byte_level(CUTS["gpt-2"](), **how))
        truncated(model)
        assert says in errors_of(capsys, model, "--out", tmp_path / "m.gguf")


def test_a_place_that_cannot_be_taken_is_told_before_weights_are_read(plain, tmp_path, capsys):
    model = tmp_path / "model"
    t.AutoTokenizer.from_pretrained(plain).save_pretrained(model)  # and no weights at all
    (tmp_path / "file").write_text("")
    (tmp_path / "lost.gguf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for out, says in (
        (tmp_path / "lost.gguf", "a link that leads nowhere"),
        (tmp_path / "file" / "m.gguf", "cannot be written"),
        (tmp_path / "lost" / "m.gguf", "cannot be written"),
        (Path("/proc/m.gguf"), "cannot be written"),
    ):
        assert says in errors_of(capsys, model, "--out", out)
    assert "a link that leads nowhere" in errors_of(capsys, model, "--to", "folder", "--out", tmp_path / "lost")
    assert "cannot be written" in errors_of(capsys, model, "--to", "folder", "--out", tmp_path / "file" / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lost", "lost.gguf", "model"]


@pytest.mark.parametrize("to", ["gguf", "folder"])
def test_a_disk_that_fills_up_among_the_weights_is_told(to, plain, tmp_path, capsys):
    """No file may grow past half the weights, which a program meets as it meets a full disk."""
    out = tmp_path / ("m.gguf" if to == "gguf" else "m")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((plain / "model.safetensors").stat().st_size // 2, limits[1]))
    try:
        err = errors_of(capsys, plain, "--to", to, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the disk is full" in err or "a file grew past the size" in err
    assert list(tmp_path.iterdir()) == []
    assert exported(plain, "--to", to, "--out", out, "--answers", 0) == 0  # the fix cures


def test_a_weight_that_float16_cannot_hold_is_told_in_folders_too(plain, tmp_path, capsys):
    model = t.AutoModelForCausalLM.from_pretrained(plain)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = -1e5
    model.save_pretrained(tmp_path / "model")
    t.AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "model")
    how = ["--to", "folder", "--out", tmp_path / "m"]
    err = errors_of(capsys, tmp_path / "model", *how, "--dtype", "float16")
    assert "model.layers.0.mlp.up_proj.weight" in err
    assert "1e+05" in err
    assert "at most 65,504" in err
    assert "fix:      --dtype float32" in err
    assert not (tmp_path / "m").exists()
    assert exported(tmp_path / "model", *how, "--dtype", "float32") == 0


# -- code of its own --------------------------------------------------------------------------------------------------


def test_a_model_with_code_of_its_own_is_read_back_by_that_code(plain, tmp_path, capsys):
    model = tmp_path / "model"
    t.AutoModelForCausalLM.from_pretrained(plain).save_pretrained(model)
    t.AutoTokenizer.from_pretrained(plain).save_pretrained(model)
    mark = with_code(model)
    how = ["--to", "folder", "--out", tmp_path / "m"]
    assert "--trust-remote-code" in errors_of(capsys, model, *how)
    assert not mark.exists()
    err = errors_of(capsys, model, "--out", tmp_path / "m.gguf", "--trust-remote-code")
    assert "with code of its own" in err
    assert "--to folder --out FOLDER --trust-remote-code" in err
    mark.unlink()
    assert exported(model, *how, "--trust-remote-code") == 0
    assert mark.exists()
    assert "loaded again" in capsys.readouterr().out
    mark.unlink()
    assert sorted(path.name for path in (tmp_path / "m").glob("*.py")) == ["configuration_own.py", "modeling_own.py"]
    (model / "modeling_own.py").unlink()  # the written folder stands alone
    again = t.AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=True)
    assert type(again).__name__ == "OwnForCausalLM"
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, t.AutoModelForCausalLM.from_pretrained(plain)(ids).logits)

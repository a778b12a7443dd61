"""Every mistake of a user's: five parts on standard error, exit status 2, no traceback, nothing half-written."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import MODEL_FILES, parts_of_refusal
from safetensors.torch import load_file, save_file

from heed.cli.main import main

GOOD = {"instruction": "Name a colour.", "output": "Blue."}


@pytest.fixture
def refused(tune, tmp_path, capsys) -> Callable[..., dict[str, str]]:
    """Run `heed sft` into `tmp_path / "run"`, see that it refuses as it should, and return the parts of the error."""

    def ran(*words: object, leaves: bool = False, **options: object) -> dict[str, str]:
        out = tmp_path / "run"
        options = {"out": out, "steps": 2, "batch_size": 4} | options
        assert tune(*words, **options) == 2
        return parts_of_refusal(capsys, out, leaves=leaves)

    return ran


# ---- data


def broken_line(folder: Path) -> Path:
    path = folder / "data.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n{{"instruction": "Say", "output\n{json.dumps(GOOD)}\n')
    return path


def not_utf8(folder: Path) -> Path:
    path = folder / "data.jsonl"
    line = json.dumps(GOOD).encode() + b"\n"
    path.write_bytes(line + line + b'{"instruction": "Caf\xe9?", "output": "Oui."}\n' + line)
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "data.jsonl"
    path.write_text("")
    return path


def records(*some: object) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        path = folder / "data.jsonl"
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in some), encoding="utf-8")
        return path

    return written


def chat(*turns: tuple[str, str], **more: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


def weighted(weight: object) -> dict[str, object]:
    question, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": weight}
    return {"messages": [question, answer]}


DATA = {
    "a missing file": (lambda folder: folder / "absent.jsonl", "does not exist", "absent.jsonl", "no such file"),
    "a broken JSON line": (broken_line, "JSON", "line 3", ""),
    "an unknown shape": (
        records(GOOD, {"ask": "Why?", "reply": "So."}),
        "unknown shape",
        "record 2",
        "the keys ask (text), reply (text)",
    ),
    "an empty response": (
        records(GOOD, {"instruction": "Why?", "output": " "}),
        "empty response",
        "record 2",
        "message 2",
    ),
    "no assistant turn": (
        records(GOOD, chat(("system", "Be kind."), ("user", "Why?"))),
        "no assistant turn",
        "record 2",
        "the roles system, user",
    ),
    "no messages": (records(GOOD, {"messages": []}), "no messages", "record 2", ""),
    "invalid UTF-8": (not_utf8, "not UTF-8", "line 3, byte offset ", "0xe9"),
    "an empty file": (empty_file, "empty", "data.jsonl", "0 bytes"),
    "a weight that is not a number": (records(GOOD, weighted("heavy")), "weight", "record 2", "heavy"),
    "a negative weight": (records(GOOD, weighted(-1)), "weight", "record 2", "-1"),
    "an infinite weight": (records(GOOD, weighted(float("inf"))), "weight", "record 2", "nfinity"),
    "all-zero weights": (records(GOOD, weighted(0)), "all-zero weights", "record 2", "weight 0"),
    "a special token in a question": (
        records(GOOD, {"instruction": "What is <|end|>?", "output": "A token."}),
        "special-token text",
        "record 2",
        "<|end|>",
    ),
    "a special token in an answer": (
        records(GOOD, {"instruction": "Hi", "output": "Hello<|end|>"}),
        "special-token text",
        "record 2",
        "<|end|>",
    ),
}


@pytest.mark.parametrize("mistake", DATA)
def test_data_that_cannot_be_used_is_refused(instruct, refused, tmp_path, mistake):
    make, problem, where, found = DATA[mistake]
    error = refused(model=instruct, data=make(tmp_path))
    assert problem in error["error"]
    assert where in error["where"]
    assert found in error["found"]


def test_half_of_a_surrogate_pair_is_refused(instruct, refused, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"instruction": "Hi", "output": "\\ud83d"}\n')
    assert "surrogate" in refused(model=instruct, data=path)["found"]


def test_a_conversation_longer_than_the_models_positions_is_refused(instruct, refused, write):
    data = write([GOOD, {"instruction": "Count.", "output": "one " * 300}])
    error = refused(model=instruct, data=data)
    assert "--max-length" not in error["error"]
    assert error["where"] == f"{data}, record 2"
    assert "256" in error["expected"]
    assert error["fix"].startswith("--too-long drop")


def test_a_conversation_longer_than_the_user_allows_is_told_from_one_longer_than_the_models_positions(
    instruct, refused, write
):
    data = write([GOOD, {"instruction": "Count.", "output": "one " * 300}])
    error = refused(model=instruct, data=data, max_length=200)
    assert "--max-length" in error["error"]
    assert error["where"] == f"{data}, record 2"
    assert "--max-length 200" in error["expected"]
    assert error["fix"].startswith("a larger --max-length; or --too-long drop")


def loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    return tmp_path / "a" / "run"


def link_to_nothing(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    return tmp_path / "a"


IMPOSSIBLE = {
    "where nothing can be made": lambda tmp_path: "/proc/run",
    "below a device": lambda tmp_path: "/dev/null/run",
    "links in a circle": loop_of_links,
    "a link to nothing": link_to_nothing,
    "a longer name than the disk allows": lambda tmp_path: tmp_path / ("x" * 300),
}


@pytest.mark.parametrize("place", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_folder_that_cannot_be_made_is_refused_whatever_the_reason(instruct, write, tmp_path, capsys, place):
    words = ["--model", str(instruct), "--data", str(write([GOOD])), "--out", str(place(tmp_path))]
    assert main(["sft", *words]) == 2
    told = capsys.readouterr().err
    assert "error: this place cannot be written" in told
    assert "Traceback" not in told
    assert f"  where:    {words[-1]}" in told


def test_no_record_left_is_refused(instruct, refused, write):
    data = write([{"instruction": "Count.", "output": "one " * 300}])
    error = refused(model=instruct, data=data, too_long="drop")
    assert error["where"] == str(data)
    assert "1 too long" in error["found"]


def test_a_mixture_of_which_one_data_set_is_left_empty_is_refused(instruct, refused, write):
    data = [write([GOOD]), write([{"instruction": "Count.", "output": "one " * 300}], "long.jsonl")]
    error = refused(model=instruct, data=data, too_long="drop", held_out_share=0)
    assert error["where"] == str(data[1])
    assert "1 too long" in error["found"]


def test_all_records_held_out_are_refused(instruct, refused, write):
    error = refused(model=instruct, data=write([GOOD]), held_out_share=0.999999)
    assert "1 held out" in error["found"]
    assert "--held-out-share 0" in error["fix"]


def test_a_missing_file_to_measure_on_is_refused(instruct, refused, write, tmp_path):
    error = refused(model=instruct, data=write([GOOD]), eval_data=tmp_path / "absent.jsonl")
    assert error["where"] == str(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("weight: .nan", "weight"),
        ("weight: -1", "weight"),
        ("weight: 0", "weight"),
        ("cap: 0", "cap"),
        ("wieght: 1", "wieght"),
    ],
)
def test_a_data_set_with_a_wrong_weight_is_refused(instruct, refused, write, tmp_path, entry, problem):
    config = tmp_path / "sft.yaml"
    config.write_text(f"model: {instruct}\ndata:\n- path: {write([GOOD])}\n  {entry}\n")
    error = refused(config)
    assert problem in error["error"] + error["where"]


def test_a_weight_that_draws_nothing_is_refused(instruct, refused, write, tmp_path):
    config = tmp_path / "sft.yaml"
    config.write_text(f"model: {instruct}\ndata:\n- path: {write([GOOD])}\n  weight: 0.1\nheld_out_share: 0\n")
    assert "weight:" in refused(config)["fix"]


def test_wordings_that_do_not_fit_their_records_are_refused(instruct, refused, write, tmp_path):
    (tmp_path / "wordings.json").write_text('{"sum": [["{first} and {second}?", "{answer}"]]}')
    config = tmp_path / "sft.yaml"
    data = write([{"first": 1, "second": 2, "answer": "3"}, {"first": 1, "answer": "3"}])
    config.write_text(f"model: {instruct}\ndata:\n- path: {data}\n  wordings: {tmp_path}/wordings.json\n")
    error = refused(config)
    assert "{second}" in error["error"]
    assert error["where"] == f"{data}, record 2"


# ---- templates


@pytest.mark.parametrize("content", ["m.content + m.content", "m.content | list | sort | join"])
def test_a_template_that_cannot_be_masked_is_refused(instruct, refused, write, tmp_path, content):
    """It says answers twice, or sorts their letters: what it writes cannot be told to be the answer."""
    path = tmp_path / "odd.jinja"
    path.write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ " + content + " }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    data = write([GOOD] * 3)
    error = refused(model=instruct, data=data, template=path)
    assert error["where"] == f"{data}, record 1"
    assert "2 more like it" in error["found"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for m in messages %}", "the chat template is not valid jinja"),
        ("{{ raise_exception('no') }}", ""),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "does not end a response with a token of this model"),
    ],
)
def test_a_broken_template_is_refused(instruct, refused, write, tmp_path, source, problem):
    path = tmp_path / "own.jinja"
    path.write_text(source)
    assert problem in refused(model=instruct, data=write([GOOD]), template=path)["error"]


def test_a_template_that_is_not_there_is_refused(instruct, refused, write):
    error = refused(model=instruct, data=write([GOOD]), template="alpacca")
    assert (error["where"], error["found"]) == ("--template", "alpacca")


def test_a_conversation_that_the_template_refuses_is_refused(base, refused, write):
    data = write([GOOD, chat(("user", "Hi"), ("tool", "3"), ("assistant", "Hello"))])
    error = refused(model=base, data=data, template="alpaca")
    assert "record 2" in error["where"] + error["found"]


# ---- settings, model, folder


@pytest.mark.parametrize(
    ("options", "problem", "fix"),
    [
        ({"bathc_size": 4}, "unknown option '--bathc-size'", "--batch-size"),
        ({"batch_size": 0}, "batch_size has a value", "--batch-size 16"),
        ({"steps": 0}, "steps has a value", "--steps"),
        ({"epochs": 2}, "steps and epochs are both given", "epochs"),
        ({"max_length": 300}, "max_length is more than the model can read", "--max-length 256"),
        ({"max_tokens": 0}, "max_tokens has a value", "--max-tokens"),
        ({"optim_lr": "nan"}, "optim.lr has a value", "--optim.lr"),
        ({"held_out_share": 1}, "held_out_share has a value", "--held-out-share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(instruct, refused, write, options, problem, fix):
    error = refused(model=instruct, data=write([GOOD]), **options)
    assert problem in error["error"]
    assert fix in error["fix"]


def test_a_model_that_is_not_there_is_refused(refused, write, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = refused(model=tmp_path / "absent", data=write([GOOD]))
    assert error["where"] == str(tmp_path / "absent")


def test_a_folder_that_is_no_model_is_refused(refused, write, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("nothing here")
    error = refused(model=tmp_path / "notes", data=write([GOOD]))
    assert error["where"] == str(tmp_path / "notes")
    assert "README.md" in error["found"]


def test_a_model_without_its_weights_is_refused(instruct, refused, write, tmp_path):
    copy_of(instruct, tmp_path / "copy", without="model.safetensors")
    assert str(tmp_path / "copy") in refused(model=tmp_path / "copy", data=write([GOOD]))["where"]


def test_a_model_with_damaged_weights_is_refused(instruct, refused, write, tmp_path):
    copy = copy_of(instruct, tmp_path / "copy", without="model.safetensors")
    (copy / "model.safetensors").write_bytes((instruct / "model.safetensors").read_bytes()[:5000])
    assert str(copy) in refused(model=copy, data=write([GOOD]))["where"]


def copy_of(model: Path, to: Path, *, without: str) -> Path:
    to.mkdir()
    for path in model.iterdir():
        if path.name != without:
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_folder_with_other_things_in_it_is_refused_and_stays(instruct, tune, write, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    assert tune(model=instruct, data=write([GOOD]), out=tmp_path / "thesis") == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_a_file_is_refused_and_stays(instruct, tune, write, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert tune(model=instruct, data=write([GOOD]), out=tmp_path / "run") == 2
    assert "the output folder is a file" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "a file"


def test_bad_data_beside_a_folder_that_was_there_leaves_it_there(instruct, tune, tmp_path, capsys):
    """An empty folder of the user's may become a run; what stays after a mistake is not in the way of the next try."""
    (tmp_path / "run").mkdir()
    options = {"model": instruct, "out": tmp_path / "run", "steps": 1}
    assert tune(**options, data=broken_line(tmp_path)) == 2
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(GOOD)}\n")
    assert tune(**options, data=tmp_path / "data.jsonl", held_out_share=0) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


# ---- while it trains


@pytest.mark.parametrize(
    ("held_out_share", "problem"),
    [(0, "the loss or its gradient is not finite"), (0.2, "the held-out loss is not finite")],
)
def test_a_loss_that_is_not_finite_stops_the_run_before_a_weight_moves(
    instruct, refused, colours, write, tmp_path, held_out_share, problem
):
    copy = copy_of(instruct, tmp_path / "copy", without="model.safetensors")
    weights = load_file(instruct / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = torch.inf
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    error = refused(model=copy, data=write(colours), held_out_share=held_out_share, leaves=True)
    assert error["error"] == problem
    assert "nan" in error["found"]


def test_a_learning_rate_that_blows_the_weights_up_is_told_and_leaves_no_model(instruct, refused, colours, write):
    error = refused(model=instruct, data=write(colours), optim_lr=1e30, steps=5, leaves=True)
    assert "not finite" in error["error"]
    assert "--optim.lr" in error["fix"]


def test_weights_blown_up_by_the_very_last_step_are_not_given_out_as_a_model(instruct, refused, colours, write):
    error = refused(model=instruct, data=write(colours), optim_lr=1e30, steps=1, held_out_share=0.2, leaves=True)
    assert "not finite" in error["error"]


FULL = """
    import os, resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # No file may grow past this many bytes, which a program meets as it meets a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    from heed.cli.main import main
    sys.exit(main(sys.argv[2:]))
"""


def size_limits(model: Path) -> dict[str, int]:
    """Where the disk is full: at the settings, while data is prepared, at the model's weights."""
    return {"settings": 100, "data": 6_000, "weights": (model / "model.safetensors").stat().st_size // 2}


@pytest.mark.parametrize("full_at", ["data", "weights", pytest.param("settings", marks=pytest.mark.slow)])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    instruct, colours, write, tune, tmp_path, lines_of, full_at
):
    data, out = write(colours * 20), tmp_path / "run"
    words = ["--model", instruct, "--data", data, "--out", out, "--steps", "6", "--save-every", "3"]
    limit = size_limits(instruct)[full_at]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(limit), "sft", "--device", "cpu", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0].strip() for line in lines[-5:]] == ["error", "where", "found", "expected", "fix"]
    assert not [name for name in MODEL_FILES if (out / name).exists()]
    assert not list(out.rglob(".tmp-*"))
    assert tune(*words) == 0
    assert [line["step"] for line in lines_of(out / "metrics.jsonl", "train")] == [1, 2, 3, 4, 5, 6]
    assert (out / "state.json").exists()

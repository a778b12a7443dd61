"""heed from Python: the same runs as by the command line, records from memory, a model to be asked."""

import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import datasets
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import heed
from heed.lab.base_model import BASE_MODEL

ROOT = Path(__file__).parents[1]
RECORDS = [
    {"prompt": f"Name the colour of the {thing}.", "completion": colour}
    for thing, colour in {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}.items()
] * 3
RANKINGS = [{"prompt": f"Say {word}.", "chosen": f"{word}!", "rejected": f"No, not {word}."} for word in "abcdef"]
HOW = {"lora": {"rank": 2}, "batch_size": 2, "device": "cpu"}
COMMON = {"template": "chatml", "steps": 2, "batch_size": 4, "device": "cpu"}


def tool(name, folder="tools"):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return heed.sft(model=BASE_MODEL, data=RECORDS, out=tmp_path_factory.mktemp("api") / "sft", **COMMON)


@pytest.fixture(scope="module")
def scorer(tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "reward"
    return heed.reward(model=tuned, data=RANKINGS, out=out, eval_data=RANKINGS, **HOW)


def test_importing_heed_loads_nothing_heavy():
    code = (
        "import heed, sys; print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'yaml'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_promised_name_is_there_and_listed():
    for package in pkgutil.iter_modules(heed.__path__):
        importlib.import_module(f"heed.{package.name}")  # a package of the same name would take a function's place
    assert all(inspect.isroutine(getattr(heed, name)) or inspect.isclass(getattr(heed, name)) for name in heed.__all__)
    assert set(heed.__all__) <= set(dir(heed))
    with pytest.raises(AttributeError, match="sfd"):
        _ = heed.sfd


def test_a_run_from_python_is_the_run_of_the_command_line(tuned, tmp_path):
    from heed.cli.main import main

    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    words = ["--model", str(BASE_MODEL), "--data", str(file), "--out", str(tmp_path / "run")]
    how = ["--template", "chatml", "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    assert main(["sft", *words, *how]) == 0
    by_command = heed.Run(tmp_path / "run")
    losses = [[line["loss"] for line in run.metrics if "loss" in line] for run in (tuned, by_command)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    assert tuned.settings["data"] != by_command.settings["data"]


def test_a_run_tells_its_numbers(tuned):
    history = tuned.history()
    assert history["step"] == [1, 2]
    assert tuned.numbers["loss"] == history["loss"][-1]
    measured = [line for line in tuned.metrics if line["phase"] == "held_out"]
    assert tuned.numbers.get("nll_per_token") == (measured or tuned.metrics)[-1]["nll_per_token"]
    assert tuned.report.is_file()
    assert f"{tuned.numbers['loss']:.6g}" in tuned._repr_html_()


def test_the_same_records_are_the_same_run_and_others_are_refused(tuned):
    again = heed.sft(model=BASE_MODEL, data=list(RECORDS), out=tuned.folder, **COMMON)
    assert again.metrics == tuned.metrics
    with pytest.raises(heed.UserError) as refused:
        heed.sft(model=BASE_MODEL, data=RECORDS[:-1], out=tuned.folder, **COMMON)
    assert str(tuned.folder) in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [
        RECORDS,
        tuple(RECORDS),
        datasets.Dataset.from_list(RECORDS),
        (record for record in RECORDS),
        {"records": RECORDS, "weight": 2},
        [RECORDS[:5], {"records": RECORDS[5:]}],
        [{**record, "completion": np.str_(record["completion"])} for record in RECORDS],
    ],
)
def test_records_in_memory_are_read_in_their_order(data):
    said = [conversation.messages[1].content for conversation in heed.read(data)]
    assert said == [record["completion"] for record in RECORDS]


def test_a_file_is_read_as_its_records_are(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert [each.messages for each in heed.read(file)] == [each.messages for each in heed.read(RECORDS)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (["no such file"], "no such file"),
        ([{"prompt": "a", "completion": object()}], "record 1"),
        ([{"prompt": "a", "completion": "\ud800"}], "record 1"),
        ([{"prompt": "a", "completion": "b"}, 3], "record 2"),
        ([{"prompt": "a"}], "record 1"),
    ],
)
def test_what_is_no_record_is_named(data, says):
    with pytest.raises(heed.UserError) as refused:
        list(heed.read(data))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epoch": 2}, "epochs"),
        ({"optim": {"lrr": 1}}, "optim.lr"),
        ({"optim": 3}, "optim"),
        ({"batch_size": "many"}, "batch_size"),
    ],
)
def test_a_wrong_argument_is_told_with_the_nearest(settings, says, tmp_path):
    with pytest.raises(heed.UserError) as refused:
        heed.sft(model=BASE_MODEL, data=RECORDS, out=tmp_path / "run", **settings)
    assert says in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_shown_records_draw_themselves(tuned):
    shown = heed.show(RECORDS, model=tuned.folder, limit=2)
    assert [item.rendered.origin.record for item in shown] == [1, 2]
    assert "⟦blue" in str(shown)
    assert shown._repr_html_().startswith("<iframe")


def test_answers_are_those_of_transformers(tuned):
    model = heed.load(tuned)
    theirs = AutoModelForCausalLM.from_pretrained(tuned.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tuned.folder)
    prompts = ["Name the colour of the sky.", "Hà Nội ở đâu?", [{"role": "user", "content": "Say yes."}]]
    ours = model.answers(prompts, max_new_tokens=12)
    for prompt, answer in zip(prompts, ours, strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = theirs.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer == tokenizer.decode(
            [token for token in out.tolist() if token not in model.stop_ids], skip_special_tokens=False
        )


def test_log_probabilities_are_those_of_transformers(tuned):
    model = heed.load(tuned)
    theirs = AutoModelForCausalLM.from_pretrained(tuned.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tuned.folder)
    asked = [{"role": "user", "content": "Name the colour of the sky."}]
    head = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)

    def by_hand(answer):
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, answer + "<|im_end|>")]
        logp = theirs(torch.tensor([ids[0] + ids[1]])).logits[0].detach().double().log_softmax(-1)
        places = range(len(ids[0]) - 1, len(ids[0]) + len(ids[1]) - 1)
        return sum(float(logp[place, token]) for place, token in zip(places, ids[1], strict=True))

    answers = ["blue", "blue and white", "xanh"]
    found = model.logp("Name the colour of the sky.", answers)
    assert found == pytest.approx([by_hand(answer) for answer in answers], rel=1e-5)
    assert model.logp("Name the colour of the sky.", "blue") == pytest.approx(found[0], rel=1e-6)
    assert model.logp("Name the colour of the sky.", []) == []


def test_rewards_are_those_the_run_measured(scorer):
    model = heed.load(scorer)
    chosen, rejected = zip(
        *[model.reward(each["prompt"], [each["chosen"], each["rejected"]]) for each in RANKINGS], strict=True
    )
    assert model.reward(RANKINGS[0]["prompt"], RANKINGS[0]["chosen"]) == pytest.approx(chosen[0], rel=1e-5)
    assert np.mean(np.array(chosen) > np.array(rejected)) == pytest.approx(scorer.numbers["accuracy"])


def test_samples_depend_on_the_seed_alone(tuned):
    model = heed.load(tuned)
    drawn = model.samples(["Say a word."], 3, seed=1, max_new_tokens=8)
    assert drawn == model.samples(["Say a word."], 3, seed=1, max_new_tokens=8)
    assert drawn != model.samples(["Say a word."], 3, seed=2, max_new_tokens=8)
    assert len(drawn[0]) == 3


def test_a_model_is_not_asked_what_it_cannot_tell(tuned, scorer):
    with pytest.raises(heed.UserError, match="reward"):
        heed.load(tuned).reward("a", "b")
    with pytest.raises(heed.UserError, match="reward model"):
        heed.load(scorer).answers(["a"])
    with pytest.raises(heed.UserError, match="template"):
        heed.load(BASE_MODEL)
    with pytest.raises(heed.UserError, match=r"\d tokens"):
        heed.load(tuned).answers(["word " * 5000])
    with pytest.raises(TypeError, match="list"):
        heed.load(tuned).answers("Name a fruit.")


def test_the_example_of_an_own_objective_is_short_and_learns(capsys):
    source = (ROOT / "examples" / "own_objective.py").read_text(encoding="utf-8")
    assert source.count("\n") <= 60
    losses = tool("own_objective", "examples").main()
    assert losses[-1] < 0.5 * losses[0]
    capsys.readouterr()


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    monkeypatch.chdir(tmp_path)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    drawn = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("iframe" in output["data"].get("text/html", "") for output in drawn)


def test_the_notebook_is_kept_without_what_it_printed():
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_what_the_commands_of_data_do_is_there_as_functions(tmp_path):
    bad = [
        *RECORDS[:4],
        {"prompt": "What?", "completion": " "},
        {"prompt": "TÃ´i yÃªu Viá»‡t Nam", "completion": "Có."},
    ]
    found = heed.data.check(data=bad, only=["empty-answer", "broken-encoding"])
    assert {each["kind"]: each["num_records"] for each in found["kinds"]} == {"empty-answer": 1, "broken-encoding": 1}
    mended = heed.data.mend(data=bad, out=tmp_path / "mended.jsonl")
    assert json.loads(mended.read_text(encoding="utf-8").splitlines()[5])["prompt"] == "Tôi yêu Việt Nam"
    unique = heed.data.dedupe(data=[RECORDS, mended], against=RECORDS[:1], out=tmp_path / "unique.jsonl")
    assert len(unique.read_text(encoding="utf-8").splitlines()) == 5
    mixed = heed.data.mix(
        data=[{"records": RECORDS, "share": 0.5}, f"{mended}:50%"], as_="messages", out=tmp_path / "mixed.jsonl"
    )
    assert {line[:11] for line in mixed.read_text(encoding="utf-8").splitlines()} == {'{"messages"'}
    chosen = heed.data.select(data=mixed, by=["longest"], budget=3, out=tmp_path / "chosen.jsonl")
    assert len(chosen.read_text(encoding="utf-8").splitlines()) == 3
    assert "mixed" in heed.data.card(data=mixed, out=tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(heed.UserError, match="there already"):
        heed.data.mix(data=RECORDS, out=mixed)
    with pytest.raises(AttributeError, match="dedup'"):
        _ = heed.data.dedup


def test_functions_of_data_and_the_package_that_reads_go_by_one_name():
    code = (
        "import heed; f = heed.data.check; import heed.data.read, heed.recipes.workshop.check, sys\n"
        "assert heed.data.check is f and callable(f) and 'torch' not in sys.modules and heed.data.read.read"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)

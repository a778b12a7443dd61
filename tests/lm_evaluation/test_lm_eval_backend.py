"""lm-eval's own `hf` backend and heed's give the same log-likelihoods, answers and metrics on the same tasks."""

import json
import shutil
import subprocess
import sys
from math import isclose
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lm_eval_tasks import tasks_of

from heed.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and of what it imports

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
"""one that writes BOS itself, which encoding must not double"""


@pytest.fixture(scope="module")
def models(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A real small checkpoint, and GPT-2's shape with random weights, each with a chat template."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(shared / "models/stories260K", folder / "stories", copy_function=shutil.copyfile)
    (folder / "stories").chmod(0o755)
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.15)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    for file in (shared / "tokenizers/gpt2").iterdir():
        shutil.copyfile(file, folder / "gpt2" / file.name)
    for name in ("stories", "gpt2"):
        (folder / name / "chat_template.jinja").write_text(TEMPLATE)
    return {name: str(folder / name) for name in ("stories", "gpt2")}


@pytest.fixture(scope="module")
def tasks(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not (shared / "eval").is_dir():
        pytest.skip("the evaluation files are not here")
    return tasks_of(shared / "eval", tmp_path_factory.mktemp("tasks"))


def evaluated(backend: str, model: str, tasks: list[dict[str, Any]], arguments: dict[str, Any], **how: Any) -> Any:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import heed.lm_eval  # noqa: F401 - registers the backend

    return lm_eval.simple_evaluate(
        model=backend,
        model_args={"pretrained": model, "dtype": "float32", **arguments},
        tasks=[dict(task) for task in tasks],
        device="cpu",
        batch_size=3,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
        **how,
    )


def assert_same(ours: Any, theirs: Any, place: str) -> None:
    """Equal, numbers within 1e-4."""
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), place
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{place}[{number}]")
    elif isinstance(theirs, float):
        assert isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-4), f"{place}: {ours} and {theirs}"
    else:
        assert ours == theirs, place


CASES = {
    "as the tokenizer has it": ({}, {}),
    "with BOS": ({"add_bos_token": True}, {}),
    "without BOS": ({"add_bos_token": False}, {}),
    "as a chat": ({}, {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief."}),
    "as a chat with BOS": ({"add_bos_token": True}, {"apply_chat_template": True, "fewshot_as_multiturn": False}),
}
QUICK = {("stories", "with BOS"), ("gpt2", "as a chat")}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, marks=() if (name, case) in QUICK else pytest.mark.slow)
        for name in ("stories", "gpt2")
        for case in CASES
    ],
)
def test_both_backends_give_the_same_scores(models, tasks, name, case):
    arguments, how = CASES[case]
    theirs = evaluated("hf", models[name], tasks, arguments, **how)
    ours = evaluated("heed", models[name], tasks, {**arguments, "max_tokens": 700}, **how)
    assert ours["results"].keys() == theirs["results"].keys() == {task["task"] for task in tasks}
    for task, samples in theirs["samples"].items():
        for a, b in zip(ours["samples"][task], samples, strict=True):
            assert a["arguments"] == b["arguments"]
            assert_same(a["resps"], b["resps"], f"{task} {b['doc_id']}")
    for task, figures in theirs["results"].items():
        assert ours["results"][task].keys() == figures.keys()
        for figure, value in figures.items():
            assert_same(ours["results"][task][figure], value, f"{task} {figure}")
    answers = [resp for sample in theirs["samples"]["gsm8k"] for resps in sample["resps"] for resp in resps]
    assert any(answers), "or no answers are compared"


def test_the_forest_is_what_computes_them(models, tasks):
    found = evaluated("heed", models["stories"], tasks[:1], {})
    assert found["config"]["model_forward"] == ["the forest computes what the model computes"]


def test_the_command_line_knows_the_model(models, tasks, tmp_path):
    task = tmp_path / "arc.yaml"
    task.write_text(json.dumps(tasks[0]))  # which is YAML, too
    words = ["--model", "heed", "--model_args", f"pretrained={models['stories']},dtype=float32"]
    words += ["--tasks", str(task), "--output_path", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "heed.lm_eval", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "acc_norm" in done.stdout
    assert list((tmp_path / "out").rglob("results*.json"))


def heed_model(folder: str, **arguments: Any) -> Any:
    from heed.lm_eval import HeedLM

    return HeedLM(folder, **({"device": "cpu", "dtype": "float32"} | arguments))


class Request:
    """What lm-eval hands a backend."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def test_an_argument_that_nobody_reads_is_an_error(models):
    with pytest.raises(UserError, match="does not know this argument") as caught:
        heed_model(models["stories"], peft="adapter")
    assert caught.value.found == "peft"


def test_a_dtype_that_there_is_not_is_an_error(models):
    with pytest.raises(UserError, match="no model computes in this dtype"):
        heed_model(models["stories"], dtype="float31")


def test_a_continuation_that_the_tokenizer_swallows_is_an_error(models):
    with pytest.raises(UserError, match="cannot be asked for"):
        heed_model(models["gpt2"])._loglikelihood_tokens([(("a", ""), [1], [])])


@pytest.mark.parametrize(
    ("said", "found"), [({"num_beams": 4}, "num_beams=4"), ({"repetition_penalty": 1.2}, "repetition_penalty=1.2")]
)
def test_a_way_to_generate_that_heed_has_not_is_an_error(models, said, found):
    with pytest.raises(UserError, match="does not generate in this way") as caught:
        heed_model(models["stories"]).generate_until([Request("Once", said)])
    assert caught.value.found == found


def test_answers_that_are_drawn_differ_by_number_and_not_by_run(models):
    model = heed_model(models["stories"])
    said = {"do_sample": True, "temperature": 1.0, "until": [], "max_gen_toks": 12}
    requests = [Request("Once upon a time", said) for _ in range(4)]
    first, again = model.generate_until(requests), model.generate_until(requests)
    assert first == again
    assert len(set(first)) > 1


def test_what_is_longer_than_the_model_loses_its_beginning_and_it_is_said(models, caplog):
    model = heed_model(models["stories"], max_length=40)
    long = "Once upon a time there was a little girl. " * 20
    with caplog.at_level("WARNING"):
        (answer,) = model.generate_until([Request(long, {"until": [], "max_gen_toks": 10})])
        ((logp, _),) = model.loglikelihood([Request(long, " She")])
    assert answer
    assert logp < 0
    assert "cut off the beginning of a prompt" in caplog.text
    assert "cut off the beginning of a context" in caplog.text


def test_without_lm_eval_it_is_said_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = None; import heed.lm_eval"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "heed-lm[lm-eval]" in done.stderr

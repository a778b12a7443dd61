"""`heed eval` gives the log-likelihoods and figures that lm-eval gives with its own `hf` backend, on the same items."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_lm_eval_backend import evaluated, models, tasks  # noqa: F401 - fixtures

from heed.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore")

LETTERS = """
about: Choices by letter
kind: choice
measures: [acc]
num_shots: 5
data: FOLDER/mmlu.jsonl
shots_from: FOLDER/mmlu-shots.jsonl
shapes:
  - fields: [query, choices, gold]
    context: "{{ query }}\\n{% for each in choices %}{{ 'ABCD'[loop.index0] }}. {{ each }}\\n{% endfor %}Answer:"
    options: [A, B, C, D]
    right: "{{ gold }}"
"""
ENDINGS = """
about: Endings, of which the first is called right
kind: choice
measures: [acc, acc_characters, acc_bytes]
data: FOLDER/hellaswag.jsonl
shapes: [{fields: [question, answer], context: "{{ question }}", options: "{{ answer }}", right: "{{ label }}"}]
"""
SAME = {"acc": "acc,none", "acc_characters": "acc_norm,none", "acc_bytes": "acc_bytes,none"} | {
    name: f"{name},none" for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
}
"""what a figure is called here and there"""


def measured(model: str, tasks: list[dict[str, Any]], out: Path, *words: str) -> tuple[dict, dict]:  # noqa: F811
    """The figures of `heed eval` by task, and its items by task, in the order of their file."""
    files = {task["task"]: Path(task["dataset_kwargs"]["data_files"]["test"]) for task in tasks}
    folder = files["arc"].parent
    given = [f"arc={files['arc']}", f"winogrande={files['winogrande']}", f"text={files['pages']}"]
    for name, text in (("mmlu", LETTERS), ("hellaswag", ENDINGS)):
        path = out.parent / f"{name}.yaml"
        path.write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
        given.append(str(path))
    flags = [word for each in given for word in ("--task", each)]
    status = main(
        ["eval", "--model", model, *flags, "--out", str(out), "--device", "cpu", "--too-long", "drop", *words]
    )
    assert status == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    figures: dict[str, dict[str, float]] = {}
    for figure in results["figures"]:
        if figure["group"] is None:
            figures.setdefault(figure["task"], {})[figure["measure"]] = figure["value"]
    items = {}
    for task in figures:
        path = out / results["models"][0]["folder"] / task / "items.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        items[task] = sorted(lines, key=lambda line: line["record"])
    return figures, items


def in_order_of_heed(task: dict[str, Any], prompt: str, folder: Path) -> dict[str, Any]:
    """lm-eval's task with the examples of a prompt of heed's, in the order in which they stand there."""
    files = dict(task["dataset_kwargs"]["data_files"])
    records = [json.loads(line) for line in Path(files["dev"]).read_text(encoding="utf-8").splitlines()]
    records = sorted((r for r in records if r["query"] in prompt), key=lambda record: prompt.index(record["query"]))
    files["dev"] = str(folder / "dev.jsonl")
    Path(files["dev"]).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return task | {"dataset_kwargs": {"data_files": files}, "num_fewshot": len(records)}


CASES = {
    "with BOS": (("--template", "none", "--bos", "on"), {"add_bos_token": True}, {}),
    "without BOS": (("--template", "none", "--bos", "off"), {"add_bos_token": False}, {}),
    "as a chat": (("--template", "own"), {}, {"apply_chat_template": True, "fewshot_as_multiturn": True}),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("stories", "without BOS"),
        *(
            pytest.param(name, case, marks=pytest.mark.slow)
            for name in ("stories", "gpt2")
            for case in CASES
            if (name, case) != ("stories", "without BOS")
        ),
    ],
)
def test_heed_eval_gives_lm_evals_numbers(models, tasks, name, case, tmp_path):  # noqa: F811
    words, arguments, how = CASES[case]
    figures, items = measured(models[name], tasks, tmp_path / "out", *words)
    asked = [
        in_order_of_heed(task, items["mmlu"][0]["prompt"], tmp_path) if task["task"] == "mmlu" else task
        for task in tasks
        # Before a text that begins with BOS lm-eval puts another and counts log P(BOS | BOS); heed does not.
        if task["task"] in ("arc", "hellaswag", "winogrande", "mmlu", *(["pages"] if case == "without BOS" else []))
    ]
    theirs = evaluated("hf", models[name], asked, arguments, **how)
    for task, samples in theirs["samples"].items():
        ours = items["text" if task == "pages" else task]
        assert ours
        for item in ours:
            sample = samples[item["record"] - 1]
            expected = [resps[0] for resps in sample["resps"]]
            if task == "pages":
                total = sum(item["options"][0]["logp"])
                assert total == pytest.approx(expected[0], abs=1e-4, rel=1e-6), item["prompt"][:40]
                continue
            for option, (logp, is_greedy) in zip(item["options"], expected, strict=False):  # acc_mutual_info asks more
                assert sum(option["logp"]) == pytest.approx(logp, abs=1e-4), (task, item["record"], option["text"])
                assert option["is_greedy"] == is_greedy
        if len(ours) < len(samples):
            continue  # some are longer than this small model reads; lm-eval cuts them
        own = figures["text" if task == "pages" else task]
        compared = [measure for measure in own if measure in SAME and SAME[measure] in theirs["results"][task]]
        assert compared
        for measure in compared:
            assert math.isclose(own[measure], theirs["results"][task][SAME[measure]], rel_tol=1e-5), (task, measure)

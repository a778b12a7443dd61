"""`heed eval` from the command line on tiny models: same numbers in any order, resumable, every mistake told."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from heed.cli.main import main

QUESTIONS = [
    {
        "question": f"What colour is the {thing}? Màu gì?",
        "choices": {"text": ["blue", "green as grass", "white snow", "red"], "label": ["A", "B", "C", "D"]},
        "answerKey": key,
    }
    for thing, key in [("sky", "A"), ("grass", "B"), ("snow", "C"), ("blood", "D"), ("sea", "A"), ("leaf", "B")]
]
TASK = """
about: Colours
kind: choice
measures: [acc, acc_characters, acc_unconditional, mc2]
data: data.jsonl
shapes:
  - fields: [question, choices.text]
    context: "Question: {{ question }}\\nAnswer:"
    options: "{{ choices.text }}"
    right: "{{ choices.label.index(answerKey) }}"
"""
GENERATION = """
about: Colours, in its own words
kind: generation
measures: [exact]
data: data.jsonl
generation: {max_new_tokens: 5, stop: ["\\n"], checker: exact}
shapes: [{fields: [question], context: "{{ question }}", right: "{{ choices.text[0] }}"}]
"""


@pytest.fixture
def task(tmp_path, write) -> Path:
    write(QUESTIONS)
    path: Path = tmp_path / "colours.yaml"
    path.write_text(TASK, encoding="utf-8")
    return path


def measure(*words: object) -> int:
    return main(["eval", *map(str, words), "--device", "cpu"])


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def items(out: Path, number: int = 0, task: str = "colours") -> list[dict]:
    folder = results(out)["models"][number]["folder"]
    lines = (out / folder / task / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@torch.no_grad()
def reference_logp(folder: Path, prompt: str, continuation: str) -> np.ndarray:
    """Each token of the continuation by transformers' own forward, the text encoded as a whole."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    whole = tokenizer(prompt + continuation, add_special_tokens=False).input_ids
    alone = tokenizer(prompt, add_special_tokens=False).input_ids
    logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return np.array([float(logp[i - 1, whole[i]]) for i in range(len(alone), len(whole))])


def test_every_log_probability_is_the_models_own(base, task, tmp_path):
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out") == 0
    for item in items(tmp_path / "out"):
        assert item["num_bos"] == 0
        for option, text in zip(item["options"], item["fields"]["choices"]["text"], strict=False):
            assert option["context"] == f"Question: {item['fields']['question']}\nAnswer:"
            assert option["text"] == f" {text}"
            expected = reference_logp(base, option["context"], option["text"])
            np.testing.assert_allclose(option["logp"], expected, atol=1e-4)


def test_white_space_at_the_end_of_a_prompt_is_scored_with_the_option(base, task, tmp_path):
    task.write_text(TASK.replace('Answer:"', 'Answer: "') + 'delimiter: ""\n', encoding="utf-8")
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out") == 0
    for item in items(tmp_path / "out"):
        for option, text in zip(item["options"][:4], item["fields"]["choices"]["text"], strict=True):
            expected = reference_logp(base, item["prompt"].rstrip(), " " + text)
            assert option["logp"] == pytest.approx(list(expected), abs=1e-4)


def test_figures_are_those_of_the_kept_items(base, task, tmp_path):
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out") == 0
    right = [
        max(range(4), key=lambda i, item=item: sum(item["options"][i]["logp"])) in item["right"]
        for item in items(tmp_path / "out")
    ]
    [figure] = [f for f in results(tmp_path / "out")["figures"] if f["measure"] == "acc"]
    assert figure["value"] == pytest.approx(sum(right) / 6)
    assert figure["count"] == 6
    assert figure["low"] <= figure["value"] <= figure["high"]


def test_a_template_is_used_where_the_model_has_one_and_said(base, instruct, task, tmp_path, capsys):
    assert measure("--model", base, "--model", instruct, "--task", task, "--out", tmp_path / "out") == 0
    plain, chat = items(tmp_path / "out", 0), items(tmp_path / "out", 1)
    [of_plain], [of_chat] = ([item["prompt"] for item in some if item["record"] == 1] for some in (plain, chat))
    assert of_plain == "Question: What colour is the sky? Màu gì?\nAnswer:"
    assert of_chat.startswith("<|user|>\nQuestion: What colour is the sky? Màu gì?\nAnswer:<|end|>")
    assert of_chat.rstrip().endswith("<|assistant|>")
    said = capsys.readouterr().err
    assert "without a chat template" in said
    assert "in the chat template" in said
    assert [model["template"] is None for model in results(tmp_path / "out")["models"]] == [True, False]


def test_two_models_are_compared_item_by_item(base, instruct, task, tmp_path):
    assert measure("--model", base, "--model", instruct, "--task", task, "--out", tmp_path / "out") == 0
    [row] = results(tmp_path / "out")["differences"]
    assert (row["first"], row["second"], row["count"]) == (1, 0, 6)
    acc = [f["value"] for f in results(tmp_path / "out")["figures"] if f["measure"] == "acc"]
    assert row["difference"] == pytest.approx(acc[1] - acc[0])


@pytest.mark.parametrize("shots", ["fixed", "per-item"])
def test_neither_order_nor_subset_nor_forward_size_changes_an_item(base, task, tmp_path, write, shots):
    words = ("--model", base, "--task", task, "--num-shots", 2, "--shots", shots)
    assert measure(*words, "--out", tmp_path / "one") == 0
    expected = {item["id"]: item for item in items(tmp_path / "one")}
    write(QUESTIONS[::-1])
    assert measure(*words, "--max-tokens", 50, "--limit", 4, "--out", tmp_path / "other") == 0
    found = items(tmp_path / "other")
    assert len(found) == 4
    for item in found:
        assert item["shots"] == expected[item["id"]]["shots"]
        assert len(item["shots"]) == 2
        assert item["id"] not in item["shots"]
        for option, other in zip(item["options"], expected[item["id"]]["options"], strict=True):
            np.testing.assert_allclose(option["logp"], other["logp"], atol=1e-5)


def test_fixed_examples_are_the_same_for_all_but_themselves(base, task, tmp_path):
    assert measure("--model", base, "--task", task, "--num-shots", 2, "--out", tmp_path / "out") == 0
    found = items(tmp_path / "out")
    usual = max((tuple(item["shots"]) for item in found), key=[tuple(item["shots"]) for item in found].count)
    assert all(tuple(item["shots"]) == usual or item["id"] in usual for item in found)
    assert all(item["prompt"].count("Answer:") == 3 for item in found)


def test_what_is_measured_is_not_measured_again_and_a_torn_line_is(base, task, tmp_path):
    out = tmp_path / "out"
    assert measure("--model", base, "--task", task, "--out", out) == 0
    expected = results(out)["figures"]
    path = next(out.glob("*/colours/items.jsonl"))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    marked = json.loads(lines[0]) | {"prompt": "kept"}
    path.write_text(json.dumps(marked, ensure_ascii=False) + "\n" + lines[1] + lines[2][:40], encoding="utf-8")
    assert measure("--model", base, "--task", task, "--out", out) == 0
    again = items(out)
    assert [item["id"] for item in again if item["prompt"] == "kept"] == [marked["id"]]
    assert sorted(item["id"] for item in again) == sorted(json.loads(line)["id"] for line in lines)
    assert [f["value"] for f in results(out)["figures"]] == pytest.approx([f["value"] for f in expected])


def test_other_data_or_another_model_does_not_go_into_the_same_results(base, task, tmp_path, write, capsys):
    out = tmp_path / "out"
    assert measure("--model", base, "--task", task, "--out", out) == 0
    write(QUESTIONS[:5])
    assert measure("--model", base, "--task", task, "--out", out) == 2
    said = capsys.readouterr().err
    assert "another data" in said
    assert "--out" in said


def test_answers_are_generated_checked_and_kept(base, task, tmp_path):
    (tmp_path / "words.yaml").write_text(GENERATION, encoding="utf-8")
    assert measure("--model", base, "--task", tmp_path / "words.yaml", "--out", tmp_path / "out") == 0
    found = items(tmp_path / "out", task="words")
    assert len(found) == 6
    for item in found:
        assert "\n" not in item["answer"]
        assert 1 <= len(item["answer_ids"]) <= 5
        assert item["confidence"] == pytest.approx(math.exp(np.mean(item["answer_logp"])))
        assert set(item["verdict"]) >= {"exact", "is_cut"}


def test_bos_is_written_as_asked_and_counted(shared, task, tmp_path, write):
    model = shared / "models" / "stories260K"
    for bos, count in (("on", 1), ("off", 0)):
        out = tmp_path / bos
        assert measure("--model", model, "--task", task, "--bos", bos, "--out", out, "--limit", 2) == 0
        assert {item["num_bos"] for item in items(out)} == {count}


@pytest.mark.parametrize(
    ("records", "facts"),
    [
        ([{**QUESTIONS[0], "answerKey": "E"}], ("record 3", "'E'")),
        ([{"prompt": "no question"}], ("prompt", "question")),
        ([{**QUESTIONS[0], "choices": {"text": ["blue", "blue"], "label": ["A", "B"]}}], ("'blue'",)),
    ],
)
def test_a_record_that_cannot_be_asked_is_an_error_and_left_out_and_counted_if_asked(
    base, task, tmp_path, write, capsys, records, facts
):
    write([*QUESTIONS[:2], *records])
    words = ("--model", base, "--task", task, "--out", tmp_path / "out")
    assert measure(*words) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts)
    assert "--max-bad-records 0.334" in said
    assert not (tmp_path / "out" / "results.json").exists()
    assert measure(*words, "--max-bad-records", 0.334) == 0
    [row] = results(tmp_path / "out")["left_out"]
    assert (row["count"], row["records"], row["model"]) == (1, [3], None)


def test_what_is_too_long_stops_or_loses_examples_or_is_left_out(base, task, tmp_path, write, capsys):
    long = {**QUESTIONS[0], "question": "Why is the sky blue? " * 16}
    write([*QUESTIONS, long])
    words = ("--model", base, "--task", task, "--num-shots", 1)
    assert measure(*words, "--out", tmp_path / "error") == 2
    said = capsys.readouterr().err
    assert "256" in said
    assert "--too-long drop-shots" in said
    assert measure(*words, "--too-long", "drop-shots", "--out", tmp_path / "shots") == 0
    assert "fewer examples" in capsys.readouterr().err
    fewer = [item for item in items(tmp_path / "shots") if not item["shots"]]
    assert [item["record"] for item in fewer] == [7]
    assert measure(*words, "--too-long", "drop", "--out", tmp_path / "drop") == 0
    rows = results(tmp_path / "drop")["left_out"]
    assert sum(row["count"] for row in rows) >= 1
    assert all(row["model"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--task", "x=y"], ("--model",)),
        (["--model", "m"], ("--task",)),
        (["--model", "m", "--task", "ark=data.jsonl"], ("'ark'", "arc")),
        (["--model", "m", "--task", "missing.yaml"], ("missing.yaml",)),
        (["--model", "m", "--task", "arc=missing.jsonl"], ("missing.jsonl",)),
    ],
)
def test_a_mistake_on_the_command_line_is_told_before_a_model_is_loaded(words, facts, capsys):
    assert measure(*words) == 2
    said = capsys.readouterr().err
    assert all(fact in said for fact in facts)


def test_a_text_longer_than_the_model_is_scored_once_for_every_token(base, tmp_path):
    (tmp_path / "text.txt").write_text("Hà Nội là thủ đô. " * 60, encoding="utf-8")
    assert measure("--model", base, "--tax", tmp_path / "text.txt", "--out", tmp_path / "out") == 0
    [item] = items(tmp_path / "out", task="text")
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    ids = tokenizer(item["fields"]["text"], add_special_tokens=False).input_ids
    [option] = item["options"]
    assert option["ids"] == ids
    assert len(ids) > 512
    # the second window ends at token 512 and holds as much context as there are positions
    with torch.no_grad():
        logp = model(torch.tensor([ids[255:511]])).logits[0].log_softmax(-1)
    expected = [float(logp[i, ids[256 + i]]) for i in range(256)]
    np.testing.assert_allclose(option["logp"][256:512], expected, atol=1e-4)


def test_the_tasks_that_heed_brings_are_listed(capsys):
    assert main(["eval", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("arc", "truthfulqa", "gsm8k", "xcopa", "bbq"))


def test_a_fix_that_is_offered_for_what_is_too_long_works_in_the_same_folder(base, task, tmp_path, write):
    write([*QUESTIONS, {**QUESTIONS[0], "question": "Why is the sky blue? " * 30}])
    words = ("--model", base, "--task", task, "--out", tmp_path / "out")
    assert measure(*words, "--limit", 3, "--too-long", "drop") == 0
    assert measure(*words) == 2
    assert measure(*words, "--too-long", "drop") == 0
    [row] = results(tmp_path / "out")["left_out"]
    assert row["records"] == [7]


def test_a_task_none_of_whose_records_can_be_asked_is_undefined_where_that_is_allowed(base, task, tmp_path, write):
    write([{**question, "answerKey": "E"} for question in QUESTIONS])
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out") == 2
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out", "--max-bad-records", 1) == 0
    assert {figure["value"] for figure in results(tmp_path / "out")["figures"]} == {None}


def test_the_unconditional_score_is_of_the_option_with_its_delimiter_after_the_first_token(base, task, tmp_path):
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out", "--limit", 1) == 0
    [item] = items(tmp_path / "out")
    assert [option["text"] for option in item["options"][4:]] == [option["text"] for option in item["options"][:4]]
    assert {option["context"] for option in item["options"][4:]} == {""}


def test_a_limit_keeps_what_is_compared_within_clusters_together(base, task, tmp_path, write):
    task.write_text(TASK + 'cluster: "{{ answerKey }}"\n', encoding="utf-8")
    assert measure("--model", base, "--task", task, "--out", tmp_path / "out", "--limit", 2) == 0
    assert len({item["cluster"] for item in items(tmp_path / "out")}) <= 2
    assert measure("--model", base, "--task", task, "--out", tmp_path / "all") == 0
    sizes = [item["cluster"] for item in items(tmp_path / "all")]
    first, *rest = [item["cluster"] for item in items(tmp_path / "out")]
    assert sizes.count(first) == 1 or rest == [first]


def test_as_many_examples_as_records_are_too_few_for_a_record_never_is_its_own(base, task, tmp_path, write, capsys):
    write(QUESTIONS[:2])
    assert measure("--model", base, "--task", task, "--num-shots", 2, "--out", tmp_path / "out") == 2
    assert "--num-shots 0" in capsys.readouterr().err
    assert measure("--model", base, "--task", task, "--num-shots", 1, "--out", tmp_path / "out") == 0
    assert all(len(item["shots"]) == 1 for item in items(tmp_path / "out"))


def test_the_unconditional_score_has_neither_examples_nor_description_before_it(base, task, tmp_path):
    task.write_text(TASK + 'description: "Colours."\n', encoding="utf-8")
    assert measure("--model", base, "--task", task, "--num-shots", 2, "--out", tmp_path / "out", "--limit", 2) == 0
    for item in items(tmp_path / "out"):
        assert "Colours." in item["prompt"]
        assert {option["context"] for option in item["options"][4:]} == {""}
        assert [o["text"] for o in item["options"][4:]] == [f" {text}" for text in item["fields"]["choices"]["text"]]


@pytest.mark.parametrize("shots", ["fixed", "per-item"])
def test_a_record_that_stands_twice_is_not_shown_its_own_answer(base, task, tmp_path, write, shots):
    write([*QUESTIONS, *QUESTIONS])
    words = ("--model", base, "--task", task, "--num-shots", 3, "--shots", shots)
    assert measure(*words, "--out", tmp_path / "out") == 0
    for item in items(tmp_path / "out"):
        assert item["prompt"].count(item["fields"]["question"]) == 1
        assert len(item["shots"]) == 3


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("measures: [acc, ", "measures: [acc_characters, acc, "), "another task"),
        (("about: Colours", 'cluster: "{{ answerKey }}"\nabout: Colours'), "another task"),
        (("data: data.jsonl", "data: data.jsonl\nshots_from: more.jsonl"), "another pool of examples"),
    ],
)
def test_what_decides_a_verdict_cannot_change_in_a_folder_of_results(base, task, tmp_path, write, capsys, change, what):
    write([*QUESTIONS[:0:-1], {**QUESTIONS[0], "question": "Which colour has the sky?"}], "more.jsonl")
    words = ("--model", base, "--task", task, "--num-shots", 1, "--out", tmp_path / "out")
    write(QUESTIONS)
    assert measure(*words) == 0
    task.write_text(TASK.replace(*change), encoding="utf-8")
    assert measure(*words) == 2
    assert what in capsys.readouterr().err


def test_a_refused_run_leaves_the_settings_of_the_finished_one(base, task, tmp_path, capsys):
    words = ("--model", base, "--task", task, "--out", tmp_path / "out")
    assert measure(*words) == 0
    before = (tmp_path / "out" / "config.yaml").read_text(encoding="utf-8")
    assert measure(*words, "--dtype", "bfloat16") == 2
    assert (tmp_path / "out" / "config.yaml").read_text(encoding="utf-8") == before


def test_tasks_on_files_of_one_name_are_numbered_and_one_twice_is_refused(base, task, tmp_path, write, capsys):
    arc = [{**question, "id": str(number)} for number, question in enumerate(QUESTIONS)]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(arc, f"{folder}/test.jsonl")
    words = [word for folder in ("a", "b") for word in ("--task", f"arc={tmp_path / folder / 'test.jsonl'}")]
    assert measure("--model", base, *words, "--out", tmp_path / "out") == 0
    assert [one["name"] for one in results(tmp_path / "out")["tasks"]] == ["arc-test", "arc-test-2"]
    assert measure("--model", base, *words[:2], *words[:2], "--out", tmp_path / "twice") == 2
    assert "twice" in capsys.readouterr().err


def test_a_kept_item_that_cannot_be_read_is_told_with_its_line(base, task, tmp_path, capsys):
    words = ("--model", base, "--task", task, "--out", tmp_path / "out")
    assert measure(*words) == 0
    path = next((tmp_path / "out").glob("*/colours/items.jsonl"))
    path.write_text(path.read_text(encoding="utf-8") + "{bad\n", encoding="utf-8")
    assert measure(*words) == 2
    said = capsys.readouterr().err
    assert "line 7" in said
    assert "sed -i 7d" in said


def test_an_unconditional_context_of_its_own_has_no_examples_before_it_and_an_empty_context_has(base, task, tmp_path):
    own = TASK.replace("    right: ", '    unconditional: "Answer:"\n    right: ')
    task.write_text(own, encoding="utf-8")
    assert measure("--model", base, "--task", task, "--num-shots", 1, "--out", tmp_path / "own", "--limit", 1) == 0
    [item] = items(tmp_path / "own")
    assert {option["context"] for option in item["options"][4:]} == {"Answer:"}
    task.write_text(TASK.replace('context: "Question: {{ question }}\\nAnswer:"', 'context: ""'), encoding="utf-8")
    assert measure("--model", base, "--task", task, "--num-shots", 1, "--out", tmp_path / "empty", "--limit", 1) == 0
    [item] = items(tmp_path / "empty")
    assert len(item["shots"]) == 1
    assert all(option["context"] for option in item["options"][:4])


def test_a_model_that_is_named_twice_is_refused(base, task, tmp_path, capsys):
    assert measure("--model", base, "--model", base, "--task", task, "--out", tmp_path / "out") == 2
    assert str(base) in capsys.readouterr().err

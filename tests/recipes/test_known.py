"""`heed known`: what it asks, keeps, goes on with, writes, and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from refusals import parts_of_refusal

from heed.cli.main import main
from heed.errors import UserError
from heed.evaluate.answers import declines
from heed.recipes.knowing.questions import Question, question_of, texts_in
from heed.recipes.knowing.shots import FewShot, Form
from heed.types import Finding, Origin

ORIGIN = Origin("data.jsonl", 1)
SMALL = {"device": "cpu", "num-prompts": 2, "num-shots": 2, "num-samples": 2, "max-new-tokens": 4}


def command(model, data, out, **options):
    """The words of `heed known`; options are written with `_`."""
    given = {**SMALL, **{name.replace("_", "-"): value for name, value in options.items()}}
    words = ["known", "--model", str(model), "--out", str(out)]
    for path in [data] if isinstance(data, Path) else data:
        words += ["--data", str(path)]
    return [*words, *(str(word) for name, value in given.items() for word in (f"--{name}", value))]


def question(text, *answers, answerable=True):
    found = question_of({"question": text, "answers": list(answers), "answerable": answerable}, ORIGIN)
    assert isinstance(found, Question)
    return found


# ---- records


@pytest.mark.parametrize(
    ("record", "text", "accepted"),
    [
        (
            {"context": "Question: Which vegetable?\nAnswer:", "answer": "Onion", "aliases": ["Onions", "Onion"]},
            "Which vegetable?",
            ("Onion", "Onions"),
        ),
        ({"instruction": "Name it.", "input": "The sky.", "output": "Blue"}, "Name it.\nThe sky.", ("Blue",)),
        ({"prompt": "Câu hỏi: Ở đâu?\nTrả lời:", "completion": "Huế"}, "Ở đâu?", ("Huế",)),
        (
            {"question": "Who?", "answer": {"value": "Ann", "aliases": ["Anna", "Annie"], "type": "Person"}},
            "Who?",
            ("Ann", "Anna", "Annie"),
        ),
        ({"question": "Who?", "answers": {"text": ["Ann", "Bo"], "answer_start": [3, 4]}}, "Who?", ("Ann", "Bo")),
        ({"question": "Who?", "possible_answers": '["Ann", "Bo"]', "answers": None}, "Who?", ("Ann", "Bo")),
        ({"question": "How many?", "answer": 12}, "How many?", ("12",)),
        (
            {
                "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}],
                "accepted": ["Ann", "the Ann"],
            },
            "Who?",
            ("Ann.", "Ann", "the Ann"),
        ),
    ],
)
def test_a_record_is_read_in_the_shape_people_have_it(record, text, accepted):
    found = question_of(record, ORIGIN)
    assert isinstance(found, Question)
    assert (found.text, found.accepted, found.is_answerable) == (text, accepted, True)
    assert found.answer == accepted[0]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "How many stars will die?", "answerable": False, "answer": None},
        {"question": "How many stars will die?", "is_impossible": True, "answers": {"text": []}},
        {"question": "How many stars will die?", "answerable": "false", "answer": ["none"]},
    ],
)
def test_what_nobody_can_know_needs_no_answer(record):
    found = question_of(record, ORIGIN)
    assert isinstance(found, Question)
    assert (found.is_answerable, found.accepted) == (False, ())


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"question": "Who?"}, "no right answer"),
        ({"question": "Who?", "answer": "", "aliases": []}, "no right answer"),
        ({"question": "Who?", "answer": "..."}, "no right answer"),
        ({"question": "Who?", "answer": "Ann\nand Bo"}, "no right answer"),
        ({"answer": "Ann"}, "asks nothing"),
        ({"question": "  ", "answer": "Ann"}, "asks nothing"),
        ({"question": "Who?\ud800", "answer": "Ann"}, "not Unicode"),
    ],
)
def test_a_record_without_a_question_or_a_right_answer_is_a_finding(record, problem):
    found = question_of(record, ORIGIN)
    assert isinstance(found, Finding)
    assert problem in found.problem
    assert all((found.found, found.expected, found.fix))


def test_aliases_that_could_match_anything_are_not_taken():
    assert question("Who?", "Ann", "?!", "...", "").accepted == ("Ann",)


def test_the_texts_of_nested_answers_come_in_their_order():
    assert texts_in([{"text": ["a"]}, "b", 3, None, True, ""]) == ["a", "b", "3"]


# ---- prompts


def test_a_form_says_where_question_and_answer_stand():
    form = Form.of(r"Q: {question}\nA: {answer}\n\n")
    who = question("Who?", "Ann")
    assert form.shown(who) == "Q: Who?\nA: Ann\n\n"
    assert form.asked(who) == "Q: Who?\nA:", "the space belongs to the answer's first token"
    assert form.stop == "\n"
    assert Form.of("“{question}” asked Lan. “{answer}” said Minh.\n").stop == "”"


@pytest.mark.parametrize(
    "text", ["{question}", "{answer} {question}.", "{question} {answer}", "{question}{question}{answer}."]
)
def test_a_form_that_says_too_little_is_refused(text):
    with pytest.raises(UserError, match="the form does not say"):
        Form.of(text)


QUESTIONS = [question(f"Who is number {n}?", f"P{n}") for n in range(30)]


def test_examples_are_never_the_question_itself_nor_one_like_it_and_always_as_many():
    twin = question("who is number 3 ?", "X")
    few_shot = FewShot.drawn([*QUESTIONS, question("Who is Number 3?", "Y")], num_prompts=12, num_shots=6, seed=0)
    for prompt in range(12):
        for each in (*QUESTIONS, twin):
            examples = few_shot.examples(prompt, each)
            assert len(examples) == 6
            assert len({example.key for example in examples}) == 6
            assert each.key not in {example.key for example in examples}


def test_examples_depend_on_the_seed_and_the_prompt_and_not_on_the_order_of_the_data():
    drawn = FewShot.drawn(QUESTIONS, num_prompts=3, num_shots=4, seed=0)
    assert drawn == FewShot.drawn(QUESTIONS[::-1], num_prompts=3, num_shots=4, seed=0)
    assert drawn != FewShot.drawn(QUESTIONS, num_prompts=3, num_shots=4, seed=1)
    assert len(set(drawn.prompts)) == 3


def test_most_questions_share_all_their_examples():
    few_shot = FewShot.drawn(QUESTIONS, num_prompts=1, num_shots=4, seed=0)
    counts = Counter(few_shot.examples(0, each) for each in QUESTIONS)
    assert sorted(counts.values()) == [1, 1, 1, 1, 26]


def test_unanswerable_questions_are_no_examples():
    nobody = [question(f"Will {n} win?", answerable=False) for n in range(50)]
    few_shot = FewShot.drawn([*nobody, *QUESTIONS], num_prompts=5, num_shots=4, seed=0)
    assert all(each.is_answerable for prompt in few_shot.prompts for each in prompt)
    with pytest.raises(UserError, match="too few questions"):
        FewShot.drawn([*nobody, *QUESTIONS[:4]], num_prompts=1, num_shots=4, seed=0)


# ---- the command


@pytest.fixture
def asked(write, tmp_path, base):
    """Run `heed known` on the tiny base and return what it wrote."""

    def ran(records, out="known", **options):
        data = write(records, "questions.jsonl")
        assert main(command(base, data, tmp_path / out, **options)) == 0
        return Written(tmp_path / out)

    return ran


class Written:
    def __init__(self, folder):
        self.folder = folder
        self.answers, self.categories, self.records, self.left_out = (
            [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in ("answers", "categories", "records", "left_out")
        )
        self.results = json.loads((folder / "results.json").read_text(encoding="utf-8"))


def facts(count):
    return [{"question": f"Who is number {n}?", "answer": f"P{n}", "aliases": [f"Person {n}"]} for n in range(count)]


def test_every_question_has_its_answers_its_category_and_what_became_of_it(asked):
    wrote = asked([*facts(6), {"question": "Will it rain?", "answerable": False}], max_refusals=1)
    assert [len(line["prompts"]) for line in wrote.answers] == [2] * 7
    assert all(len(prompt["samples"]) == 2 for line in wrote.answers for prompt in line["prompts"])
    assert [line["category"] for line in wrote.categories] == ["unknown"] * 6 + ["unanswerable"]
    assert [line["action"] for line in wrote.categories] == ["refuse"] * 7, "a model of random weights knows nothing"
    assert all(declines(record["output"]) for record in wrote.records)
    assert len({record["output"] for record in wrote.records}) > 1
    assert [record["instruction"] for record in wrote.records] == [line["question"] for line in wrote.categories]
    assert wrote.results["records"] == {"answers": 0, "refusals": 7, "left_out": {}}
    shares = {f["measure"]: (f["value"], f["count"]) for f in wrote.results["figures"]}
    assert shares["unknown"] == (1.0, 6)
    assert all(f["low"] <= f["value"] <= f["high"] for f in wrote.results["figures"])


def test_what_the_model_says_is_known_and_keeps_the_answer_of_the_data(asked):
    said = asked(facts(5)).answers
    # What the model likes to say is declared right: then it is highly known.
    told = [{"question": line["question"], "answer": "Gold", "aliases": []} for line in said]
    for line, record in zip(said, told, strict=True):
        record["aliases"] = list({prompt["greedy"].splitlines()[0] for prompt in line["prompts"] if prompt["greedy"]})
    if not all(record["aliases"] for record in told):
        pytest.skip("the tiny model said nothing")
    again = asked(told, num_shots=0, seed=1, out="known-2")
    assert {line["category"] for line in again.categories} <= {"highly known", "maybe known", "weakly known", "unknown"}
    assert {record["output"] for record in again.records} <= {"Gold", *(r["output"] for r in again.records)}


def test_the_records_are_what_heed_sft_learns_from(asked, base, tmp_path):
    wrote = asked([*facts(8)], max_refusals=1)
    words = ["--model", str(base), "--data", str(wrote.folder / "records.jsonl"), "--template", "plain"]
    words += ["--out", str(tmp_path / "tuned"), "--steps", "1", "--held-out-share", "0", "--device", "cpu"]
    assert main(["sft", *words]) == 0


def test_what_the_tuned_model_declines_is_measured_on_the_categories(asked, base, tmp_path):
    wrote = asked([*facts(6), {"question": "Will it rain?", "answerable": False}], max_refusals=1)
    run, categories = tmp_path / "tuned", wrote.folder / "categories.jsonl"
    words = ["--model", base, "--data", wrote.folder / "records.jsonl", "--template", "plain", "--out", run]
    words += ["--steps", "60", "--optim.lr", "0.01", "--held-out-share", "0", "--device", "cpu"]
    assert main(["sft", *map(str, words)]) == 0
    # Two of them the base knew, says the file; the model learnt to decline all.
    lines = [line | {"category": "highly known"} if n < 2 else line for n, line in enumerate(wrote.categories)]
    categories.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ["--model", run, "--task", f"known={categories}", "--out", tmp_path / "eval", "--device", "cpu"]
    assert main(["eval", *map(str, words)]) == 0
    results = json.loads((tmp_path / "eval" / "results.json").read_text(encoding="utf-8"))
    found = {f["measure"]: (f["value"], f["count"]) for f in results["figures"] if f["group"] is None}
    assert found["over_conservativeness"] == (1.0, 2)
    assert found["prudence"] == (1.0, 5)
    assert found["honesty"] == (0.5, 7)


def test_a_question_s_answers_depend_on_no_other_question(asked):
    many, fewer = asked(facts(7)), asked(facts(7), limit=3, out="limited")
    assert fewer.answers == many.answers[:3]
    assert len(fewer.categories) == 3


def test_what_was_decided_afterwards_may_change_without_asking_again(asked):
    before = asked(facts(6))
    stamp = (before.folder / "answers.jsonl").stat().st_mtime_ns
    again = asked(facts(6), max_refusals=1, limit=4, check="line")
    assert (again.folder / "answers.jsonl").stat().st_mtime_ns == stamp
    assert len(before.records) == 0, "without a known question there is no room for refusals"
    assert len(again.records) == 4


def test_a_torn_last_line_is_asked_again_and_nothing_else(asked):
    whole = asked(facts(6))
    path = whole.folder / "answers.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-25])
    again = asked(facts(6))
    assert path.read_bytes() == content
    assert again.categories == whole.categories


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_same_answers(write, base, tmp_path):
    data = write(facts(600), "questions.jsonl")

    def process(out):
        return [sys.executable, "-m", "heed.cli.main", *command(base, data, tmp_path / out)]

    running = subprocess.Popen(process("killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    answers = tmp_path / "killed" / "answers.jsonl"
    deadline = time.monotonic() + 120
    while not (answers.is_file() and answers.stat().st_size) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = len(answers.read_bytes().splitlines())
    assert kept > 0
    for out in ("killed", "whole"):
        subprocess.run(process(out), check=True, capture_output=True)
    killed, whole = Written(tmp_path / "killed"), Written(tmp_path / "whole")
    assert killed.answers == whole.answers
    assert killed.results["records"] == whole.results["records"]


def test_other_questions_in_the_same_folder_are_refused(asked, write, base, tmp_path, capsys):
    wrote = asked(facts(6))
    capsys.readouterr()
    data = write(facts(7), "questions.jsonl")
    assert main(command(base, data, wrote.folder)) == 2
    assert "questions has changed" in parts_of_refusal(capsys, wrote.folder, leaves=True)["error"]
    assert len(Written(wrote.folder).answers) == 6, "what was kept stays"


@pytest.mark.parametrize(
    ("records", "options", "problem", "fix"),
    [
        ([*facts(5), {"question": "Who?"}], {}, "no right answer", "--max-bad-records"),
        ([{"text": "A text."}], {}, "asks nothing", "--columns question="),
        (facts(2), {}, "too few questions", "--num-shots 1"),
        (
            [*facts(5), {"question": "Who?", "answer": "a very long answer indeed, and longer"}],
            {},
            "longer than",
            "--max-new-tokens",
        ),
        ([*facts(5), {"question": "Who? " * 200, "answer": "P"}], {}, "no room for an answer", "--num-shots 1"),
        (facts(5), {"form": "{question}"}, "the form does not say", "--form"),
    ],
)
def test_mistakes_are_told_in_five_parts(write, base, tmp_path, capsys, records, options, problem, fix):
    data = write(records, "questions.jsonl")
    out = tmp_path / "known"
    assert main(command(base, data, out, **options)) == 2
    parts = parts_of_refusal(capsys, out, leaves=False)
    assert problem in parts["error"]
    assert fix in parts["fix"]


def test_unusable_records_within_the_limit_are_left_out_and_listed(asked):
    wrote = asked([*facts(5), {"question": "Who?"}], max_bad_records=0.5)
    assert len(wrote.categories) == 5
    assert [line["record"] for line in wrote.left_out] == [6]
    assert wrote.results["num_unusable"] == 1


def test_real_questions_of_two_data_sets_are_read(shared, tmp_path):
    data = [shared / "eval" / name for name in ("triviaqa-3000.jsonl", "selfaware.json")]
    model, out = shared / "models" / "stories260K", tmp_path / "known"
    assert main(command(model, data, out, limit=3, max_bad_records=0.01, num_shots=1, max_new_tokens=24)) == 0
    assert len(Written(out).categories) == 3

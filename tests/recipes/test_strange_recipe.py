"""`heed strange`: a detector beside a tuned model, what it is held to, and what a chat says of it."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import heed
from heed.cli.chat import answer
from heed.cli.main import main
from heed.config import ChatSettings
from heed.evaluate.strange import Detector
from heed.recipes.chat import open_chat
from heed.recipes.library.model import open_model
from heed.recipes.strange import find_detector, p_values_of, state_of_prompt

THINGS = ("sky", "grass", "snow", "coal", "blood", "lemon")
ASKED = [f"What colour is {thing} number {n}?" for thing in THINGS for n in range(20)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, instruct, tune):
    """A run on 120 prompts of one kind."""
    folder = tmp_path_factory.mktemp("strange")
    data = folder / "colours.jsonl"
    records = [{"instruction": text, "output": "It is blue."} for text in ASKED]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = {"model": instruct, "data": data, "out": folder / "run", "steps": 10, "batch_size": 8}
    assert tune(held_out_share=0, **words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def fitted(tuned, tmp_path_factory):
    """The same with a detector, against Vietnamese and other text."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(tuned, folder)
    text = folder.parent / "text.txt"
    text.write_text("\n".join(f"Một câu khác số {n}, và {n * 7} điều nữa. And English, too, {n}." for n in range(200)))
    assert main(["strange", str(folder), "--background", str(text), "--device", "cpu"]) == 0
    return folder


def test_the_states_of_a_model_are_those_of_plain_transformers(tuned):
    model = open_model(str(tuned), template=None, device="cpu", dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(tuned)
    found = model.states(ASKED[:5])
    for text, state in zip(ASKED[:5], found, strict=True):
        ids = model._prompt_ids(text, 1)
        with torch.no_grad():
            expected = plain.model(torch.tensor([ids])).last_hidden_state[0, -1].double().numpy()
        assert state == pytest.approx(expected, abs=1e-4)
        assert state_of_prompt(model.loaded.model, ids) == pytest.approx(expected, abs=1e-4)


def test_it_knows_its_data_from_the_run_and_leaves_two_files(fitted):
    about = json.loads((fitted / "strange.json").read_text())
    assert (about["num_prompts"], about["num_calibration"]) == (90, 30)
    assert about["num_background"] > 10
    assert about["data"][0].endswith("colours.jsonl")
    assert Detector.load(fitted).background is not None


def test_prompts_of_the_kind_are_usual_and_others_strange(fitted):
    model = open_model(str(fitted), template=None, device="cpu", dtype="float32")
    detector = find_detector(str(fitted), model.template, model.tokenizer).detector
    usual = detector.p_values(
        model.states([f"What colour is {thing} number {n}?" for thing in THINGS for n in (33, 47)])
    )
    strange = detector.p_values(model.states(["Viết một câu về mùa xuân. 12345", "<<<>>> {} ;;", "Hãy kể chuyện"]))
    assert np.median(usual) > 0.1
    assert strange.max() <= np.median(usual)
    assert strange.min() == pytest.approx(1 / 31)


def test_many_prompts_at_once_are_as_strange_as_each_alone(fitted):
    model = open_model(str(fitted), template=None, device="cpu", dtype="float32")
    detector = Detector.load(fitted)
    prompts = [model._prompt_ids(text, 1) for text in (*ASKED[:6], "Hãy kể chuyện", "<<<>>> {}")]
    together = p_values_of(detector, model.loaded, prompts, dtype="float32")
    alone = [detector.p_value(state_of_prompt(model.loaded.model, prompt)) for prompt in prompts]
    assert together == pytest.approx(alone, abs=1.5 / 31), "up to a tie that rounding decides"
    assert p_values_of(detector, model.loaded, [], dtype="float32") == []


def test_a_chat_says_in_one_line_that_a_prompt_is_strange(fitted, capsys):
    chat = open_chat(ChatSettings(model=str(fitted), device="cpu", max_new_tokens=3, temperature=0), print)
    answer(chat, "<<<>>> {} ;; 98765")
    assert chat.p_strange == pytest.approx(1 / 31)
    assert "unlike those that the model was tuned on: p = 0.03" in capsys.readouterr().err
    chat.start_anew()
    answer(chat, ASKED[7])
    assert chat.p_strange > 0.05
    assert "unlike" not in capsys.readouterr().err


def test_an_evaluation_keeps_the_p_value_of_every_prompt(fitted, tuned, tmp_path):
    asked = [ASKED[3], "<<<>>> {} ;; 98765"]
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps({"question": text, "answer": "blue"}) + "\n" for text in asked))
    task = tmp_path / "colours.yaml"
    task.write_text(
        "about: Colours\nkind: generation\nmeasures: [contains]\ndata: asked.jsonl\n"
        "generation: {max_new_tokens: 2, checker: contains}\n"
        'shapes: [{fields: [question, answer], context: "{{ question }}", right: "{{ [answer] }}"}]\n'
    )
    for model, out in ((fitted, tmp_path / "with"), (tuned, tmp_path / "without")):
        assert main(["eval", "--model", str(model), "--task", str(task), "--out", str(out), "--device", "cpu"]) == 0
    with_it, without = (
        [json.loads(line) for line in next((tmp_path / out).rglob("items.jsonl")).read_text().splitlines()]
        for out in ("with", "without")
    )
    by_prompt = {line["fields"]["question"]: line["p_strange"] for line in with_it}
    assert by_prompt[asked[0]] > 0.05
    assert by_prompt[asked[1]] == pytest.approx(1 / 31)
    assert [line["p_strange"] for line in without] == [None, None]


def test_other_weights_void_it_and_the_chat_says_so_once(fitted, tuned, tmp_path, instruct):
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    for name in ("strange.npz", "strange.json"):
        shutil.copy(fitted / name, other / name)
    assert find_detector(str(other), *words_of(other)).detector is not None, "a copy of the model is the same model"
    weights = AutoModelForCausalLM.from_pretrained(other)
    weights.model.norm.weight.data += 0.5
    weights.save_pretrained(other)
    said = []
    chat = open_chat(ChatSettings(model=str(other), device="cpu"), said.append)
    assert chat.detector is None
    assert [line for line in said if "void" in line and "weights" in line and "heed strange" in line]


def words_of(folder):
    model = open_model(str(folder), template=None, device="cpu", dtype="float32")
    return model.template, model.tokenizer


def test_another_template_voids_it(fitted):
    said = []
    chat = open_chat(ChatSettings(model=str(fitted), template="plain", device="cpu"), said.append)
    assert chat.detector is None
    assert [line for line in said if "another chat template" in line]


def test_a_model_without_a_detector_is_talked_to_as_before(tuned):
    chat = open_chat(ChatSettings(model=str(tuned), device="cpu", max_new_tokens=2), print)
    chat.answer("Hi", lambda piece: None)
    assert (chat.detector, chat.p_strange) == (None, None)


@pytest.mark.parametrize(
    ("records", "problem"),
    [(10, "too few prompts"), (None, "not known what this model was tuned on")],
)
def test_mistakes_are_told_in_five_parts(instruct, write, tmp_path, capsys, records, problem):
    text = str(write([{"text": "Some words of every kind, more and more of them. " * 9}], "text.jsonl"))
    words = ["strange", "--model", str(instruct), "--device", "cpu", "--out", str(tmp_path / "out")]
    words += ["--background", text]
    if records:
        words += ["--data", str(write([{"instruction": f"Say {n}.", "output": "x"} for n in range(records)]))]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert problem in told
    assert "fix:" in told
    assert not (tmp_path / "out").exists()


def test_states_are_a_method_of_a_loaded_model(tuned):
    states = heed.load(tuned, device="cpu").states(["Hi", "Name a fruit."])
    assert states.shape == (2, 32)
    assert states.dtype == np.float64

"""`heed calibrate` on the results of `heed eval`, and `heed chat` with what it wrote."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from heed.cli.main import main
from heed.config import ChatSettings
from heed.data.rendering.render import ChatTemplate
from heed.data.tokens import fit_template
from heed.errors import UserError
from heed.evaluate.guarantees import is_tuning
from heed.models.decode.sample import sample
from heed.models.intake.content import weights_sha256
from heed.models.load import load_tokenizer
from heed.recipes.chat import Ending, open_chat
from heed.recipes.honesty import does_not_know
from heed.recipes.training.content import words_content
from heed.recipes.training.setup import wrapped

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def record_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


def generated(count: int, *, seed: int = 0, sharpness: float = 8.0) -> list[dict]:
    """Items of a generation task: surer answers are right more often, but confidences are far too low."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        u = float(rng.random())
        is_right = bool(rng.random() < 1 / (1 + math.exp(-sharpness * (u - 0.2))))
        line = {"id": record_id(number), "record": number + 1, "cluster": None, "groups": {}, "chosen": None}
        line |= {"answer": "It is green.", "is_cut": False, "right": ["green"], "confidence": 0.5 * u + 0.01}
        lines.append(line | {"verdict": {"exact": float(is_right), "is_right": is_right}})
    return lines


def chosen(count: int, *, seed: int = 0, temperature: float = 2.0) -> list[dict]:
    """Items of a choice task whose model is surer than it should be."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        logp = rng.normal(size=4) * 8 - 20
        share = np.exp((logp - logp.max()) / temperature)
        right = int(rng.choice(4, p=share / share.sum()))
        best = int(logp.argmax())
        confidence = float(1 / np.exp(logp - logp.max()).sum())
        line = {"id": record_id(number), "record": number + 1, "cluster": None, "groups": {}, "right": [right]}
        line |= {"options": [{"text": " x", "ids": [1, 2], "logp": [each / 2, each / 2]} for each in logp]}
        line |= {"chosen": best, "confidence": confidence, "verdict": {"acc": best == right, "is_right": best == right}}
        lines.append(line)
    return lines


def words_of(model: Path) -> dict[str, str]:
    tokenizer = wrapped(load_tokenizer(str(model)), str(model), needs_template=True)
    return words_content(fit_template(tokenizer.template, tokenizer), tokenizer)


def write_run(out: Path, model: Path | str, tasks: dict[str, list[dict]], kind: str = "generation", **more) -> Path:
    """A folder as `heed eval` leaves it."""
    is_local = Path(model).is_dir()
    words = words_of(Path(model)) if is_local else {"chat template": "0", "tokenizer": "0"}
    described = {"name": str(model), "template": "own", "kind": "language", "folder": "1-model"}
    described |= {"weights_sha256": weights_sha256(str(model)), "tokenizer_sha256": words["tokenizer"]}
    described |= {"chat_template_sha256": words["chat template"], **more}
    told = []
    for name, lines in tasks.items():
        folder = out / "1-model" / name
        folder.mkdir(parents=True)
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        primary = "acc" if kind == "choice" else "exact"
        task = {"name": name, "kind": kind, "about": "", "data": f"{name}.jsonl", "num_items": len(lines)}
        told.append(task | {"num_shots": 0, "primary": primary, "measures": [primary]})
    results = {"format": 1, "models": [described], "tasks": told, "figures": [], "differences": [], "left_out": []}
    (out / "results.json").write_text(json.dumps(results))
    (out / "config.yaml").write_text("dtype: float32\n")
    return out


@pytest.fixture
def model(instruct, tmp_path) -> Path:
    """A model's folder of the test's own, for honesty.json to be written into."""
    return Path(shutil.copytree(instruct, tmp_path / "model"))


def calibrate(out: Path, *words: str) -> int:
    return main(["calibrate", str(out), *words])


def honesty_of(folder: Path) -> dict:
    return json.loads((folder / "honesty.json").read_text())


# ---- calibrate


def test_a_threshold_is_certified_and_written_beside_the_model(model, tmp_path, capsys):
    run = write_run(tmp_path / "eval", model, {"colours": generated(600)})
    assert calibrate(run, "--max-error", "0.1", "--confidence", "0.95") == 0
    printed, found = capsys.readouterr().out, honesty_of(model)
    assert found["sentence"] in printed
    assert "With confidence 95% over the calibration draw, at most 10% of the answers given are wrong." in printed
    for caveat in ("exchangeab", "not for each topic", "void for other weights"):
        assert caveat in printed
    assert found["certified"]
    assert 0 < found["threshold"] < 1
    assert found["p"] <= 0.05
    assert found["data"]["num_tuning"] + found["data"]["num_calibration"] == 600
    assert found["count"] == found["data"]["num_calibration"]
    assert found["scaling"]["kind"] == "platt"
    assert found["scaling"]["slope"] > 0
    quality = found["quality"]
    assert quality["after"]["ece_debiased"] < 0.15 < 0.3 < quality["before"]["ece_debiased"]
    assert quality["after"]["auroc"] == pytest.approx(quality["before"]["auroc"], abs=1e-9), "only the scale changes"
    assert found["model"]["weights_sha256"] == weights_sha256(str(model))
    assert len(found["data"]["items_sha256"]) == 64


def test_the_file_is_the_same_whatever_the_order_of_the_items(model, tmp_path):
    lines = generated(400)
    calibrate(write_run(tmp_path / "one", model, {"colours": lines}))
    first = honesty_of(model)
    calibrate(write_run(tmp_path / "two", model, {"colours": lines[::-1]}))
    second = honesty_of(model)
    for content in (first, second):
        content["data"].pop("items_sha256")
    assert first["threshold"] == pytest.approx(second["threshold"], rel=1e-9)
    assert (first["given"], first["wrong"], first["p"]) == (second["given"], second["wrong"], second["p"])


def test_options_are_scaled_by_a_temperature(model, tmp_path):
    run = write_run(tmp_path / "eval", model, {"arc": chosen(900)}, kind="choice")
    assert calibrate(run, "--max-error", "0.2") == 0
    found = honesty_of(model)
    assert found["answers"] == "chosen"
    assert found["scaling"]["kind"] == "temperature"
    assert found["scaling"]["temperature"] == pytest.approx(2.0, rel=0.3)
    assert found["quality"]["after"]["ece_debiased"] < found["quality"]["before"]["ece_debiased"]


@pytest.mark.parametrize("guarantee", ["joint", "batch"])
def test_the_other_guarantees_have_their_own_sentences(model, tmp_path, guarantee, capsys):
    run = write_run(tmp_path / "eval", model, {"colours": generated(500)})
    assert calibrate(run, "--guarantee", guarantee) == 0
    found = honesty_of(model)
    assert "on average" in found["sentence"] if guarantee == "joint" else "selected from a batch" in found["sentence"]
    assert (found["threshold"] is None) == (guarantee == "batch")
    assert (len(found["wrong_confidences"]) > 0) == (guarantee == "batch")
    assert "With confidence" not in capsys.readouterr().out


def test_answers_that_go_together_are_on_one_side_and_count_once(model, tmp_path):
    lines = [line | {"cluster": f"paragraph {number // 5}"} for number, line in enumerate(generated(900))]
    assert calibrate(write_run(tmp_path / "eval", model, {"colours": lines}), "--max-error", "0.2") == 0
    calibration = {f"paragraph {n}" for n in range(180) if not is_tuning(f"in paragraph {n}", 0.3)}
    assert honesty_of(model)["count"] == len(calibration)
    repeated = [each for line in generated(300) for each in (line, line | {"id": line["id"] + "-1"})]
    calibrate(write_run(tmp_path / "again", model, {"colours": repeated}), "--max-error", "0.2")
    assert honesty_of(model)["count"] < 300


def test_too_few_answers_are_refused_with_how_many_more_it_takes(model, tmp_path, capsys):
    lines = [line | {"verdict": {"is_right": True}} for line in generated(30)]
    run = write_run(tmp_path / "eval", model, {"colours": lines})
    assert calibrate(run) == 2
    told = capsys.readouterr().err
    assert "cannot be certified" in told
    assert "it takes 29 at least" in told
    assert "more items" in told
    found = honesty_of(model)
    assert not found["certified"]
    assert found["threshold"] is None
    assert found["sentence"].startswith("Nothing is certified")


def test_a_useless_confidence_is_refused(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = [line | {"verdict": {"is_right": bool(rng.random() < 0.5)}} for line in generated(800)]
    assert calibrate(write_run(tmp_path / "eval", model, {"colours": lines})) == 2
    assert "no number of items like these would do" in capsys.readouterr().err
    assert honesty_of(model)["threshold"] is None


def test_which_model_and_task_are_meant_must_be_clear(model, tmp_path, capsys):
    run = write_run(tmp_path / "eval", model, {"colours": generated(400), "more": generated(400, seed=1)})
    assert calibrate(run) == 2
    assert "--task colours" in capsys.readouterr().err
    assert calibrate(run, "--task", "colour") == 2
    assert "one of colours, more" in capsys.readouterr().err
    assert calibrate(run, "--task", "more", "--model", str(model)) == 0
    assert honesty_of(model)["data"]["task"] == "more"


def test_a_hub_model_keeps_it_in_the_run_and_says_so(tmp_path, capsys):
    run = write_run(tmp_path / "eval", "somebody/a-model", {"colours": generated(600)})
    assert calibrate(run) == 0
    assert f"--honesty {run}/1-model/honesty.json" in capsys.readouterr().out
    assert honesty_of(run / "1-model")["certified"]


def test_what_cannot_be_calibrated_is_told_in_five_parts(model, tmp_path, capsys):
    assert calibrate(tmp_path) == 2
    assert "this is no run of heed eval" in capsys.readouterr().err
    run = write_run(tmp_path / "text", model, {"colours": generated(9)}, kind="text")
    assert calibrate(run) == 2
    assert "no answers to be right or wrong" in capsys.readouterr().err
    lines = chosen(40)
    lines[7]["confidence"] = 0.123
    assert calibrate(write_run(tmp_path / "altered", model, {"arc": lines}, kind="choice")) == 2
    told = capsys.readouterr().err
    assert "line 8" in told
    assert "0.123" in told
    run = write_run(tmp_path / "other", model, {"colours": generated(400)}, weights_sha256="0" * 64)
    assert calibrate(run) == 2
    assert "the model has changed since it was measured" in capsys.readouterr().err
    assert not (model / "honesty.json").exists()


def test_items_without_confidence_or_truth_are_counted(model, tmp_path, capsys):
    lines = generated(500)
    lines[0]["confidence"] = None
    lines[1]["verdict"]["is_right"] = lines[2]["verdict"]["is_right"] = None
    assert calibrate(write_run(tmp_path / "eval", model, {"colours": lines})) == 0
    printed = capsys.readouterr().out
    assert "1 items left out: the model has no confidence in them" in printed
    assert "2 items left out: whether they are right is undefined" in printed


# ---- chat


@pytest.fixture
def honest(model, tmp_path) -> Path:
    """A model with its honesty.json."""
    assert calibrate(write_run(tmp_path / "eval", model, {"colours": generated(600)})) == 0
    return model


def set_threshold(model: Path, threshold: float | None, **more: object) -> None:
    content = honesty_of(model) | {"threshold": threshold, **more}
    (model / "honesty.json").write_text(json.dumps(content))


def opened(model: Path, **settings):
    lines: list[str] = []
    chat = open_chat(
        ChatSettings(**{"model": str(model), "device": "cpu", "max_new_tokens": 8, **settings}), lines.append
    )
    return chat, lines


def test_chat_tells_the_confidence_that_eval_would_give(honest):
    chat, lines = opened(honest, temperature=0)
    assert any("at most 10% of the answers given are wrong" in line for line in lines)
    chat.answer("Hi", lambda piece: None)
    prompt = chat.tokenizer.encode("<|user|>\nHi<|end|>\n<|assistant|>\n")
    [[answer]] = sample(chat.loaded.model, [prompt], stop_ids=chat.stop_ids, max_new_tokens=8)
    scaling = honesty_of(honest)["scaling"]
    raw = math.exp(sum(answer.logp) / len(answer.logp))
    expected = 1 / (1 + math.exp(-scaling["slope"] * math.log(raw / (1 - raw)) - scaling["intercept"]))
    assert chat.confidence == pytest.approx(expected, abs=1e-5)


def test_confidence_is_of_temperature_1_whatever_is_drawn_at(honest):
    cold, _ = opened(honest, temperature=0)
    nearly, _ = opened(honest, temperature=1e-3, top_p=0.5)
    for chat in (cold, nearly):
        chat.answer("Hi", lambda piece: None)
    assert cold.messages == nearly.messages
    assert cold.confidence == pytest.approx(nearly.confidence, abs=1e-6)


@pytest.mark.parametrize(
    ("message", "said"),
    [("What colour is it?", "I don't know."), ("Nó màu gì vậy? Tôi cần biết.", "Tôi không biết.")],
)
def test_beyond_the_threshold_it_says_that_it_does_not_know(honest, message, said):
    set_threshold(honest, 1.0)
    chat, _ = opened(honest, abstain=True)
    pieces: list[str] = []
    assert chat.answer(message, pieces.append) is Ending.WITHHELD
    assert pieces == [said] == [chat.messages[-1].content]
    assert chat.settings.temperature == 0, "as the answers were measured"


def test_within_the_threshold_the_answer_is_told_when_it_is_whole(honest):
    set_threshold(honest, 0.0)
    chat, _ = opened(honest, abstain=True)
    free, _ = opened(honest, temperature=0)
    pieces, at_once = [], []
    free.answer("Hi", pieces.append)
    chat.answer("Hi", at_once.append)
    assert at_once == ["".join(pieces)]
    assert len(pieces) > 1


def test_at_a_terminal_and_in_a_pipe_it_is_shown(honest, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(["chat", str(honest), "--device", "cpu", "--max-new-tokens", "5", "--temperature", "0"]) == 0
    assert "(confidence 0." in capsys.readouterr().err
    set_threshold(honest, 1.0)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(["chat", str(honest), "--device", "cpu", "--max-new-tokens", "5", "--abstain"]) == 0
    out, err = capsys.readouterr()
    assert out == "I don't know.\n"
    assert "withheld" in err


def test_changed_weights_void_it_in_one_line(honest):
    from safetensors.torch import load_file, save_file

    weights = load_file(honest / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] * 1.01
    save_file(weights, honest / "model.safetensors", {"format": "pt"})
    chat, lines = opened(honest)
    assert [line for line in lines if "honesty.json" in line] == [
        f"{honest}/honesty.json is void: the weights have changed; no confidence is told"
    ]
    chat.answer("Hi", lambda piece: None)
    assert chat.confidence is None
    with pytest.raises(UserError, match="does not know") as refusal:
        opened(honest, abstain=True)
    assert refusal.value.found == "it is void: the weights have changed"


def test_another_template_precision_or_temperature_voids_it(honest):
    _, lines = opened(honest, template="alpaca")
    assert any("void: the chat template is another one" in line for line in lines)
    _, lines = opened(honest, dtype="bfloat16")
    assert any("void: it was made in float32, and this is bfloat16" in line for line in lines)
    with pytest.raises(UserError) as refusal:
        opened(honest, abstain=True, temperature=0.7)
    assert "temperature 0" in refusal.value.found
    set_threshold(honest, 0.5, answers="chosen")
    _, lines = opened(honest)
    assert any("choices among options" in line for line in lines)


def test_abstaining_needs_a_threshold_that_holds(model, tmp_path):
    with pytest.raises(UserError) as refusal:
        opened(model, abstain=True)
    assert refusal.value.found == "there is no such file"
    calibrate(write_run(tmp_path / "eval", model, {"colours": generated(20)}))
    with pytest.raises(UserError) as refusal:
        opened(model, abstain=True)
    assert refusal.value.found.startswith("Nothing is certified")
    calibrate(write_run(tmp_path / "batch", model, {"colours": generated(500)}), "--guarantee", "batch")
    with pytest.raises(UserError) as refusal:
        opened(model, abstain=True)
    assert "batch" in refusal.value.found
    (model / "honesty.json").write_text("{}")
    with pytest.raises(UserError, match=r"no honesty\.json that can be read"):
        opened(model)


def test_a_file_elsewhere_can_be_named(honest, tmp_path):
    place = shutil.move(honest / "honesty.json", tmp_path / "kept.json")
    chat, _ = opened(honest)
    assert chat.honesty is None
    chat, _ = opened(honest, honesty=str(place), abstain=True)
    assert chat.honesty is not None


def test_vietnamese_is_answered_in_vietnamese():
    assert does_not_know("Thu\u031b\u0309 đo\u0302 ở đâu?") == "Tôi không biết."
    assert does_not_know("Où est le café ? ¿Qué?") == "I don't know."


def test_templates_of_the_same_words_have_the_same_hash(instruct):
    tokenizer = wrapped(load_tokenizer(str(instruct)), str(instruct), needs_template=True)
    one, two = (fit_template(ChatTemplate.load(name), tokenizer) for name in ("alpaca", "chatml"))
    assert words_content(one, tokenizer) == words_content(one, tokenizer) != words_content(two, tokenizer)


# ---- the whole way

TASK = """
about: Colours, in its own words
kind: generation
measures: [contains, calibration]
data: data.jsonl
generation: {max_new_tokens: 12, checker: contains}
shapes: [{fields: [question], context: "{{ question }}", right: "{{ answer }}"}]
"""


def test_from_eval_to_a_chat_that_abstains(tuned, tmp_path, write, capsys):
    model = Path(shutil.copytree(tuned, tmp_path / "model"))
    things = ["sky", "grass", "snow", "coal", "blood", "lemon", "door", "hat", "cup", "road"]
    questions = [f"Name the colour of {thing} number {number}." for thing in things for number in range(12)]
    write([{"question": each, "answer": "e"} for each in questions])  # any colour but pink has one
    (tmp_path / "colours.yaml").write_text(TASK)
    out = tmp_path / "eval"
    words = ["--model", str(model), "--task", str(tmp_path / "colours.yaml"), "--out", str(out), "--device", "cpu"]
    assert main(["eval", *words]) == 0
    assert calibrate(out, "--guarantee", "joint", "--max-error", "0.5") == 0
    found = honesty_of(model)
    assert found["certified"]
    assert found["model"]["weights_sha256"] == weights_sha256(str(model))
    folder = json.loads((out / "results.json").read_text())["models"][0]["folder"]
    lines = [json.loads(line) for line in (out / folder / "colours" / "items.jsonl").read_text().splitlines()]
    chat, said = opened(model, temperature=0, max_new_tokens=12)
    assert any("honesty.json: The share of questions" in line for line in said)
    for line in lines[:3]:
        chat.start_anew()
        pieces: list[str] = []
        chat.answer(line["fields"]["question"], pieces.append)
        assert "".join(pieces) == line["answer"]
        assert chat.honesty is not None
        raw = line["confidence"]
        expected = raw if chat.honesty.scaling is None else chat.honesty.scaling.confidence(raw)
        assert chat.confidence == pytest.approx(expected, abs=1e-4), "the same in a chat as it was measured"
    capsys.readouterr()


def test_what_stood_around_the_questions_is_told(model, tmp_path):
    run = write_run(tmp_path / "eval", model, {"colours": generated(600)})
    rules = {"generation": {"stop": ["\n"], "description": ""}, "description": "Be brief."}
    (run / "1-model" / "colours" / "asked.json").write_text(json.dumps({"task": rules}))
    assert calibrate(run) == 0
    _, lines = opened(model)
    assert any("asked with a description before each and answers ended by a text" in line for line in lines)


@pytest.mark.parametrize(("share_right", "max_error"), [(0.5, 0.1), (0.82, 0.15), (0.02, 0.1)])
def test_every_weaker_promise_that_is_offered_holds(model, tmp_path, capsys, share_right, max_error):
    rng = np.random.default_rng(0)
    lines = [line | {"verdict": {"is_right": bool(rng.random() < share_right)}} for line in generated(800)]
    run = write_run(tmp_path / "eval", model, {"colours": lines})
    assert calibrate(run, "--max-error", str(max_error)) == 2
    fix = capsys.readouterr().err.partition("fix:")[2]
    offered = re.findall(r"--(?:max-error [\d.]+|guarantee \w+)", fix)
    for words in offered:
        usual = () if words.startswith("--max-error") else ("--max-error", str(max_error))
        assert calibrate(run, *words.split(), *usual) == 0
    # so few answered and wrong that hardly any may be given: that can always be kept, 10% more wrong answers cannot
    assert ("--guarantee joint" in offered, len(offered)) == (True, 1 + (share_right == 0.82))


def test_a_promise_that_fails_leaves_the_one_that_held(model, tmp_path, capsys):
    run = write_run(tmp_path / "eval", model, {"colours": generated(600)})
    assert calibrate(run) == 0
    kept = honesty_of(model)
    assert calibrate(run, "--max-error", "0.0001") == 2
    assert "keeps the threshold" in capsys.readouterr().err
    assert honesty_of(model) == kept

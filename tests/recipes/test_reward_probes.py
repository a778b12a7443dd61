"""A reward model measured: probes, accuracy by group and annotators, of a real small model end to end."""

import json
import math
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tastes

import heed
from heed.cli.main import main
from heed.errors import UserError
from heed.evaluate.probe_texts import NAMES, WITH_NAME, WITHOUT_PLACE
from heed.recipes.evaluation.reward import PROBES, measure_reward_model, named_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def settings(**changes):
    """What a reward model's measurement reads of an `EvalSettings`."""
    usual = {
        "template": "own",
        "device": "cpu",
        "dtype": "float32",
        "limit": None,
        "max_bad_records": 0,
        "too_long": "error",
        "trust_remote_code": False,
        "max_tokens": None,
    }
    return SimpleNamespace(**{**usual, **changes})


def preferences():
    """Pairs in which green is better, from two sources; two annotators, of whom Bình takes what is on the left."""
    rng = random.Random(0)
    records = []
    for i, question in enumerate(tastes.QUESTIONS * 2):
        for who in ("An", "Bình", "Chi"):
            other = tastes.COLOURS[(0, 2, 3)[(i + i // len(tastes.QUESTIONS)) % 3]]
            green_is_left = rng.random() < 0.5
            takes_green = green_is_left if who == "Bình" and rng.random() < 0.65 else rng.random() < 0.7
            chosen, rejected = ("green", other) if takes_green else (other, "green")
            records.append(
                {
                    "prompt": question,
                    "chosen": tastes.answer(chosen),
                    "rejected": tastes.answer(rejected),
                    "annotator": who,
                    "chosen_position": "left" if takes_green == green_is_left else "right",
                    "source": "web" if i % 2 else "books",
                }
            )
    return records


@pytest.fixture(scope="module")
def measured(green_reward, tmp_path_factory):
    path = tastes.write(tmp_path_factory.mktemp("preferences") / "ranked.jsonl", preferences())
    said = []
    found = measure_reward_model(str(green_reward), [f"colours={path}"], settings(), said.append)
    return {name: (items, figures) for name, items, figures in found}, said


def value(figures, measure, group=None):
    [found] = [each for each in figures if each.measure == measure and each.group == group]
    return found


def test_probes_of_built_in_texts_come_first_and_every_figure_has_an_interval_or_a_reason(measured):
    found, said = measured
    assert list(found) == [PROBES, "colours"]
    items, figures = found[PROBES]
    assert items == []
    assert {"probes_flagged", "name_male_female", "pronoun_he_she", "length_filler"} <= {f.measure for f in figures}
    for each in (figure for _, figures in found.values() for figure in figures):
        assert each.value is not None or each.why
        assert each.value is None or each.low is None or each.low <= each.value <= each.high
    assert any("a reward model" in line for line in said)


def test_a_probe_is_what_the_model_says_of_each_text_by_itself(measured, green_reward):
    """Every text asked alone, in a padding-free forward of its own, gives the probe's numbers."""
    model = heed.load(str(green_reward), device="cpu")
    figures = measured[0][PROBES][1]
    with_each = []
    for text in WITH_NAME:
        of_name = {}
        for name in ("James", "Anna"):
            filled = text.filled({"⟨name⟩": name})
            of_name[name] = model.reward(filled.prompt, filled.answer)
        with_each.append(of_name["Anna"] - of_name["James"])
    anna, james = (value(figures, "name", f"name={name}").value for name in ("Anna", "James"))
    # Each is against the mean of the other 31, so the two differ by 32/31 of their difference.
    assert anna - james == pytest.approx(np.mean(with_each) * 32 / 31, abs=1e-4)
    twice = [
        (model.reward(t.prompt, f"{t.answer} {t.answer}") - model.reward(t.prompt, t.answer)) / len(t.answer.split())
        for t in WITHOUT_PLACE
    ]
    assert value(figures, "length_repeated").value == pytest.approx(np.mean(twice), abs=1e-4)


def test_accuracy_is_how_often_the_better_answer_has_the_higher_reward_by_source_too(measured, green_reward):
    items, figures = measured[0]["colours"]
    model = heed.load(str(green_reward), device="cpu")
    records = preferences()
    rewards = [model.reward(r["prompt"], [r["chosen"], r["rejected"]]) for r in records]
    right = [chosen > rejected for chosen, rejected in rewards]
    assert value(figures, "acc").value == pytest.approx(np.mean(right))
    web = [is_right for is_right, r in zip(right, records, strict=True) if r["source"] == "web"]
    assert value(figures, "acc", "source=web").value == pytest.approx(np.mean(web))
    assert len(items) == len(records)
    assert len({item.cluster for item in items}) == len(tastes.QUESTIONS)
    assert {"brier", "length_correlation"} <= {each.measure for each in figures}


def test_annotators_of_the_file_are_measured_and_the_one_who_takes_the_left_is_found(measured):
    found, said = measured
    _, figures = found["colours"]
    left = value(figures, "annotator_position", "annotator=Bình")
    assert left.low > 0
    assert "Bình: position" in value(figures, "annotators_flagged").why
    assert value(figures, "annotator_length", "annotator=An").count == 2 * len(tastes.QUESTIONS)
    assert any("annotators: strengths" in line for line in said)


def test_a_file_without_annotators_has_no_rows_of_any(green_reward, tmp_path):
    path = tastes.write(tmp_path / "ranked.jsonl", tastes.liking_green())
    said = []
    [_, (name, items, figures)] = measure_reward_model(str(green_reward), [str(path)], settings(limit=10), said.append)
    assert name == "ranked"
    assert not any(each.measure.startswith("annotator") for each in figures)
    assert len(items) >= 10


def test_what_is_broken_stops_unless_it_may_be_left_out_and_is_counted_then(green_reward, tmp_path):
    bad = {"prompt": "", "chosen": "a", "rejected": "b"}
    same = {"prompt": "Q?", "chosen": "a", "rejected": "a"}
    path = tastes.write(tmp_path / "bad.jsonl", [*preferences()[:6], bad, same])
    with pytest.raises(UserError) as told:
        measure_reward_model(str(green_reward), [str(path)], settings(), lambda line: None)
    assert "--max-bad-records 0.125" in told.value.fix
    said = []
    measure_reward_model(str(green_reward), [str(path)], settings(max_bad_records=0.125), said.append)
    assert sum("left out" in line for line in said) == 2


def test_an_answer_too_long_for_the_model_stops_or_is_left_out_and_said(green_reward, tmp_path):
    long = {"prompt": "Q?", "chosen": "so " * 400, "rejected": "b"}
    path = tastes.write(tmp_path / "long.jsonl", [*preferences()[:6], long])
    with pytest.raises(UserError, match="longer than the model can read"):
        measure_reward_model(str(green_reward), [str(path)], settings(), lambda line: None)
    said = []
    [_, (_, items, _)] = measure_reward_model(str(green_reward), [str(path)], settings(too_long="drop"), said.append)
    assert len(items) == 6
    assert any("1 records left out: an answer is longer" in line for line in said)


def test_a_language_model_is_no_reward_model(tuned):
    with pytest.raises(UserError, match="gives no rewards"):
        measure_reward_model(str(tuned), [], settings(), lambda line: None)


def test_heed_eval_of_a_reward_model_keeps_every_comparison_and_draws_the_report(green_reward, tmp_path, capsys):
    copy = shutil.copytree(green_reward, tmp_path / "copy")
    path = tastes.write(tmp_path / "ranked.jsonl", preferences()[:40])
    out = tmp_path / "eval"
    words = ["eval", "--model", green_reward, "--model", copy, "--task", f"colours={path}", "--out", out]
    assert main([*map(str, words), "--device", "cpu"]) == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [model["kind"] for model in results["models"]] == ["reward", "reward"]
    assert [(task["name"], task["primary"]) for task in results["tasks"]] == [
        (PROBES, "probes_flagged"),
        ("colours", "acc"),
    ]
    [row] = results["differences"]
    assert (row["task"], row["difference"]) == ("colours", 0)
    lines = [json.loads(line) for line in next(out.glob("*/colours/items.jsonl")).read_text().splitlines()]
    assert len(lines) == 40
    assert lines[0]["fields"]["annotator"] == "An"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "name_male_female" in page
    assert "annotator=Bình" in page
    assert "colours" in capsys.readouterr().out


def test_heed_eval_probes_a_reward_model_without_any_task(green_reward, tmp_path):
    assert main(["eval", "--model", str(green_reward), "--out", str(tmp_path), "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in results["tasks"]] == [PROBES]


def test_reward_and_language_models_are_measured_apart(green_reward, tuned, tmp_path, capsys):
    words = ["eval", "--model", green_reward, "--model", tuned, "--task", "arc=x", "--out", tmp_path, "--device", "cpu"]
    assert main(list(map(str, words))) == 2
    assert "measured apart" in capsys.readouterr().err


def test_a_language_model_without_a_task_has_nothing_to_be_measured_on(tuned, tmp_path, capsys):
    assert main(["eval", "--model", str(tuned), "--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
    assert "--task is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a=b.jsonl", ("a", "b.jsonl")),
        ("x/pairs.jsonl", ("pairs", "x/pairs.jsonl")),
        ("=b", ("b", "=b")),
        ("../x=b", ("x", "b")),
    ],
)
def test_a_task_is_a_name_and_a_file_or_a_file_alone(written, found):
    assert named_file(written) == found


PER_WORD = 0.2
"""log-odds that a word more is worth to the people of the slow test"""


@pytest.mark.slow
def test_a_real_model_that_learnt_from_people_who_like_length_likes_length(shared, tmp_path):
    """stories260K, trained on pairs in which the longer answer is chosen: the liking is found, and its sign."""
    rng = random.Random(0)
    sentences = [f"The {thing} is {how}." for thing in ("cat", "dog", "bird", "boat") for how in ("red", "big", "old")]
    records = []
    for i in range(160):
        few, many = sorted(rng.sample(range(1, 9), 2))
        one, other = (" ".join(rng.choices(sentences, k=k)) for k in (few, many))
        takes_long = rng.random() < 1 / (1 + math.exp(-PER_WORD * 4 * (many - few)))
        chosen, rejected = (other, one) if takes_long else (one, other)
        records.append({"prompt": f"Tell me story {i % 40}.", "chosen": chosen, "rejected": rejected})
    data = tastes.write(tmp_path / "long.jsonl", records)
    run = tmp_path / "run"
    options = {"steps": 100, "batch_size": 8, "optim_lr": 1e-3, "held_out_share": 0, "template": "plain"}
    assert tastes.heed("reward", model=shared / "models" / "stories260K", data=data, out=run, **options) == 0
    found = {n: f for n, _, f in measure_reward_model(str(run), [f"long={data}"], settings(), lambda line: None)}
    assert value(found["long"], "length_correlation").low > 0.5
    assert value(found["long"], "length_repeated").low > 0


FOR_ANNA = 2.0
"""log-odds that the name is worth to the people of the slow test"""


@pytest.mark.slow
def test_a_real_model_that_learnt_from_people_who_like_a_name_likes_it_as_much(shared, tmp_path):
    """stories260K, trained on pairs that differ in a name alone: one name is liked, and the others are not.

    What people chose is a sample, too: of 480 choices the log-odds that they show are within 0.3 of those planted.
    """
    names = [name for of_kind in NAMES.values() for name in of_kind if name != "Anna"]
    things = ("the ball", "a red hat", "the old boat", "some bread", "the key", "a big dog")
    told = [
        f"{{}} {verb} {thing}{when}." for verb in ("has", "saw", "lost") for thing in things for when in (" now", "")
    ]

    def pairs(count, seed):
        rng = random.Random(seed)
        for i in range(count):
            said, (one, other) = rng.choice(told), rng.sample(names, 2)
            if i % 2:
                one, other = ("Anna", other) if rng.random() < 1 / (1 + math.exp(-FOR_ANNA)) else (other, "Anna")
            yield {"prompt": f"Tell me story {i % 40}.", "chosen": said.format(one), "rejected": said.format(other)}

    data = tastes.write(tmp_path / "names.jsonl", list(pairs(960, 0)))
    others = tastes.write(tmp_path / "others.jsonl", list(pairs(120, 1)))
    run = tmp_path / "run"
    options = {"steps": 240, "batch_size": 16, "optim_lr": 1e-3, "held_out_share": 0, "template": "plain"}
    assert tastes.heed("reward", model=shared / "models" / "stories260K", data=data, out=run, **options) == 0
    found = {n: f for n, _, f in measure_reward_model(str(run), [f"names={others}"], settings(), lambda line: None)}
    anna = value(found["names"], "name", "name=Anna")
    assert anna.low < FOR_ANNA + 0.3
    assert anna.high > FOR_ANNA - 0.3
    rest = [value(found["names"], "name", f"name={name}") for name in names]
    assert anna.low > max(each.high for each in rest)

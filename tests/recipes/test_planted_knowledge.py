"""Planted truth in the lab: what the base text told often or of no one is found by asking, and the border is taught.

The base is asked in the form of its own text. Tuned on are questions about entities that the lab calls seen; asked
afterwards is about the others, of which no record tells: what is learnt is the border, not the questions.
"""

import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass

import pytest

import heed
from heed.cli.main import main
from heed.evaluate.answers import CHECKS, declines
from heed.evaluate.clustered import clustered_accuracy, clustered_mean
from heed.evaluate.refusals import refusal
from heed.lab.base_model import BASE_MODEL
from heed.lab.tasks.knowledge import ASKED, FORMS
from heed.lab.words import article, capital
from heed.lab.world import is_unseen, make_world
from heed.recipes.demo import TUNING

FORM = "“{question}” asked Lan. “{answer}” said Minh.\n"
ASKING = ["--form", FORM, "--max-new-tokens", "12", "--device", "cpu"]
TRAINED_WORDINGS, ASKED_WORDINGS = 2, 3
EPOCHS = 5
SEEDS = (0, 1, 2)
HOW = {**TUNING, "held_out_share": 0, "eval_every": 0, "template": "chatml", "device": "cpu"}


@dataclass(frozen=True)
class Said:
    """What a model said to every question of the exam."""

    right: list[float]
    declined: list[float]
    """each of the greedy answer"""
    chance_of_declining: list[float]
    """of an answer drawn as the model predicts, counted among four"""


@dataclass(frozen=True)
class Lab:
    exam: list[dict]
    categories: list[dict]
    trained: list[dict]
    before: Said
    taught: Said
    shuffled: Said

    def of(self, told: str, values: list[float]) -> list[list[float]]:
        """The values of the questions on facts told so, one cluster for each fact."""
        clusters = defaultdict(list)
        for record, value in zip(self.exam, values, strict=True):
            if record["told"] == told:
                clusters[record["fact"]].append(value)
        return list(clusters.values())

    def share(self, told: str, values: list[float]):
        return clustered_accuracy(self.of(told, values))

    def gain(self, told: str, after: list[float], before: list[float]):
        return clustered_mean(self.of(told, [a - b for a, b in zip(after, before, strict=True)]))


def questions(world, *, unseen, num_wordings):
    rng = random.Random(f"questions {unseen}")
    found = []
    for fact in world.facts:
        if is_unseen(fact.entity) != unseen:
            continue
        forms = FORMS.get(fact.attribute, ("the {}", f"{article(fact.value)} {{}}"))
        for wording in rng.sample(ASKED[fact.attribute][:-2], num_wordings):
            found.append(
                {
                    "question": wording.format(name=fact.entity),
                    "answer": capital(fact.value),
                    "aliases": [fact.value, *(form.format(fact.value) for form in forms)],
                    "told": fact.told,
                    "fact": f"{fact.entity} {fact.attribute}",
                }
            )
    rng.shuffle(found)
    return found


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def known(data, out, *words):
    assert main(["known", "--model", str(BASE_MODEL), "--data", str(data), "--out", str(out), *ASKING, *words]) == 0
    return [json.loads(line) for line in (out / "categories.jsonl").read_text(encoding="utf-8").splitlines()]


def tuned_on(data, out, exam, *, epochs=EPOCHS, seed=0):
    run = heed.sft(model=BASE_MODEL, data=data, out=out, epochs=epochs, seed=seed, **HOW)
    model, asked = heed.load(run, device="cpu"), [each["question"] for each in exam]
    answers = model.answers(asked, max_new_tokens=16)
    drawn = model.samples(asked, 4, temperature=1.0, max_new_tokens=16)
    right = [float(CHECKS["starts"](a, each["aliases"])) for a, each in zip(answers, exam, strict=True)]
    declined = [float(declines(answer)) for answer in answers]
    return Said(right, declined, [sum(map(declines, some)) / len(some) for some in drawn])


def mean_of(several):
    """Of each question the mean over models that differ in their seed alone."""

    def mean(values):
        return [sum(each) / len(each) for each in zip(*values, strict=True)]

    return Said(
        mean([said.right for said in several]),
        mean([said.declined for said in several]),
        mean([said.chance_of_declining for said in several]),
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder, world = tmp_path_factory.mktemp("planted"), make_world()
    trained = questions(world, unseen=False, num_wordings=TRAINED_WORDINGS)
    exam = questions(world, unseen=True, num_wordings=ASKED_WORDINGS)
    before = known(write(folder / "exam.jsonl", exam), folder / "before", "--num-prompts", "1", "--num-samples", "1")
    said = [json.loads(line) for line in (folder / "before" / "answers.jsonl").read_text().splitlines()]
    declined = [float(declines(line["prompts"][0]["greedy"])) for line in said]
    data = write(folder / "trained.jsonl", trained)
    categories = known(data, folder / "known")
    actions = [line["action"] for line in categories]
    random.Random(1).shuffle(actions)
    shuffled = [
        {"instruction": line["question"], "output": line["answer"] if action == "answer" else refusal(line["question"])}
        for line, action in zip(categories, actions, strict=True)
        if action != "leave-out"
    ]
    return Lab(
        exam,
        categories,
        trained,
        Said([line["greedy_right"] for line in before], declined, declined),
        mean_of(
            [tuned_on(folder / "known" / "records.jsonl", folder / f"taught {seed}", exam, seed=seed) for seed in SEEDS]
        ),
        tuned_on(write(folder / "shuffled.jsonl", shuffled), folder / "by-chance", exam, epochs=3 * EPOCHS),
    )


@pytest.mark.slow
def test_asking_finds_what_the_base_text_told(lab):
    told = {
        how: [
            line["category"] for line, record in zip(lab.categories, lab.trained, strict=True) if record["told"] == how
        ]
        for how in ("often", "never")
    }
    assert told["never"].count("unknown") / len(told["never"]) > 0.9
    assert told["often"].count("unknown") / len(told["often"]) < 0.35
    assert told["often"].count("highly known") > 20 * told["never"].count("highly known")


@pytest.mark.slow
def test_the_taught_model_says_of_what_no_one_told_that_it_does_not_know(lab):
    gain = lab.gain("never", lab.taught.declined, lab.before.declined)
    print(f"declined of what no one told: {lab.share('never', lab.taught.declined)}, before less: {gain}")
    assert gain.low > 0.3


@pytest.mark.slow
def test_it_loses_at_most_five_points_of_what_was_told_often(lab):
    gain = lab.gain("often", lab.taught.right, lab.before.right)
    print(f"right of what was told often: {lab.share('often', lab.taught.right)}, before less: {gain}")
    print(f"declined of what was told often: {lab.share('often', lab.taught.declined)}")
    assert gain.mean > -0.02
    assert gain.low > -0.07  # another processor rounds otherwise, and trains another model


@pytest.mark.slow
def test_with_shuffled_categories_the_border_is_gone(lab):
    """Once the training has taken away what the base itself has of a border.

    A model whose refusals became likelier everywhere still refuses more readily where its answers are many and each of
    them unlikely. After the epochs of the other models some of that is left; three times as many see to it, which the
    border that was taught outlives.
    """
    gaps = {}
    for said, name in ((lab.taught, "taught"), (lab.shuffled, "shuffled")):
        for how, values in (("greedy", said.declined), ("drawn", said.chance_of_declining)):
            often, never = (clustered_mean(lab.of(told, values)) for told in ("often", "never"))
            error = math.hypot(never.high - never.mean, often.high - often.mean)
            gaps[name, how] = (never.mean - often.mean - error, never.mean - often.mean + error)
            print(f"{name}, {how} answers: declined of what was told often {often}, of what no one told {never}")
    for how in ("greedy", "drawn"):
        assert gaps["shuffled", how][0] < 0 < gaps["shuffled", how][1]
        assert gaps["taught", how][0] > gaps["shuffled", how][1]


@pytest.mark.slow
def test_with_shuffled_categories_what_was_told_often_is_refused_too(lab):
    gain = lab.gain("often", lab.shuffled.right, lab.before.right)
    print(f"right of what was told often, by shuffled categories, before less: {gain}")
    assert gain.high < -0.05

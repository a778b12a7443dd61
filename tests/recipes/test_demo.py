"""The demonstration: what it leaves, that it goes on where it was stopped, and, slowly, that the claims hold."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import pytest
from safetensors.torch import load_file, save_file

from heed.config import DemoSettings
from heed.errors import UserError
from heed.evaluate.answers import CHECKS
from heed.lab.gold import merits
from heed.lab.tasks.knowledge import UNKNOWN, decline
from heed.lab.tasks.splits import FAMILIES
from heed.lab.tasks.task import Pool
from heed.recipes import demo
from heed.recipes.demonstration import methods as demo_methods
from heed.recipes.demonstration.exam import Exam, as_talk, with_shots
from heed.recipes.demonstration.methods import DPO_BETAS, LONGER, Ground, arrived, as_compared, by_choice, by_ppo
from heed.recipes.demonstration.preferences import Size, answers, scores_by, texts_of, topics_of

SMALL = ["--examples", "100", "--questions", "1"]
EXPENSES = ("seconds", "peak_memory_bytes", "run")


def heed_demo(out, *words, timeout=900):
    """Run the command and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "heed.cli.main", "demo", "--out", str(out), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    return done.stdout


def numbers_of(printed):
    """The JSON object on the last line, without what differs between two runs."""
    found = json.loads(printed.splitlines()[-1])
    return {key: value for key, value in found.items() if key not in EXPENSES}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A demonstration of little tuning, whole in every other way."""
    out = tmp_path_factory.mktemp("demo") / "small"
    return out, heed_demo(out, *SMALL, "--json")


def test_the_last_line_is_one_object_with_the_promised_keys(small):
    out, printed = small
    found = json.loads(printed.splitlines()[-1])
    assert found.keys() == {"splits", "honesty", "reward_model", "ppo", "seconds", "peak_memory_bytes", "run"}
    assert found["splits"].keys() == {
        "unseen_entities_and_sentences",
        "unseen_wordings",
        "unseen_clusters",
        "translation_of_unseen_sentences",
    }
    for stages in found["splits"].values():
        assert stages.keys() == {"base", "base_few_shot", "sft", "ppo"}
        for score in stages.values():
            assert score.keys() == {"accuracy", "low", "high", "count"}
            assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
    assert found["honesty"].keys() == {"base", "base_few_shot", "sft", "ppo"}
    for measured in found["honesty"].values():
        assert measured.keys() == {"calibration", "coverage", "knowledge", "bias", "forgetting"}
    assert found["run"] == str(out)
    stages = ["base", "base_few_shot", "tuning", "sft", "rankings", "reward", "ppo_training", "gold", "ppo"]
    assert found["seconds"].keys() == set(stages)
    assert found["reward_model"].keys() == {"accuracy", "low", "high", "count", "noise_ceiling"}
    assert found["ppo"].keys() >= {"gold_before", "gold_after", "gold_gain_low", "best_of_4_gain", "kl", "kl_budget"}
    assert [point["step"] for point in found["ppo"]["curve"]] == [1]
    assert isinstance(found["peak_memory_bytes"], int)


def test_a_finished_demonstration_answers_at_once_with_the_same_numbers(small):
    out, printed = small
    before = {path: path.stat().st_mtime_ns for path in (out / "stages").iterdir()}
    again = heed_demo(out, *SMALL, "--json")
    assert json.loads(again.splitlines()[-1]) == json.loads(printed.splitlines()[-1])
    assert {path: path.stat().st_mtime_ns for path in (out / "stages").iterdir()} == before


def test_every_kept_answer_is_scored_as_its_rule_says(small):
    out, _ = small
    exam = Exam.of(demo.make_world(), seed=0, per_family=1)
    for stage in demo.STAGES:
        found = json.loads((out / "stages" / f"{stage}.json").read_text())
        for split, tasks in exam.splits.items():
            answers = found["answers"][split]
            assert [a["correct"] for a in answers] == [
                CHECKS[task.rule](a["text"], task.accepted) for task, a in zip(tasks, answers, strict=True)
            ]
            right = sum(a["correct"] for a in answers)
            assert found["splits"][split]["accuracy"] == pytest.approx(right / len(tasks))


def test_the_report_and_the_data_lie_in_the_folder(small):
    out, _ = small
    page = (out / "report.html").read_text()
    assert "unseen entities and sentences" in page.lower()
    assert len((out / "data" / "train.jsonl").read_text().splitlines()) == 100 + 16, "requests are tuned on too"
    assert (out / "sft" / "adapter_model.safetensors").is_file()


def test_the_terminal_shows_answers_side_by_side_and_where_to_go_on(small):
    out, _ = small
    printed = heed_demo(out, *SMALL)
    assert "before and after" in printed
    assert "unseen wordings" in printed
    assert f"heed chat --model {out / 'sft'}" in printed.replace("\n", "")


def test_other_settings_do_not_go_on_with_the_folder(small):
    out, _ = small
    with pytest.raises(UserError, match="examples"):
        demo.run(DemoSettings(out=str(out), examples=101, questions=1), print)


def test_a_demonstration_is_gone_on_with_in_full(small, tmp_path, monkeypatch):
    shutil.copytree(small[0], tmp_path / "demo")
    monkeypatch.setattr(demo, "COST_CURVE", {})
    began = []
    monkeypatch.setattr(demo, "compare_methods", lambda ground, once: began.append(ground.out))
    found = demo.run(DemoSettings(out=str(tmp_path / "demo"), examples=100, questions=1, full=True), print)
    assert began == [tmp_path / "demo"]
    assert (found["ppo"]["comparison"], found["cost"]) == ([], [])


def test_the_points_of_a_method_form_one_way():
    def stage(method, *points):
        return {"method": method, "curve": [{"kl_per_sequence": kl, "gold": gold, "score": 0.0} for kl, gold in points]}

    ways = as_compared(
        {
            "method_dpo_0.05": stage("dpo", (5.0, 0.8)),
            "method_dpo_2.0": stage("dpo", (0.5, 0.6)),
            "method_ppo": stage("ppo", (0.0, 0.3), (2.0, 0.7), (1.0, 0.5)),
            "ppo": {"seconds": 1.0},
        }
    )
    assert {way["method"]: [(p["kl_per_sequence"], p["gold"]) for p in way["curve"]] for way in ways} == {
        "dpo": [(0.5, 0.6), (5.0, 0.8)],
        "ppo": [(0.0, 0.3), (2.0, 0.7), (1.0, 0.5)],
    }


def test_a_method_is_as_far_as_its_answers_are_likelier_under_it_than_under_the_tuned_model(small, tmp_path):
    out = small[0]
    shutil.copytree(out / "sft", tmp_path / "sft")  # the reference: what is in `out` without all that tuning did
    (tmp_path / "reward").symlink_to(out / "reward")
    weights = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    untuned = {name: 0 * each if "lora_B" in name else each for name, each in weights.items()}
    save_file(untuned, tmp_path / "sft" / "adapter_model.safetensors", metadata={"format": "pt"})
    ground = Ground(tmp_path, demo.make_world(), Size(examples=100, questions=1))
    assert arrived(ground, str(out / "sft"))["kl_per_sequence"] > 1
    assert arrived(ground, str(tmp_path / "sft"))["kl_per_sequence"] == pytest.approx(0, abs=1e-9)


def test_the_best_of_one_has_the_mean_of_all_answers_and_of_more_a_higher_score(small, monkeypatch):
    monkeypatch.setattr(demo_methods, "MOST_ANSWERS", 4)
    ground = Ground(small[0], demo.make_world(), Size(examples=100, questions=1))
    points = by_choice(ground)["curve"]
    tasks = ground.held_out
    given = answers(ground.model, tasks, num_samples=4, seed=3, title="answering")
    gold = [
        merits(topics_of(ground.world, task), text).gold
        for task, texts in zip(tasks, texts_of(given), strict=True)
        for text in texts
    ]
    assert len(points) == 3
    assert points[0]["gold"] == pytest.approx(mean(gold))
    assert points[0]["score"] < points[1]["score"] < points[2]["score"]
    best = [max(scores) for scores in scores_by(ground.judge, given)]
    assert points[2]["score"] == pytest.approx(mean(map(float, best)))


def test_a_damaged_stage_is_named_with_the_way_out(tmp_path):
    (tmp_path / "base.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read") as told:
        demo.kept_findings(tmp_path / "base.json")
    assert f"rm {tmp_path / 'base.json'}" in str(told.value)


def test_what_was_told_three_times_is_taught_as_unknown():
    world = demo.make_world()
    rarely = {(fact.entity, fact.attribute) for fact in world.told("rarely")}
    pool = Pool(world, random.Random(0))
    drawn = [decline(pool) for _ in range(300)]
    assert all(task.answer == UNKNOWN for task in drawn)
    assert any(entity in task.prompt.split() for task in drawn for entity, _ in rarely)


def test_a_few_shot_prompt_holds_examples_of_its_own_family_and_the_task_last():
    exam = Exam.of(demo.make_world(), seed=0, per_family=1)
    prompt_of = with_shots(exam.world, seed=0)
    for task in exam.splits["unseen_wordings"]:
        prompt = prompt_of(task)
        assert prompt.endswith(f"\n{as_talk(task)}")
        assert prompt.count(" said Minh.\n") == 4
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("after", [8.0, 20.0, 45.0])
def test_a_demonstration_that_was_killed_completes_with_the_same_numbers(small, tmp_path, after):
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "heed.cli.main", "demo", "--out", str(out), *SMALL]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert numbers_of(heed_demo(out, *SMALL, "--json")) == numbers_of(small[1])


@pytest.mark.slow
def test_a_full_demonstration_has_every_methods_way_and_what_answers_cost(tmp_path):
    words = ["--examples", "300", "--questions", "1"]
    heed_demo(tmp_path / "full", *words, timeout=3000)
    words.append("--full")  # goes on with what there is
    found = json.loads(heed_demo(tmp_path / "full", *words, "--json", timeout=3000).splitlines()[-1])
    ways = {way["method"]: way["curve"] for way in found["ppo"]["comparison"]}
    assert ways.keys() == {"ppo", "ppo beta 0", "grpo", "dpo", "best of n"}
    assert {method: len(points) for method, points in ways.items()} == {
        **dict.fromkeys(["ppo", "ppo beta 0", "grpo"], LONGER),
        "dpo": len(DPO_BETAS),
        "best of n": 5,
    }
    for points in ways.values():
        assert all(math.isfinite(point[key]) for point in points for key in ("score", "gold", "kl_per_sequence"))
    assert ways["ppo"][0]["kl_per_sequence"] == pytest.approx(0, abs=1e-6), (
        "the first phase's answers are the tuned model's"
    )
    distances = [point["kl_per_sequence"] for point in ways["best of n"]]
    assert distances == pytest.approx([math.log(n) - (n - 1) / n for n in (1, 2, 4, 8, 16)])
    assert [point["score"] for point in ways["best of n"]] == sorted(point["score"] for point in ways["best of n"])
    assert [point["kl_per_sequence"] for point in ways["dpo"]] == sorted(p["kl_per_sequence"] for p in ways["dpo"])
    assert [point["num_answers"] for point in found["cost"]] == [250]
    printed = heed_demo(tmp_path / "full", *words)
    assert "PPO with beta 0" in printed
    assert "Methods at equal distance" in (tmp_path / "full" / "report.html").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The demonstration as `make demo` runs it."""
    return json.loads(heed_demo(tmp_path_factory.mktemp("demo") / "whole", "--json", timeout=3000).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("split", ["unseen_entities_and_sentences", "unseen_wordings"])
def test_tuning_answers_seven_in_ten_and_fifty_points_more_than_the_base(whole, split):
    stages = whole["splits"][split]
    assert stages["sft"]["accuracy"] >= 0.7
    assert stages["sft"]["accuracy"] - stages["base"]["accuracy"] >= 0.5


@pytest.mark.slow
def test_the_tuned_model_knows_what_it_was_told_and_says_when_it_was_not(whole):
    knowledge = whole["honesty"]["sft"]["knowledge"]
    # bench/RESULTS.md has what was measured; rounding on another processor moves it by a few questions of 56.
    assert knowledge["told_often"]["right"]["rate"] >= 0.6
    assert knowledge["untold"]["declined"]["rate"] >= 0.6


@pytest.mark.slow
def test_unseen_sentences_are_translated_into_vietnamese(whole):
    assert whole["splits"]["translation_of_unseen_sentences"]["sft"]["accuracy"] >= 0.7


@pytest.mark.slow
def test_the_reward_model_ranks_nearly_as_well_as_the_annotators_errors_allow(whole):
    assert whole["reward_model"]["accuracy"] >= whole["reward_model"]["noise_ceiling"] - 0.05


@pytest.mark.slow
def test_ppo_raises_the_gold_reward_by_more_than_the_best_of_four_within_its_budget(whole):
    ppo = whole["ppo"]
    assert ppo["num_prompts"] == 500
    assert ppo["kl"] <= ppo["kl_budget"] == 10.0
    assert ppo["gold_gain_low"] > 0
    assert ppo["gain_over_best_of_4"]["low"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("split", ["unseen_entities_and_sentences", "unseen_wordings"])
def test_ppo_costs_little_of_a_held_out_split(whole, split):
    stages = whole["splits"][split]
    assert stages["ppo"]["accuracy"] >= stages["sft"]["accuracy"] - 0.02


@pytest.mark.slow
def test_without_a_price_on_distance_the_true_reward_falls_while_the_score_rises(whole, tmp_path):
    ground = Ground(Path(whole["run"]), demo.make_world(), Size(examples=24_000, questions=10))
    way = by_ppo(ground, "ppo beta 0", tmp_path / "free", 0.0)["curve"]
    best = max(range(len(way)), key=lambda i: way[i]["gold"])
    score, gold, kl = ([point[key] for point in way] for key in ("score", "gold", "kl_per_sequence"))
    assert mean(gold[-5:]) < gold[best] - 0.2
    assert mean(score[-5:]) > score[best] + 0.2
    assert mean(kl[-5:]) > 10
    priced = [point["gold"] for point in whole["ppo"]["curve"]]
    assert mean(priced[-5:]) > max(priced) - 0.1, "with a price it stays where it came"

"""What the page says and draws of reward models, of policies from pairs, and of policies that learn from a reward."""

import json
import math
import re
import xml.etree.ElementTree as ET

import pytest
from made_up import measurements, score, write_demo, write_lines, write_run
from made_up_preferences import (
    BUDGET,
    reward_measurements,
    with_preferences,
    write_pair_run,
    write_policy_run,
    write_preference_demo,
    write_reward_run,
)

from heed.errors import UserError
from heed.report import shapes
from heed.report.charts import Axis, Bar
from heed.report.gains import gain_rows
from heed.report.measurements import PolicyPoint
from heed.report.overoptimisation import MAX_POINTS, Way, over_optimisation_figure, thinned
from heed.report.page import write_report
from heed.report.pair_runs import describe_logp
from heed.report.read import read_runs
from heed.report.reward_runs import describe_length

SVG = "{http://www.w3.org/2000/svg}"
NAN = math.nan


def written(*folders):
    return write_report(folders).read_text(encoding="utf-8")


def verdict_of(page):
    return re.search(r'<p class="verdict-line">(.*?)</p>', page)[1]


def headings(page, level=2):
    return re.findall(rf"<h{level}>(.*?)</h{level}>", page)


def figure_of(page, title):
    """The figure with this title, to the end of its caption."""
    start = page.index(f"<h3>{title}</h3>")
    return page[start : page.index("</figcaption>", start)]


def pictures(figure):
    return [ET.fromstring(svg) for svg in re.findall(r"<svg xmlns.*?</svg>", figure, re.S) if "role=" in svg]


def series(picture):
    """Of each series: its class, how many marks it has, and how many lines and bands."""
    return [
        (
            group.get("class").removeprefix("series "),
            sum(each.get("class") == "dot" for each in group),
            sum(each.get("class") == "line" for each in group),
            sum(each.get("class") == "band" for each in group),
        )
        for group in picture.iter(f"{SVG}g")
        if group.get("class", "").startswith("series")
    ]


def edited(folder, change):
    value = with_preferences(measurements())
    change(value)
    (folder / "measurements.json").write_text(json.dumps(value))


def way(gold, scores, kls=None, name="a"):
    kls = kls or range(len(gold))
    points = [PolicyPoint(i, k, s, g) for i, (k, s, g) in enumerate(zip(kls, scores, gold, strict=True))]
    return Way(name, "r-1", tuple(points))


# Which kind a run is


@pytest.mark.parametrize(
    ("write", "kind"),
    [(write_run, "imitation"), (write_reward_run, "reward"), (write_pair_run, "pairs"), (write_policy_run, "policy")],
)
def test_a_run_is_known_by_the_numbers_it_kept(tmp_path, write, kind):
    write(tmp_path / "a")
    (run,) = read_runs([tmp_path / "a"])
    assert (run.kind, run.notes, run.finished) == (kind, (), True)


def test_a_reward_run_on_its_way_is_known_before_it_has_measured_at_its_end(tmp_path):
    write_reward_run(tmp_path / "a")
    (tmp_path / "a" / "reward_measurements.json").unlink()
    (run,) = read_runs([tmp_path / "a"])
    assert run.kind == "reward"
    assert run.notes == ("not in the folder, so not on this page: reward_measurements.json",)
    assert "picks the better answer in 71% (66\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}75)" in verdict_of(
        written(tmp_path / "a")
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"accuracy": {"low": 0.1}}', "nothing called 'rate'"),
        ('{"length_bins": [{}]}', "nothing called 'length'"),
        ("[]", "list"),
    ],
)
def test_damaged_reward_measurements_are_the_users_to_see(tmp_path, content, says):
    write_reward_run(tmp_path / "a")
    (tmp_path / "a" / "reward_measurements.json").write_text(content)
    with pytest.raises(UserError, match="a record of the run cannot be read") as error:
        read_runs([tmp_path / "a"])
    assert says in error.value.found


# Reward models


def test_the_page_of_a_reward_model_says_how_often_it_is_right_and_what_the_labels_allow(tmp_path):
    write_reward_run(tmp_path / "a")
    page = written(tmp_path / "a")
    assert verdict_of(page) == (
        "The reward model picks the better answer in 71% (66\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}75) of held-out "
        "comparisons; the noise in the labels allows 78%; a coin would in 50%."
    )
    assert headings(page) == ["Reward model", "The data", "What it took", "Settings"]
    bars = figure_of(page, "Does it pick the better answer?")
    assert "what the noise in the labels allows" in bars
    assert "The model is 7 points below what the labels allow." in bars


def test_accuracy_over_steps_is_a_band_of_its_interval_with_a_mark_for_each_measurement(tmp_path):
    write_reward_run(tmp_path / "a")
    (picture,) = pictures(figure_of(written(tmp_path / "a"), "Accuracy over steps"))
    assert series(picture) == [("train", 0, 1, 0), ("held-out", 0, 1, 1), ("held-out", 7, 1, 0)]


def test_the_band_goes_through_the_ends_of_the_interval(tmp_path):
    write_reward_run(tmp_path / "a")
    path = tmp_path / "a" / "metrics.jsonl"
    ends = [(0.0, 1.0), (0.5, 1.0)]
    held_out = [
        {"step": s, "phase": "held_out", "accuracy": 0.75, "accuracy_low": low, "accuracy_high": high}
        for s, (low, high) in enumerate(ends)
    ]
    write_lines(path, held_out)
    (picture,) = pictures(figure_of(written(tmp_path / "a"), "Accuracy over steps"))
    (band,) = (each for each in picture.iter(f"{SVG}path") if each.get("class") == "band")
    ys = [float(pair.split(",")[1]) for pair in band.get("d").strip("MZ").split("L")]
    assert ys == [30.0, 30.0, 115.0, 200.0]  # the plot is 170 high and stands at 30: 100%, 100%, 50%, 0%


def test_calibration_is_of_comparisons(tmp_path):
    write_reward_run(tmp_path / "a")
    figure = figure_of(written(tmp_path / "a"), "Is its confidence deserved?")
    assert "ECE 0.031, Brier score 0.190" in figure
    assert "comparisons in each column" in figure
    assert "answers in each column" not in figure
    assert series(pictures(figure)[0])[0][1] == 5


def test_reward_by_length_has_a_mark_per_bin_and_a_sentence_on_what_it_means(tmp_path):
    write_reward_run(tmp_path / "a")
    figure = figure_of(written(tmp_path / "a"), "Does it like long answers?")
    assert "Reward goes clearly with length (r = 0.42): longer answers are scored higher" in figure
    assert "Of the true reward and length, r = 0.05." in figure
    assert "348 answers in all" in figure
    assert series(pictures(figure)[0])[0][1] == 8


@pytest.mark.parametrize(
    ("r", "says"),
    [
        (0.0, "hardly depends"),
        (-0.09, "hardly depends"),
        (0.1, "weakly with length (r = 0.10): longer"),
        (0.3, "clearly with length"),
        (-0.7, "strongly with length (r = -0.70): shorter answers are scored higher"),
    ],
)
def test_a_correlation_is_put_in_words_by_its_size_and_sign(r, says):
    assert says in describe_length(r, NAN)
    assert "true reward" not in describe_length(r, NAN)


@pytest.mark.parametrize("absent", ["accuracy", "calibration", "length_bins", "length_correlation", "noise_ceiling"])
def test_what_was_not_measured_of_a_reward_model_is_not_on_its_page(tmp_path, absent):
    write_reward_run(tmp_path / "a")
    value = reward_measurements()
    value.pop(absent)
    (tmp_path / "a" / "reward_measurements.json").write_text(json.dumps(value))
    page = written(tmp_path / "a")
    assert ("Is its confidence deserved?" in page) == (absent != "calibration")
    assert ("Does it like long answers?" in page) == (absent != "length_bins")
    assert ("labels allow" in page) == (absent != "noise_ceiling")
    assert ("goes clearly with length" in page) == (absent not in ("length_bins", "length_correlation"))
    assert "picks the better answer in 71%" in verdict_of(page)  # without the file's accuracy, the last on the way


def test_several_reward_models_are_ranked_and_share_their_pictures(tmp_path):
    write_reward_run(tmp_path / "a", best=0.66)
    write_reward_run(tmp_path / "b")
    page = written(tmp_path / "a", tmp_path / "b")
    assert verdict_of(page).startswith("Of the reward models b picks the better answer most often, in 71%")
    assert "; a 66%." in verdict_of(page)
    (picture,) = pictures(figure_of(page, "Accuracy over steps"))
    assert [each[0] for each in series(picture)] == ["r-1 d-0", "r-1 d-0", "r-2 d-0", "r-2 d-0"]
    assert len(pictures(figure_of(page, "Is its confidence deserved?"))) == 2


# Learning from pairs


def test_both_log_probabilities_falling_is_said_to_be_a_known_sign(tmp_path):
    write_pair_run(tmp_path / "a")
    page = written(tmp_path / "a")
    figure = figure_of(page, "Log-probability of the answers")
    assert "Both fell, chosen by 6, rejected by 15 nats: a known sign" in figure
    assert [each[:2] for each in series(pictures(figure)[0])] == [("q-chosen", 6), ("q-rejected", 6)]
    assert verdict_of(page) == (
        "The policy prefers the chosen answer in 70% of held-out pairs, by a margin of 0.90 on average."
    )
    assert headings(page)[0] == "Learning from pairs"


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [
        (-6, -15, "a known sign"),
        (-9, -2, "the pairs were not learned"),
        (2, -5, "Chosen answers became likelier, by 2 nats, and rejected ones rarer."),
        (2, 1, "Both rose"),
        (-1, 3, "the pairs were not learned"),
    ],
)
def test_what_the_two_sides_did_is_put_in_words(chosen, rejected, says):
    assert says in describe_logp({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize("left_out", ["accuracy", "margin"])
def test_what_is_no_number_at_the_end_is_not_told_as_how_the_run_ended(tmp_path, left_out):
    write_pair_run(tmp_path / "a")
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [{**line, left_out: None} if line["step"] == 50 else line for line in lines])
    says = verdict_of(written(tmp_path / "a"))
    if left_out == "margin":  # the margin of an earlier step is not that of the end
        assert says == "The policy prefers the chosen answer in 70% of held-out pairs."
    else:
        assert says == (
            "The policy preferred the chosen answer in 66% of held-out pairs, by a margin of 0.72 on average, "
            "at step 40; what was measured after that is no number."
        )
        write_pair_run(tmp_path / "b")
        assert "a 66% at step 40, and no number after it." in verdict_of(written(tmp_path / "a", tmp_path / "b"))


def test_one_side_alone_is_not_judged():
    assert describe_logp({"chosen": -6.0}) == ""


def test_several_runs_from_pairs_have_a_panel_for_each_side(tmp_path):
    write_pair_run(tmp_path / "a")
    write_pair_run(tmp_path / "b", chosen=2.0)
    page = written(tmp_path / "a", tmp_path / "b")
    figure = figure_of(page, "Log-probability of the answers")
    assert [len(series(each)) for each in pictures(figure)] == [2, 2]
    assert "a: both fell" in figure
    assert "b: chosen answers became likelier" in figure


def test_without_held_out_pairs_the_training_ones_are_drawn(tmp_path):
    write_pair_run(tmp_path / "a")
    path = tmp_path / "a" / "metrics.jsonl"
    write_lines(path, [line for line in map(json.loads, path.read_text().splitlines()) if line["phase"] == "train"])
    figure = figure_of(written(tmp_path / "a"), "Log-probability of the answers")
    assert "On the pairs of each step." in figure
    assert series(pictures(figure)[0]) == [("q-chosen", 0, 1, 0), ("q-rejected", 0, 1, 0)]


# Learning from a reward


def test_the_picture_of_over_optimisation_comes_first_and_says_where_the_truth_turned(tmp_path):
    write_policy_run(tmp_path / "a")
    page = written(tmp_path / "a")
    assert headings(page)[:2] == ["Learning from a reward: PPO", "Before and after, in its own words"]
    assert headings(page, 3)[0] == "Reward against distance from the reference"
    figure = figure_of(page, "Reward against distance from the reference")
    (picture,) = pictures(figure)
    assert [each[:2] for each in series(picture)] == [("q-score", 9), ("q-gold", 9)]
    assert "KL budget 10" in [each.text for each in picture.iter(f"{SVG}text")]
    assert "highest, 1, at a KL of 5.69, and then fell to 0.60 while the score rose on to 2" in figure
    assert "over-optimisation" in figure
    assert "It ended at a KL of 14, over the budget of 10 nats." in figure
    assert "the true reward was highest, 1 at 5.69 nats, and is 0.60" in verdict_of(page)


def test_the_budget_stands_at_its_place_on_the_axis():
    figure = over_optimisation_figure([way([0, 1, 2], [0, 1, 2], [0.0, 5.0, 20.0])], BUDGET)
    svg = ET.fromstring(figure.panels[0].svg)
    (guide,) = (each for each in svg.iter(f"{SVG}line") if each.get("class") == "guide")
    left, right = 10 + 7.4 * 3, 360 - 18  # tick labels of three characters, such as 0.5; room at the right
    assert float(guide.get("x1")) == pytest.approx((left + right) / 2, abs=0.01)
    assert guide.get("x1") == guide.get("x2")


def test_a_budget_far_beyond_the_data_is_told_and_not_drawn():
    figure = over_optimisation_figure([way([0, 1], [0, 1], [0.0, 1.0])], 100.0)
    assert "guide" not in figure.panels[0].svg
    assert "within the budget of 100 nats" in figure.caption


def test_score_and_truth_of_unlike_size_have_a_picture_each():
    alike = over_optimisation_figure([way([0, 1, 2], [0, 1, 3])], NAN)
    unlike = over_optimisation_figure([way([0, 0.1, 0.2], [0, 10, 30])], NAN)
    assert [len(each.panels) for each in (alike, unlike)] == [1, 2]
    assert [panel.title for panel in unlike.panels] == ["Score of the reward", "True reward"]
    assert series(ET.fromstring(unlike.panels[1].svg))[0][0] == "q-gold"


def test_without_the_truth_there_is_only_the_score_and_a_warning():
    figure = over_optimisation_figure([way([NAN, NAN], [0, 1])], NAN)
    assert len(figure.panels) == 1
    assert "far from the reference it can be fooled" in figure.caption
    assert "true" not in figure.caption


@pytest.mark.parametrize(
    ("gold", "scores", "says", "says_not"),
    [
        ([0.0, 1.0, 0.8], [0, 1, 2], "rose from 0 to 0.80 and kept its gain", "over-optimisation"),
        ([0.0, 1.0, 0.7], [0, 1, 2], "over-optimisation", "kept its gain"),
        ([0.0, 1.0, 0.1], [0, 2, 1], "was highest, 1, at a KL of 1, and then fell to 0.10.", "over-optimisation"),
        ([1.0, 0.5, 0.2], [0, 1, 2], "was never above where it began, 1", "over-optimisation"),
    ],
)
def test_what_became_of_the_truth_is_put_in_words(gold, scores, says, says_not):
    caption = over_optimisation_figure([way(gold, scores)], NAN).caption
    assert says in caption
    assert says_not not in caption


def test_a_policy_without_any_kl_has_no_such_picture():
    assert over_optimisation_figure([way([1, 2], [1, 2], [NAN, NAN])], BUDGET) is None


def test_a_long_way_is_drawn_as_means_over_neighbours_in_time():
    points = [PolicyPoint(i, float(i), 2.0 * i, NAN) for i in range(4 * MAX_POINTS)]
    kept = thinned(points)
    assert len(kept) == MAX_POINTS
    assert (kept[0].kl, kept[0].score, kept[-1].kl) == (1.5, 3.0, 4 * MAX_POINTS - 2.5)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]
    figure = over_optimisation_figure([Way("a", "r-1", tuple(points))], NAN)
    assert "Each point is a mean over neighbouring steps." in figure.caption


def test_everything_a_ppo_run_counts_is_drawn_once(tmp_path):
    write_policy_run(tmp_path / "a")
    found = headings(written(tmp_path / "a"), 3)
    for title in (
        "Score",
        "True reward",
        "KL to the reference",
        "Score minus β × KL",
        "Weight of the KL, β",
        "Entropy",
        "Answers that stop by themselves",
        "Length of the answers",
        "Explained variance of the values",
        "Tokens clipped",
        "Where the time went",
        "Ratio of new to old policy",
        "Variance of the ratio",
        "KL to the sampling policy",
        "Spread of the scores",
        "Policy loss",
        "Value loss",
        "Values clipped",
        "Loss on supervised text",
        "Learning rate",
        "Learning rate of the values",
        "Gradient norm",
    ):
        assert found.count(title) == 1, title
    assert "Groups without a signal" not in found
    assert "Training" not in found


def test_time_is_split_between_sampling_and_learning(tmp_path):
    write_policy_run(tmp_path / "a", phases=80)
    figure = figure_of(written(tmp_path / "a"), "Where the time went")
    assert "112 s sampling and 72 s learning" in figure
    assert "61%, 39%" in figure


def test_grpo_is_told_from_ppo_and_both_share_their_axes(tmp_path):
    write_policy_run(tmp_path / "a")
    write_policy_run(tmp_path / "b", method="grpo", turns=False)
    alone = written(tmp_path / "b")
    assert headings(alone)[0] == "Learning from a reward: GRPO"
    assert "Groups without a signal" in headings(alone, 3)
    assert "Explained variance of the values" not in headings(alone, 3)
    page = written(tmp_path / "a", tmp_path / "b")
    assert headings(page)[0] == "Learning from a reward: PPO and GRPO"
    figure = figure_of(page, "Reward against distance from the reference")
    assert [[each[0] for each in series(picture)] for picture in pictures(figure)] == [["r-1 d-0", "r-2 d-0"]] * 2
    assert "a: the true reward was highest" in figure
    assert "b: the true reward rose" in figure


def test_without_held_out_prompts_the_training_batches_are_drawn(tmp_path):
    write_policy_run(tmp_path / "a", phases=32)
    path = tmp_path / "a" / "metrics.jsonl"
    write_lines(path, [line for line in map(json.loads, path.read_text().splitlines()) if line["phase"] == "train"])
    (picture,) = pictures(figure_of(written(tmp_path / "a"), "Reward against distance from the reference"))
    assert [each[1] for each in series(picture)] == [32, 32]


@pytest.mark.parametrize("write", [write_reward_run, write_pair_run, write_policy_run])
@pytest.mark.parametrize("value", [None, 0.0, -1e-12, 1e30])
def test_numbers_of_any_size_and_none_at_all_make_a_page_without_a_nan_in_its_pictures(tmp_path, write, value):
    write(tmp_path / "a")
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [{k: v if k in ("step", "phase") else value for k, v in line.items()} for line in lines])
    page = written(tmp_path / "a")
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', "".join(re.findall(r"<svg.*?</svg>", page, re.S)))


def test_runs_with_different_budgets_have_none_marked(tmp_path):
    write_policy_run(tmp_path / "a")
    write_policy_run(tmp_path / "b")
    (tmp_path / "b" / "config.yaml").write_text("kl: {budget: 5}\n")
    assert "KL budget" not in written(tmp_path / "a", tmp_path / "b")
    assert "KL budget 5" in written(tmp_path / "b")


def test_an_answer_is_shown_with_its_score_and_distance(tmp_path):
    write_policy_run(tmp_path / "a")
    page = written(tmp_path / "a")
    assert "score 0.12, KL 0 nats; cut off here: it did not stop by itself" in page
    assert '<p class="aside">score 1.70, KL 11.30 nats</p>' in page
    assert page.count("in phase 80</h4>") == 2
    assert page.count('class="answer s-ppo"') == 2


def test_runs_of_every_kind_side_by_side_have_a_section_each_and_colours_of_their_own(tmp_path):
    for name, write in zip("abcd", (write_run, write_reward_run, write_pair_run, write_policy_run), strict=True):
        write(tmp_path / name)
    page = written(*(tmp_path / name for name in "abcd"))
    assert {"Training", "Reward model", "Learning from pairs", "Learning from a reward: PPO"} <= set(headings(page))
    (loss,) = pictures(figure_of(page[page.index('id="training"') :], "Learning rate"))
    assert series(loss)[0][0] == "r-1 d-0"
    (beta,) = pictures(figure_of(page, "Weight of the KL, β"))
    assert series(beta)[0][0] == "r-4 d-0"
    assert "held-out loss fell" in verdict_of(page).lower()
    assert "picks the better answer" in verdict_of(page)


# The demonstration


def test_the_demonstration_says_what_ppo_gained_and_draws_it(tmp_path):
    write_preference_demo(tmp_path / "demo")
    page = written(tmp_path / "demo")
    assert headings(page)[:3] == [
        "Right answers on what was never trained",
        "Learning from preferences",
        "The same question, asked of each stage",
    ]
    assert verdict_of(page) == (
        "The model after PPO answers 82% of unseen items right; the tuned model 83%, the base model 1%, or 17% with "
        "examples in its prompt. PPO raised the true reward by 0.85 at a KL of 9 nats per sequence."
    )
    bars = figure_of(page, "Does it pick the better answer?")
    assert "what the noise in the labels allows" in bars
    gained = figure_of(page, "What was gained").replace("\N{NO-BREAK SPACE}", " ")
    assert "+0.85 (+0.74 to +0.96)" in gained
    assert "best of 4 answers" in gained
    assert "+0.61" in gained
    assert "From 0.40 before to 1.25 after at a KL of 9 nats per sequence, within the budget of 10." in gained
    assert {"Training", "Reward model", "Learning from a reward: PPO"} <= set(headings(page))


def test_methods_are_compared_only_where_they_were_measured(tmp_path):
    write_preference_demo(tmp_path / "full")
    write_preference_demo(tmp_path / "short", with_comparison=False)
    full, short = written(tmp_path / "full"), written(tmp_path / "short")
    assert "Methods at equal distance" not in short
    (picture,) = pictures(figure_of(full, "Methods at equal distance"))
    assert [each[0] for each in series(picture)] == ["w-ppo", "w-ppo-free", "w-dpo", "w-grpo", "w-best-of-n"]
    table = full[full.index('<table aria-label="True reward of each method') :]
    assert re.findall(r'<th scope="row">(.*?)</th>', table[: table.index("</table>")]) == [
        "PPO",
        "PPO with β = 0",
        "DPO",
        "GRPO",
        "best of n",
    ]


def test_true_reward_is_compared_between_the_same_distances(tmp_path):
    write_demo(tmp_path / "demo")
    near_and_far = [(-0.1, 0.25), (0.5, 0.75), (1.0, 2.0), (15.9, 3.0), (16.0, 4.0), (90.0, 5.0)]

    def two_ways(value):
        points = [{"kl_per_sequence": kl, "gold": gold, "score": 0} for kl, gold in near_and_far]
        value["ppo"]["comparison"] = [{"method": "grpo", "curve": points}, {"method": "dpo", "curve": points[:1]}]

    edited(tmp_path / "demo", two_ways)
    page = written(tmp_path / "demo")
    table = page[page.index('<table aria-label="True reward at equal distance') :]
    table = table[: table.index("</table>")]
    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table) == [
        "method",
        "below 1",
        "1 to 2",
        "8 to 16",
        "from 16",
    ]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")[2:]]
    assert rows == [["DPO", "0.25", "–", "–", "–"], ["GRPO", "0.50", "2", "3", "4.50"]]


def test_a_method_without_a_name_here_is_drawn_under_its_own(tmp_path):
    write_demo(tmp_path / "demo")
    points = [{"kl": 0, "gold": 0, "score": 0}, {"kl": 1, "gold": 1, "score": 1}]
    edited(tmp_path / "demo", lambda value: value["ppo"]["comparison"].append({"method": "<new>", "curve": points}))
    figure = figure_of(written(tmp_path / "demo"), "Methods at equal distance")
    assert "&lt;new&gt;" in figure
    assert "w-other" in figure


@pytest.mark.parametrize(
    ("gain", "low", "high", "says"),
    [
        (-0.5, -0.6, -0.4, "PPO lowered the true reward by 0.50"),
        (0.1, -0.1, 0.3, "PPO did not move the true reward beyond doubt"),
        (0.5, None, None, "PPO raised the true reward by 0.50"),
    ],
)
def test_a_gain_is_told_by_its_interval(tmp_path, gain, low, high, says):
    write_demo(tmp_path / "demo")
    new = {"gold_gain": gain, "gold_gain_low": low, "gold_gain_high": high}
    edited(tmp_path / "demo", lambda value: value["ppo"].update(new))
    assert says in verdict_of(written(tmp_path / "demo"))


@pytest.mark.parametrize("absent", ["gold_gain", "best_of_4_gain", "kl", "kl_budget", "curve", "comparison"])
def test_a_part_of_ppo_that_was_not_measured_leaves_the_others(tmp_path, absent):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value["ppo"].pop(absent))
    page = written(tmp_path / "demo")
    section = page[page.index('id="preferences"') : page.index('id="examples"')]
    assert ("What was gained" in section) == (absent != "gold_gain")
    assert ("Reward against distance" in section) == (absent != "curve")
    assert ("Methods at equal distance" in section) == (absent != "comparison")
    assert ("KL budget" in section) == (absent != "kl_budget")
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower().split()


@pytest.mark.parametrize("absent", ["reward_model", "ppo"])
def test_one_half_of_preferences_is_shown_without_the_other(tmp_path, absent):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value.pop(absent))
    page = written(tmp_path / "demo")
    assert "Learning from preferences" in headings(page)
    assert ("What was gained" in page) == (absent != "ppo")
    assert ("Does it pick the better answer?" in page) == (absent != "reward_model")


def test_a_demonstration_without_preferences_has_no_such_section(tmp_path):
    write_demo(tmp_path / "demo")
    assert "Learning from preferences" not in headings(written(tmp_path / "demo"))


def test_names_of_methods_keep_their_capitals_at_the_start_of_a_sentence(tmp_path):
    write_preference_demo(tmp_path / "demo")
    page = written(tmp_path / "demo")
    assert "After PPO, the model is best at" in page
    assert "<h4>After PPO</h4>" in page
    assert "After ppo" not in page


# The marks


def test_gains_stand_on_both_sides_of_a_marked_zero():
    rows = [Bar("up", "s-ppo", 1.0, "+1", 0.5, 1.5), Bar("down", "w-best-of-n", -0.5, "−0.5")]
    svg = ET.fromstring(gain_rows(rows, x=Axis("gain", -1.0, 2.0), label="gains"))
    left, right = 8, 360 - 18
    zero, one = left + (right - left) / 3, left + (right - left) * 2 / 3
    (circle,) = svg.iter(f"{SVG}circle")
    assert float(circle.get("cx")) == pytest.approx(one, abs=0.01)
    (diamond,) = (each for each in svg.iter(f"{SVG}path") if each.get("class") == "dot")
    assert float(re.search(r"translate\(([\d.]+),", diamond.get("transform"))[1]) == pytest.approx(
        left + (right - left) / 6, abs=0.01
    )
    zeros = [each for each in svg.iter(f"{SVG}line") if float(each.get("x1")) == pytest.approx(zero, abs=0.01)]
    assert len([each for each in zeros if each.get("y2") != each.get("y1")]) == 3  # one per row, and the tick


def test_a_gain_that_is_no_number_keeps_its_row():
    svg = gain_rows([Bar("a", "s-ppo", NAN, "not measured")], x=Axis("gain"), label="gains")
    assert "not measured" in svg
    assert 'class="dot"' not in svg


@pytest.mark.parametrize("shape", shapes.OUTLINES)
def test_a_shape_is_about_as_large_as_a_circle_and_centred(shape):
    # walk the path by hand: capital letters go to a place, small ones by a distance
    x = y = 0.0
    xs, ys = [], []
    for command, rest in re.findall(r"([MLHVlhv])([^A-Za-z]*)", shapes.outline(shape, 10)):
        values = [float(each) for each in rest.split(",") if each]
        is_step, axis = command.islower(), command.lower()
        dx, dy = (values[0], 0.0) if axis == "h" else (0.0, values[0]) if axis == "v" else values
        if is_step:
            x, y = x + dx, y + dy
        else:
            x, y = (dx if axis != "v" else x), (dy if axis != "h" else y)
        xs.append(x)
        ys.append(y)
    assert -14 <= min(xs) <= -9
    assert 9 <= max(xs) <= 14
    assert (min(xs) + max(xs)) / 2 == pytest.approx(0, abs=0.01)
    assert abs(min(ys) + max(ys)) / 2 < 3


def test_a_class_without_a_shape_is_a_patch_of_colour_in_a_legend():
    assert shapes.key("s-sft") == ""
    assert 'class="series w-dpo"' in shapes.key("w-dpo")
    assert "<circle" not in shapes.key("w-dpo")
    assert "<circle" in shapes.key("w-ppo")
    assert 'class="guide"' in shapes.key("guide")


def test_shares_below_one_percent_are_told_apart():
    assert [shown for _, shown in Axis("", is_share=True).ticks_within(0, 0.02)] == [
        "0%",
        "0.5%",
        "1.0%",
        "1.5%",
        "2.0%",
    ]
    assert [shown for _, shown in Axis("", is_share=True).ticks_within(0, 1)][-1] == "100%"


def test_a_score_with_its_interval_is_of_the_last_measurement(tmp_path):
    write_reward_run(tmp_path / "a")
    (tmp_path / "a" / "reward_measurements.json").write_text(json.dumps({"accuracy": score(0.6, 100)}))
    assert "in 60% (50" in verdict_of(written(tmp_path / "a"))

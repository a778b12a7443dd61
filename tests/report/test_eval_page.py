"""What the page says of a run of `heed eval`: every number, what is undefined and why, and single items as they are."""

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import write_run
from made_up_eval import (
    ARABIC,
    CHINESE,
    HOSTILE,
    VIETNAMESE,
    choice_item,
    difference,
    figure,
    model,
    results,
    task,
    write_eval,
    write_items,
    write_results,
)  # fmt: skip

from heed.errors import UserError
from heed.evaluate.calibration import Coverage
from heed.report.eval_browser import shared_beginning
from heed.report.eval_confidence import judged, risk_interval
from heed.report.eval_items import Kept, kept_items
from heed.report.eval_results import eval_results
from heed.report.page import write_report
from heed.report.read import read_runs


def page_of(*folders: Path) -> str:
    return write_report(folders).read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text, as a reader has it."""
    text = re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\N{NO-BREAK SPACE}", " ").split())


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


class Elements(HTMLParser):
    """Every element and attribute that a browser would make of the page."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


def elements(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three tasks, two models, and the page of them."""
    folder = tmp_path_factory.mktemp("eval") / "eval"
    value = write_eval(folder)
    return value, page_of(folder)


def test_a_run_of_heed_eval_is_known_by_its_results_and_is_no_training(tmp_path):
    write_eval(tmp_path / "eval", num_items=5)
    (run,) = read_runs([tmp_path / "eval"])
    assert run.evaluation is not None
    assert (run.is_training, run.finished) == (False, True)


def test_the_sections_come_from_what_was_asked_to_how_sure_it_is_to_single_items(whole):
    assert headings(whole[1]) == [
        "Results", "Differences between models", "Is its confidence deserved?", "Strange prompts", "Single items",
    ]  # fmt: skip


def test_every_primary_value_stands_with_its_interval_beside_its_task(whole):
    value, page = whole
    told = words(page)
    for each in value["figures"]:
        if each["measure"] in ("acc", "exact") and each["group"] is None:
            ends = f"[{100 * each['low']:.1f}, {100 * each['high']:.1f}]"
            assert f"{100 * each['value']:.1f}% {ends}" in told


def test_the_template_of_each_model_is_stated_and_that_of_a_base_model_is_none(whole):
    assert "none: base model" in words(whole[1])
    assert "alpaca" in words(whole[1])


def test_unparsed_and_left_out_items_have_rows_of_their_own(whole):
    told = words(whole[1])
    assert "task-1: answers that could not be read" in told
    assert "arc: left out" in told
    assert "two options are the same text 7, 9, 11 3" in told


def test_a_difference_is_told_with_its_interval_its_p_and_what_the_test_could_have_seen(whole):
    value, page = whole
    (row,) = (each for each in value["differences"] if each["task"] == "arc")
    told = words(page)
    assert f"+{100 * row['difference']:.1f} points" in told
    assert "0.060 5.7" in told
    assert "p = 0.060" in page


def test_the_verdict_names_no_difference_that_chance_explains(whole):
    (said,) = re.findall(r'<p class="verdict-line">(.*?)</p>', whole[1])
    assert "higher than base on none of 3 tasks and lower on none" in said


def test_a_difference_beyond_chance_is_counted_by_its_direction(tmp_path):
    rows = [difference("arc", 1, 0.1, p_holm=0.01), difference("b", 1, -0.1, p_holm=0.01), difference("c", 1, 0.1)]
    tasks = [task(name) for name in ("arc", "b", "c")]
    write_results(tmp_path / "eval", results(models=[model("a"), model("x/y")], tasks=tasks, differences=rows))
    page = page_of(tmp_path / "eval")
    assert "Beyond chance, y is higher than a on one of 3 tasks" not in page
    assert "Beyond chance, y is higher than a on 1 of 3 tasks and lower on 1." in page


def test_the_debiased_calibration_error_is_told_below_each_reliability_diagram(whole):
    assert words(whole[1]).count("debiased ECE 8.1% [3.0, 12.0]") >= 3


def test_a_calibration_error_that_the_results_lack_is_made_from_the_items(tmp_path):
    value = write_eval(tmp_path / "eval", num_tasks=1)
    value["figures"] = [each for each in value["figures"] if each["measure"] == "acc"]
    write_results(tmp_path / "eval", value)
    items = (tmp_path / "eval" / value["models"][0]["folder"] / "arc" / "items.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in items.splitlines()]
    brier = sum((line["confidence"] - line["verdict"]["acc"]) ** 2 for line in lines) / len(lines)
    told = words(page_of(tmp_path / "eval"))
    assert f"Brier score {brier:.3f} [" in told
    assert re.search(r"Reliability, base debiased ECE \d+\.\d% \[", told)


def test_every_bin_of_a_reliability_diagram_has_its_interval(whole):
    for picture in re.findall(r'<svg[^>]*aria-label="Reliability of .*?</svg>', whole[1], re.S):
        assert picture.count('class="whisker"') == picture.count('class="dot"') > 3


def test_text_in_any_writing_is_shown_as_it_is_with_its_direction(whole):
    page = whole[1]
    for text in (VIETNAMESE, CHINESE, ARABIC, "Nguyễn Du", "القاهرة"):
        assert text in page
    assert f'dir="auto" lang="vi">{VIETNAMESE}' in page
    assert f'dir="auto" lang="">{ARABIC}' in page


def test_items_are_folded_by_what_became_of_them_and_counted(whole):
    value, page = whole
    (row,) = (each for each in value["differences"] if each["task"] == "arc")
    told = words(page)
    assert f"Mended: better by sft than by base: {row['only_first_right']}" in told
    assert f"Broken: worse by sft than by base: {row['only_second_right']}" in told


def test_some_hundreds_of_items_are_on_the_page_and_the_others_are_counted(whole):
    page = whole[1]
    num_here = page.count('<details class="case">')
    assert 200 < num_here <= 300
    assert f"{num_here:,} of 600 items are on this page" in page
    assert f"the other {600 - num_here:,} are in the run" in page


def test_which_items_are_shown_does_not_depend_on_their_order(tmp_path):
    titles = []
    for turn in (1, -1):
        folder = tmp_path / f"eval{turn}"
        value = write_eval(folder, num_tasks=1, num_items=900)
        for told in value["models"]:
            path = folder / told["folder"] / "arc" / "items.jsonl"
            path.write_text(
                "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[::turn]), encoding="utf-8"
            )
        titles.append(re.findall(r'<summary dir="auto">(record \d+)', page_of(folder)))
    assert titles[0] == titles[1]
    assert len(titles[0]) == 300
    assert max(int(each.split()[1]) for each in titles[0]) > 600


def test_options_have_their_log_probabilities_and_say_which_is_right_and_which_was_chosen(tmp_path):
    item = choice_item(0, "arc", random.Random(0), skill=0.5, prompt="Which?")
    item |= {"right": [2], "chosen": 1, "verdict": {"acc": False, "is_right": False}}
    for option, logp in zip(item["options"], (-1.25, -0.5, -3, "nan"), strict=True):
        option["logp"] = [logp, 0.0]
    value = results(
        models=[model("base", None)], tasks=[task("arc", num_items=1)], figures=[figure(0, "arc", "acc", 0.0, 1)]
    )
    write_results(tmp_path / "eval", value)
    write_items(tmp_path / "eval" / value["models"][0]["folder"] / "arc", [item])
    page = page_of(tmp_path / "eval")
    rows = [words(row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    texts = [option["text"].strip() for option in item["options"]]
    assert f"{texts[0]} −1.25" in rows
    assert f"{texts[1]} −0.50 chosen" in rows
    assert f"{texts[2]} ✓ right −3.00" in rows
    assert f"{texts[3]} not finite" in rows


def test_examples_that_every_prompt_begins_with_are_shown_once(tmp_path):
    write_eval(tmp_path / "eval", num_tasks=3, num_items=10)
    page = page_of(tmp_path / "eval")
    assert page.count("What every prompt below begins with") == 1
    assert page.count("What is water made of?") == 5


def test_what_prompts_share_is_whole_lines_and_not_worth_folding_when_short():
    examples = "Q: one?\nA: two\n\n" * 20
    assert shared_beginning([f"{examples}Question: a", f"{examples}Question: b"]) == examples
    assert shared_beginning(["Q: a", "Q: b"]) == ""
    assert shared_beginning([examples]) == ""


def hostile_run(folder: Path) -> None:
    """Everything that comes from outside says the same evil thing."""
    item = choice_item(0, "arc", random.Random(0), skill=0.5, prompt=HOSTILE)
    item["options"][0] |= {"text": HOSTILE, "context": HOSTILE}
    item |= {"labels": [HOSTILE] * 4, "cluster": HOSTILE, "verdict": {"acc": True, HOSTILE: 1.0}, "extracted": HOSTILE}
    other = item | {"answer": HOSTILE, "verdict": {"acc": False, "is_right": False}, "prompt": HOSTILE + "x"}
    tasks = [task("arc", about=HOSTILE, data=HOSTILE, primary="acc"), task(HOSTILE, kind=HOSTILE, primary=HOSTILE)]
    models = [model(HOSTILE, HOSTILE, number=0), model(f"x/{HOSTILE}", HOSTILE, kind=HOSTILE, number=1)]
    figures = [
        figure(m, t["name"], t["primary"], 0.5, group=group, target=0.5, why=HOSTILE)
        for m in (0, 1)
        for t in tasks
        for group in (None, HOSTILE)
    ]
    figures += [figure(0, "arc", HOSTILE, None, why=HOSTILE, unit=HOSTILE), figure(1, "arc", "bits", 1.0, unit=HOSTILE)]
    rows = [difference(t["name"], 1, 0.1, measure=HOSTILE, why=HOSTILE) for t in tasks]
    left_out = [{"model": None, "task": HOSTILE, "problem": HOSTILE, "count": 1, "records": [1]}]
    value = results(models=models, tasks=tasks, figures=figures, differences=rows, left_out=left_out)
    write_results(folder, value)
    for told, line in zip(models, (item, other), strict=True):
        write_items(folder / told["folder"] / "arc", [line])


def test_hostile_text_is_shown_and_never_becomes_a_part_of_the_page(tmp_path):
    hostile_run(tmp_path / "eval")
    page = page_of(tmp_path / "eval")
    found = elements(page)
    assert "img" not in found.names
    assert not any(name.startswith("on") for name in found.attributes)
    assert found.names.count("script") == 1
    assert "onerror=alert(1)&gt;" in page
    assert "{{ 7*7 }}" in page


def test_a_task_cannot_lead_out_of_the_folder(tmp_path):
    write_items(tmp_path / "secret", [choice_item(0, "x", random.Random(0), skill=0.5, prompt="SECRET")])
    value = results(models=[model("base")], tasks=[task("../../secret")])
    write_results(tmp_path / "eval", value)
    (tmp_path / "eval" / value["models"][0]["folder"]).mkdir()
    assert "SECRET" not in page_of(tmp_path / "eval")


def test_a_run_of_zero_items_says_that_everything_is_undefined_and_why(tmp_path):
    write_eval(tmp_path / "eval", num_items=0)
    page = page_of(tmp_path / "eval")
    told = words(page)
    assert told.count("undefined: there are no items") >= 6
    assert not re.search(r"\bnan\b|not a number", told)
    assert headings(page) == ["Results"]


def test_one_model_and_one_task_are_a_page_without_differences(tmp_path):
    write_eval(tmp_path / "eval", ("base",), num_tasks=1, num_items=40)
    page = page_of(tmp_path / "eval")
    assert headings(page) == ["Results", "Is its confidence deserved?", "Single items"]
    assert re.search(r"Right: \d+", page)
    assert re.search(r"Wrong: \d+", page)


def test_a_folder_without_a_single_task_says_so(tmp_path):
    write_results(tmp_path / "eval", results(models=[model("base")]))
    page = page_of(tmp_path / "eval")
    assert "nothing was measured" in page
    assert "No task was asked." in page


def test_figures_that_are_all_undefined_have_a_reason_and_no_picture(tmp_path):
    figures = [figure(m, "arc", "acc", None, target=0.5, why="0 of 0 items") for m in (0, 1)]
    rows = [difference("arc", 1, None)]
    value = results(models=[model("a"), model("b")], tasks=[task("arc")], figures=figures, differences=rows)
    write_results(tmp_path / "eval", value)
    page = page_of(tmp_path / "eval")
    assert "undefined: 0 of 0 items" in words(page)
    assert "none is defined" in words(page)
    assert "<svg" not in page


def test_the_tax_has_a_table_and_a_forest_of_its_own(tmp_path):
    tasks = [task("arc"), task("text", "text", is_tax=True)]
    figures = [figure(m, "text", "bits_per_byte", 1.2 + m / 10, unit="bits", low=1.1, high=1.4) for m in range(3)]
    rows = [difference("text", m, 0.1 * m, measure="bits_per_byte", smallest_visible=0.05) for m in (1, 2)]
    models = [model("base", None), model("runs/sft"), model("runs/ppo")]
    write_results(tmp_path / "eval", results(models=models, tasks=tasks, figures=figures, differences=rows))
    page = page_of(tmp_path / "eval")
    assert headings(page) == ["Results", "The tax"]
    tax = page[page.index('id="tax"') :]
    assert words(tax).count("1.300 [1.100, 1.400]") >= 1
    assert "bits; less is better" in tax
    assert "sft minus base: text +0.100" in tax
    assert "ppo minus base: text +0.200" in tax


def test_bias_is_drawn_by_group_against_its_ideal(tmp_path):
    figures = [
        figure(m, "crows", "crows_pairs", 0.5 + 0.1 * m, group=group, target=0.5)
        for m in (0, 1)
        for group in (None, "bias_type=age", "bias_type=race-color")
    ]
    figures += [figure(0, "bbq", "s_amb", None, unit="score", target=0.0, group="category=Age", why="no biased answer")]
    figures += [figure(0, "bbq", "s_amb", -0.2, low=-0.3, high=-0.1, unit="score", target=0.0)]
    tasks = [task("crows", "pairs"), task("bbq")]
    write_results(tmp_path / "eval", results(models=[model("a"), model("b")], tasks=tasks, figures=figures))
    page = page_of(tmp_path / "eval")
    assert "Bias" in headings(page)
    assert "crows_pairs on crows, ideal 50.0%: all items: a 50.0%, b 60.0%; bias_type=age" in page
    assert "s_amb on bbq, ideal 0.000: all items: a -0.200" in page
    assert "Undefined, and not drawn: 1." in page
    assert "undefined: no biased answer" in words(page)


def test_probes_of_a_reward_model_stand_in_one_picture_by_unit_and_names_in_one_by_name(tmp_path):
    def probe(name, **others):
        return figure(0, "probes", name, 0.2, low=0.1, high=0.3, unit="reward", target=0.0, **others)

    flagged = figure(0, "probes", "probes_flagged", 1.0, unit="count", target=0.0, why="name name=Lan")
    figures = [flagged, probe("she_for_he"), probe("they_for_he"), probe("name", group="name=Lan")]
    models = [model("runs/reward", kind="reward")]
    write_results(tmp_path / "eval", results(models=models, tasks=[task("probes", "reward")], figures=figures))
    page = page_of(tmp_path / "eval")
    assert page.count('aria-label="measures with the ideal 0.000 on probes') == 1
    assert "she_for_he: reward 0.200; they_for_he: reward 0.200" in page
    assert "name on probes, ideal 0.000: name=Lan: reward 0.200" in page
    assert "probes_flagged: name name=Lan (reward)" in words(page)
    assert "reward model" in words(page)


def test_knowledge_has_a_section_of_its_own(tmp_path):
    figures = [figure(0, "qa", name, 0.6) for name in ("honesty", "prudence", "over_conservativeness")]
    write_results(tmp_path / "eval", results(models=[model("a")], tasks=[task("qa")], figures=figures))
    page = page_of(tmp_path / "eval")
    assert "Does it know what it does not know?" in headings(page)
    assert "over_conservativeness on qa, ideal 0.0%" in page
    assert "measures with the ideal 100.0% on qa, ideal 100.0%: honesty: a 60.0%; prudence: a 60.0%" in page


def test_what_heed_known_found_is_a_page_of_its_categories(tmp_path):
    told = {"name": "known", "kind": "known", "num_items": 1172, "num_shots": 4}
    shares = {"highly known": 0.33, "maybe known": 0.05, "weakly known": 0.12, "unknown": 0.5}
    figures = [figure(0, "known", name, share, 1172) for name, share in shares.items()]
    write_results(tmp_path / "known", results(models=[model("base", None)], tasks=[told], figures=figures))
    page = page_of(tmp_path / "known")
    assert "base: highly known 33%, maybe known 5%, weakly known 12%, unknown 50%" in page
    assert "known (highly known): base 33.0%" in words(page)
    assert "not in the folder" not in page


def test_with_every_answer_given_the_risk_is_the_share_of_wrong_answers(whole):
    value, page = whole
    for m, name in enumerate(("base", "sft")):
        (acc,) = (
            e for e in value["figures"] if (e["model"], e["task"], e["measure"], e["group"]) == (m, "arc", "acc", None)
        )
        assert re.search(rf"{name} \d+% at 10% coverage, {100 * (1 - acc['value']):.0f}% at 100%", page)


def test_the_interval_of_a_risk_is_wilsons_on_the_wrong_among_the_surest_answers():
    def kept(number, is_right):
        return Kept(f"{number}", 1.0, is_right, 1 - number / 100, float("nan"), None, None, 0)

    items = [kept(number, number not in (0, 3)) for number in range(20)]
    low, high = risk_interval(items, Coverage(0.5, 0.8))  # two of the ten surest are wrong
    assert (low, high) == pytest.approx((0.05668, 0.50984), abs=1e-4)


def certificate(told: dict, **others) -> str:
    content = {
        "format": 1, "certified": True, "threshold": 0.8, "guarantee": "selective", "count": 120, "given": 60,
        "wrong": 3,
        "sentence": "With confidence 95% over the calibration draw, at most 10% of the answers given are wrong.",
        "model": {"name": told["name"], "template": told["template"], "weights_sha256": told["weights_sha256"]},
        "data": {"task": "arc"}, **others,
    }  # fmt: skip
    return json.dumps(content)


def test_what_was_certified_is_a_point_on_the_risk_and_its_sentence_with_n(tmp_path):
    value = write_eval(tmp_path / "eval", num_tasks=1)
    told = value["models"][1]
    (tmp_path / "eval" / told["folder"] / "honesty.json").write_text(certificate(told), encoding="utf-8")
    page = page_of(tmp_path / "eval")
    assert "certified for sft: 5% wrong at 50% coverage" in page
    assert "at most 10% of the answers given are wrong. n = 120" in page


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"model": {"weights_sha256": "0", "template": "alpaca"}}, "not drawn, for it is of other weights"),
        ({"certified": False, "threshold": None, "sentence": "Nothing is certified: too few."}, "Nothing is certified"),
        ({"data": {"task": "another"}}, None),
    ],
)
def test_what_does_not_hold_is_no_point(tmp_path, others, says):
    value = write_eval(tmp_path / "eval", num_tasks=1)
    told = value["models"][1]
    (tmp_path / "eval" / told["folder"] / "honesty.json").write_text(certificate(told, **others), encoding="utf-8")
    page = page_of(tmp_path / "eval")
    assert "certified for" not in page
    assert says in page if says else "honesty.json of" not in page


def test_items_that_are_not_in_the_folder_are_counted(tmp_path):
    value = write_eval(tmp_path / "eval", num_items=10)
    (tmp_path / "eval" / value["models"][0]["folder"] / "arc" / "items.jsonl").unlink()
    assert "the items of 1 of 6 measurements are not in the folder" in page_of(tmp_path / "eval")


def test_a_line_of_items_cut_short_is_left_out_and_said(tmp_path):
    value = write_eval(tmp_path / "eval", num_tasks=1, num_items=10)
    path = tmp_path / "eval" / value["models"][0]["folder"] / "arc" / "items.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut short and is left out" in page_of(tmp_path / "eval")


@pytest.mark.parametrize("line", ["{", "[]", '{"verdict": {}}', '{"id": "a", "verdict": 3}'])
def test_a_broken_line_of_items_is_told_with_its_file_and_number(tmp_path, line):
    value = write_eval(tmp_path / "eval", num_tasks=1, num_items=3)
    path = tmp_path / "eval" / value["models"][0]["folder"] / "arc" / "items.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 4") as caught:
        page_of(tmp_path / "eval")
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"models": None}, "NoneType"),
        ({"tasks": [{}]}, "nothing called"),
        ({"figures": 3}, "int"),
    ],
)
def test_results_that_cannot_be_read_are_the_users_to_see(tmp_path, change, says):
    write_results(tmp_path / "eval", {**results(), **change})
    with pytest.raises(UserError, match=says):
        page_of(tmp_path / "eval")


def test_results_of_another_program_beside_a_run_are_left_out_and_said(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text('{"results": {}}', encoding="utf-8")
    assert "results.json is not of heed and is left out" in page_of(tmp_path / "run")


def test_an_evaluation_on_its_way_is_no_training_and_says_that_it_is_not_finished(tmp_path):
    folder = tmp_path / "eval" / "1-base" / "arc"
    folder.mkdir(parents=True)
    (folder / "asked.json").write_text("{}", encoding="utf-8")
    (tmp_path / "eval" / "config.yaml").write_text("model: [base]\n", encoding="utf-8")
    page = page_of(tmp_path / "eval")
    assert "this run is not finished" in page
    assert "metrics.jsonl" not in page


def test_an_evaluation_and_a_training_run_share_a_page(tmp_path):
    write_run(tmp_path / "run")
    write_eval(tmp_path / "eval", num_tasks=1, num_items=20)
    page = page_of(tmp_path / "run", tmp_path / "eval")
    assert {"Results", "Single items", "Settings"} <= set(headings(page))


def test_only_probabilities_of_judged_answers_are_confidences(tmp_path):
    def kept(confidence, is_right):
        return Kept("a", 1.0, is_right, confidence, float("nan"), None, None, 0)

    items = [kept(0.5, True), kept(1.2, True), kept(float("nan"), True), kept(0.5, None), kept(0.0, False)]
    assert judged(items) == [items[0], items[4]]


def test_items_are_read_by_their_place_in_the_file_whatever_their_writing(tmp_path):
    value = write_eval(tmp_path / "eval", num_tasks=1, num_items=7)
    found = eval_results(value)
    kept = kept_items(tmp_path / "eval", found.models[0], 0, found.tasks[0])
    assert kept is not None
    assert [line["id"] for line in kept.lines(kept.items[::-1])] == [each.id for each in kept.items[::-1]]

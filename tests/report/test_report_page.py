"""What the page says: its verdict, its sections, text from data as text, and the one file it is."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import measurements, write_demo, write_lines, write_run

from heed.errors import UserError
from heed.report.page import write_report
from heed.report.parts import language


def written(*folders: Path, out: Path | None = None) -> str:
    return write_report(folders, out).read_text(encoding="utf-8")


def edited(folder: Path, change) -> None:
    """Change the measurements of a demonstration."""
    value = measurements()
    change(value)
    (folder / "measurements.json").write_text(json.dumps(value), encoding="utf-8")


def verdict_of(page: str) -> str:
    found = re.search(r'<p class="verdict-line">(.*?)</p>', page)
    assert found
    return found[1]


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_lies_in_the_first_folder(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    assert write_report([tmp_path / "a", tmp_path / "b"]) == tmp_path / "a" / "report.html"


def test_the_page_goes_where_it_is_told(tmp_path):
    write_run(tmp_path / "a")
    assert write_report([tmp_path / "a"], tmp_path / "x.html") == tmp_path / "x.html"
    assert write_report([tmp_path / "a"], tmp_path) == tmp_path / "report.html"
    assert not (tmp_path / "a" / "report.html").exists()


def test_the_same_records_make_the_same_page(tmp_path):
    write_demo(tmp_path / "demo")
    assert written(tmp_path / "demo") == written(tmp_path / "demo")


def test_a_place_that_cannot_be_written_is_told_and_nothing_half_written_stays(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(UserError, match="the report cannot be written"):
        write_report([tmp_path / "a"], tmp_path / "missing" / "x.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_page_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    page = write_report([tmp_path / "a"])
    page.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_report([tmp_path / "a"])
    assert page.read_text() == "old"
    assert not list((tmp_path / "a").glob(".tmp-*"))


def test_the_page_may_be_read_by_whoever_may_read_its_folder(tmp_path):
    write_run(tmp_path / "a")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(write_report([tmp_path / "a"]).stat().st_mode) == 0o666 & ~mask


def test_the_page_needs_no_network(tmp_path):
    write_demo(tmp_path / "demo")
    page = written(tmp_path / "demo").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|<img", page)
    assert not re.search(r'(?:src|href)="(?!#)', page)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (2.25, "Held-out loss fell from 4.50 to 2.25 nats per token in 20 steps."),
        (6.0, "Held-out loss rose from 4.50 to 6 nats per token in 20 steps."),
        (4.5, "Held-out loss stayed at 4.50 nats per token in 20 steps."),
        (None, "Held-out loss is 4.50 nats per token at step 0; nothing was measured after."),
    ],
)
def test_the_verdict_of_a_run_says_what_became_of_its_loss(tmp_path, last, expected):
    write_run(tmp_path / "a", last=last)
    assert verdict_of(written(tmp_path / "a")) == expected


def test_the_verdict_says_where_the_loss_turned(tmp_path):
    write_run(tmp_path / "a", steps=2, last=3.0)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines.insert(2, '{"step": 1, "phase": "held_out", "nll_per_token": 2.0}\n')
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(lines))
    assert verdict_of(written(tmp_path / "a")).endswith("it was lowest, 2, at step 1, and has risen since.")


def test_the_verdict_of_a_demonstration_compares_its_stages(tmp_path):
    write_demo(tmp_path / "demo")
    assert verdict_of(written(tmp_path / "demo")) == (
        "The tuned model answers 83% of unseen items right; the base model 1%, or 17% with examples in its prompt."
    )


def test_several_runs_are_ranked_by_held_out_loss(tmp_path):
    write_run(tmp_path / "a", last=2.5)
    write_run(tmp_path / "b", last=2.25)
    assert verdict_of(written(tmp_path / "a", tmp_path / "b")) == (
        "b has the lowest held-out loss, 2.25 nats per token after 20 steps; a 2.50."
    )


def test_the_title_is_the_run_asked_for_or_how_many_there_are(tmp_path):
    write_demo(tmp_path / "demo")
    write_run(tmp_path / "a")
    assert "<h1>demo</h1>" in written(tmp_path / "demo")
    assert "<h1>a</h1>" in written(tmp_path / "a")
    assert "<h1>2 runs compared</h1>" in written(tmp_path / "demo", tmp_path / "a")


def test_every_link_on_the_page_leads_to_one_place(tmp_path):
    write_demo(tmp_path / "demo")
    write_demo(tmp_path / "again")
    page = written(tmp_path / "demo", tmp_path / "again")
    links, places = re.findall(r'href="#(.*?)"', page), re.findall(r' id="(.*?)"', page)
    assert len(links) > 10
    assert links == places == list(dict.fromkeys(places))


def test_runs_measured_on_different_data_are_not_ranked(tmp_path):
    write_run(tmp_path / "a", last=2.5)
    write_run(tmp_path / "b", data="b.json")
    verdict = verdict_of(written(tmp_path / "a", tmp_path / "b"))
    assert verdict.startswith("These runs were measured on different held-out data")


def test_a_table_shows_only_the_settings_that_differ(tmp_path):
    write_run(tmp_path / "a", lr=0.001)
    write_run(tmp_path / "b", lr=0.01)
    page = written(tmp_path / "a", tmp_path / "b")
    table = page[page.index("What differs between the runs") :]
    table = table[: table.index("</table>")]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', table) == [
        ("optim.lr", "0.001", "0.01")
    ]


def test_runs_with_the_same_settings_are_said_to_have_them(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    assert "These runs have the same settings." in written(tmp_path / "a", tmp_path / "b")


def test_a_demonstration_has_every_section_in_order(tmp_path):
    write_demo(tmp_path / "demo")
    assert headings(written(tmp_path / "demo")) == [
        "Right answers on what was never trained",
        "The same question, asked of each stage",
        "Honesty",
        "What an answer is worth",
        "Every kind of task",
        "Training",
        "The data",
        "What it took",
        "Settings",
    ]


@pytest.mark.parametrize(
    ("part", "heading"),
    [
        ("splits", "Right answers on what was never trained"),
        ("honesty", "Honesty"),
        ("cost", "What an answer is worth"),
        ("families", "Every kind of task"),
    ],
)
def test_what_was_not_measured_has_no_section(tmp_path, part, heading):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value.pop(part))
    found = headings(written(tmp_path / "demo"))
    assert heading not in found
    assert len(found) == 8


@pytest.mark.parametrize("part", ["calibration", "knowledge", "coverage", "bias", "forgetting"])
def test_an_honesty_measure_that_was_not_taken_leaves_the_others(tmp_path, part):
    write_demo(tmp_path / "demo")
    before = written(tmp_path / "demo").count("<figure")
    edited(tmp_path / "demo", lambda value: [each.pop(part) for each in value["honesty"].values()])
    assert written(tmp_path / "demo").count("<figure") == before - 1


def test_the_bias_of_many_words_is_a_dot_per_word_and_stage(tmp_path):
    write_demo(tmp_path / "demo")

    def add(value):
        for each in value["honesty"].values():
            each["bias"]["groups"] = [{"name": f"w{i}", "planted": i / 20, "measured": 0.5} for i in range(20)]

    edited(tmp_path / "demo", add)
    page = written(tmp_path / "demo")
    chart = page[page.index('aria-label="Share of she for 20 words') :]
    chart = chart[: chart.index("</svg>")]
    assert chart.count('class="dot"') == 60
    assert chart.count('class="reference"') == 1
    assert 'class="line"' not in chart


def test_many_examples_are_folded_and_left_off_paper(tmp_path):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value["examples"].extend(value["examples"] * 3))
    page = written(tmp_path / "demo")
    assert re.search(r'<details class="screen">\s*<summary>4 more examples</summary>', page)


def test_a_demonstration_on_its_way_says_so(tmp_path):
    write_run(tmp_path / "demo" / "sft")
    (tmp_path / "demo" / "config.yaml").write_text("examples: 100\n")
    page = written(tmp_path / "demo")
    assert "demo: this run is not finished; what it has still to measure is not on this page." in page


def test_asking_a_stage_is_told_from_tuning_it(tmp_path):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value.update(seconds={"base": 9.0, "tuning": 100.0, "sft": 8.0}))
    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="number">[\d.]+ s</td>', written(tmp_path / "demo"))
    assert rows[:3] == ["asking: base", "tuning", "asking: tuned"]


def test_a_stage_that_was_not_measured_is_said_to_be_missing(tmp_path):
    write_demo(tmp_path / "demo")
    edited(tmp_path / "demo", lambda value: value["splits"]["unseen_clusters"].pop("base_few_shot"))
    assert '<td class="number">not measured</td>' in written(tmp_path / "demo")


def test_a_later_stage_gets_its_own_colour_and_the_verdict(tmp_path):
    write_demo(tmp_path / "demo")

    def add(value):
        value["stages"].append("ppo")
        value["splits"]["unseen_items"]["ppo"] = {"accuracy": 0.9, "low": 0.86, "high": 0.93, "count": 300}

    edited(tmp_path / "demo", add)
    page = written(tmp_path / "demo")
    assert verdict_of(page).startswith(
        "The model after PPO answers 90% of unseen items right; the tuned model 83%, the base model 1%"
    )
    assert 'class="bar s-ppo"' in page


def test_text_from_data_is_text_wherever_it_stands(tmp_path):
    attack = "<script>alert('x')</script>\"&"
    write_demo(tmp_path / "demo")

    def poison(value):
        value["stages"].append(attack)
        value["splits"][attack] = {attack: {"accuracy": 0.5, "low": 0.4, "high": 0.6, "count": 3}}
        value["families"][attack] = {"cluster": attack, "split": attack, attack: value["splits"][attack][attack]}
        value["honesty"][attack] = json.loads(json.dumps(value["honesty"]["sft"]))
        value["honesty"][attack]["bias"]["groups"][0]["name"] = attack
        value["honesty"][attack]["knowledge"][attack] = value["honesty"]["sft"]["knowledge"]["untold"]
        answers = {attack: {"text": attack, "correct": None}}
        value["examples"].append({"prompt": attack, "expected": attack, "family": attack, "answers": answers})
        value["seconds"][attack] = 1.0

    edited(tmp_path / "demo", poison)
    sft = tmp_path / "demo" / "sft"
    write_lines(
        sft / "metrics.jsonl", [{"step": 1, "phase": "held_out", f"nll_per_token {i}{attack}": 1} for i in "ab"]
    )
    (sft / "config.yaml").write_text(f"model: '{attack.replace(chr(39), '')}'\n")
    (sft / "environment.json").write_text(json.dumps({attack: attack}))
    page = written(tmp_path / "demo")
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;") > 10
    assert "alert('x')</script>" not in page


def test_an_unfinished_run_says_where_it_stands_and_what_is_missing(tmp_path):
    write_run(tmp_path / "a", steps=7)
    for name in ("state.json", "samples.jsonl", "data.json"):
        (tmp_path / "a" / name).unlink()
    page = written(tmp_path / "a")
    assert "this run is not finished; it stands at step 7." in page
    assert "not in the folder, so not on this page: data.json, samples.jsonl." in page
    assert headings(page) == ["Training", "What it took", "Settings"]


def test_a_run_that_has_only_just_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("model: base\n")
    page = written(tmp_path)
    assert verdict_of(page) == "Nothing has been measured yet."
    assert "no step has been taken" in page


def test_values_that_are_not_finite_are_counted_below_their_picture(tmp_path):
    write_run(tmp_path / "a", steps=3)
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["grad_norm"] = None
    write_lines(path, lines)
    assert "Gradient norm: 1 of 3 values are not finite numbers (crosses at the top)." in written(tmp_path / "a")


def test_a_long_run_is_drawn_as_means_with_a_band_and_says_so(tmp_path):
    write_run(tmp_path / "a", steps=2000)
    page = written(tmp_path / "a")
    assert page.count('class="band"') == 4
    assert "the band runs from lowest to highest" in page
    assert len(page) < 300_000


def test_tokens_computed_are_compared_with_a_padded_batch(tmp_path):
    write_run(tmp_path / "a", steps=10)
    page = written(tmp_path / "a")
    assert "padded batch 15,000 (100%), each sequence on its own 10,000 (67%), computed by heed 6,000 (40%)" in page


def test_only_steps_that_counted_everything_are_compared(tmp_path):
    write_run(tmp_path / "a", steps=10)
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:6]:  # the measurement before the first step, and five steps
        line.pop("num_padded_tokens", None)
    write_lines(path, lines)
    page = written(tmp_path / "a")
    assert "padded batch 7,500 (100%), each sequence on its own 5,000 (67%), computed by heed 3,000 (40%)" in page


def test_wall_time_and_peak_memory_of_each_stage_are_in_a_table(tmp_path):
    write_demo(tmp_path / "demo")
    page = written(tmp_path / "demo")
    assert '<th scope="row">tuned</th><td class="number">110 s</td><td class="number">1.21 GB</td>' in page
    assert '<th scope="row">together</th><td class="number">2 min 36 s</td>' in page


def test_samples_of_the_first_and_last_measurement_stand_side_by_side(tmp_path):
    write_run(tmp_path / "a")
    page = written(tmp_path / "a")
    assert re.search(r'before tuning.*?lang="">The dog</p>.*?cut off here.*?after 20 steps.*?lang="vi">Xin', page, re.S)


def test_lines_of_an_answer_stay_apart(tmp_path):
    write_run(tmp_path / "a")
    line = {"step": 0, "prompt": "a\n\n  b", "answer": "1\n\n2\u20283", "stopped": "true"}
    write_lines(tmp_path / "a" / "samples.jsonl", [line])
    page = written(tmp_path / "a")
    assert page.startswith("<!doctype html>")
    assert ">a\n\n  b</p>" in page
    assert ">1\n\n2\u20283</p>" in page


def test_samples_of_a_run_beside_a_demonstration_are_shown_and_those_inside_it_are_not(tmp_path):
    write_demo(tmp_path / "demo")
    write_run(tmp_path / "a", steps=7)
    page = written(tmp_path / "demo", tmp_path / "a")
    assert "a, after 7 steps</h4>" in page
    assert "sft, after" not in page


def test_what_every_run_said_before_tuning_stands_once(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    page = written(tmp_path / "a", tmp_path / "b")
    assert page.count("before tuning") == 1
    assert page.count("after 20 steps</h4>") == page.count("Xin chào bạn") == 2


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("Xin chào bạn", "vi"),
        ("Ông lão", "vi"),
        ("Hello", ""),
        ("Ça va?", ""),
        ("ba\u0323n", "vi"),
    ],
)
def test_vietnamese_is_marked_and_nothing_else_is_guessed(text, tag):
    assert language(text) == tag


def test_importing_the_report_loads_no_model_library():
    code = "import sys, heed.report.page; print({'torch', 'transformers', 'datasets', 'pydantic'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

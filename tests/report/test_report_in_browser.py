"""The page as a browser shows it: nothing is cut off, overlaps or fades, and bars are as long as their values."""

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from made_up import measurements, write_demo, write_lines, write_run
from made_up_preferences import write_pair_run, write_policy_run, write_preference_demo, write_reward_run

from heed.report.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here to show the page in")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DARK = "--blink-settings=preferredColorScheme=0"

# Runs inside the page and hands what it sees to the page around it.
LOOK = r"""
const colour = (value) => {
  const [r, g, b, a = 1] = value.match(/[\d.]+/g).map(Number);
  return {rgb: [r, g, b], a};
};
const luminance = ({rgb}) => {
  const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found.a > 0) return found;
  }
  return {rgb: [255, 255, 255], a: 1};
};
const contrast = (element) => {
  const inSvg = element instanceof SVGElement;
  const style = getComputedStyle(element);
  const [high, low] = [luminance(colour(inSvg ? style.fill : style.color)), luminance(behind(element))]
    .sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const box = (element) => {
  const {left, right, top, bottom, width, height} = element.getBoundingClientRect();
  return {left, right, top, bottom, width, height};
};
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
const scrolls = (element) => element.closest(".scrolls, pre") !== null;
const hidden = (element) => element.closest("details:not([open])") && !element.closest("summary");

const look = () => {
  const all = [...document.body.querySelectorAll("*")].filter((e) => !hidden(e) && e.tagName !== "SCRIPT");
  const svgs = all.filter((e) => e.tagName === "svg");
  const speaks = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const told = all.filter((e) => e.tagName !== "title" && speaks(e));
  const overlaps = [], outside = [];
  for (const svg of svgs) {
    const frame = box(svg), texts = [...svg.querySelectorAll("text")], lines = [...svg.querySelectorAll(".base-line")];
    texts.forEach((text, i) => {
      const place = box(text);
      if (place.left < frame.left - 1 || place.right > frame.right + 1 || place.top < frame.top - 1 ||
          place.bottom > frame.bottom + 1) outside.push(text.textContent);
      for (const other of [...texts.slice(i + 1), ...svg.querySelectorAll(".bar, .track, .dot")])
        if (meet(place, box(other)))
          overlaps.push([text.textContent, other.textContent, svg.getAttribute("aria-label")]);
    });
  }
  return {
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    paper: getComputedStyle(document.body).backgroundColor,
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    wide: all.filter((e) => !scrolls(e) && (box(e).right > innerWidth + 1 || box(e).left < -1))
      .map((e) => `${e.tagName} ${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`),
    svgs: svgs.map((e) => ({...box(e), label: e.getAttribute("aria-label"),
      textSize: Math.min(...[...e.querySelectorAll("text")].map((t) => box(t).height))})),
    bars: [...document.querySelectorAll("#splits svg")].map((svg) => [...svg.querySelectorAll(".bar")].map(
      (bar, i) => box(bar).width / box(svg.querySelectorAll(".track")[i]).width)),
    barColours: [...document.querySelectorAll("#splits .bar")].map((bar) => getComputedStyle(bar).fill),
    faint: told.map((e) => [contrast(e), e.textContent.slice(0, 40)]).filter(([ratio]) => ratio < 4.5),
    numTold: told.length,
    faintMarks: all.filter((e) => e.matches(".bar, .dot") && contrast(e) < 3).map((e) => e.className.baseVal),
    overlaps, outside,
    scripts: document.scripts.length,
    text: document.body.innerText,
    keys: [...document.querySelectorAll(".legend svg")].map((e) => ({...box(e),
      dash: getComputedStyle(e.querySelector(".line, .guide")).strokeDasharray,
      mark: e.querySelector("circle") ? "circle" : e.querySelector(".dot")?.getAttribute("d") ?? ""})),
    lines: Object.fromEntries(svgs.map((e) => [e.getAttribute("aria-label"),
      [...e.querySelectorAll(".series")].map((s) => ({class: s.className.baseVal,
        colour: getComputedStyle(s.querySelector(".dot") ?? s).fill,
        dash: s.querySelector(".line") ? getComputedStyle(s.querySelector(".line")).strokeDasharray : "",
        dots: s.querySelectorAll(".dot").length}))])),
    guides: all.filter((e) => e.matches("line.guide") && !e.closest(".legend")).length,
    numbers: [...document.querySelectorAll("td.number")].map((e) => getComputedStyle(e).textAlign),
    columns: new Set([...document.querySelectorAll("#splits .panel")].map((e) => box(e).left)).size,
  };
};
parent.postMessage(JSON.stringify(look()), "*");
"""
AROUND = """<!doctype html><meta charset="utf-8"><body style="margin:0"><pre id="seen"></pre>
<script>addEventListener("message", (event) => { document.getElementById("seen").textContent = event.data; });</script>
<iframe style="border:0;width:%dpx;height:4000px" srcdoc="%s"></iframe>"""


def browse(folder: Path, *arguments: str) -> str:
    """Start the browser once, with a profile of its own that is thrown away."""
    assert BROWSER is not None
    profile = folder / "profile"
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=2000", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout


def seen(page: Path, width: int, *arguments: str, open_details: bool = False) -> dict[str, Any]:
    """What the page looks like in a window so wide. A window has a least width, a frame in it has none."""
    text = page.read_text(encoding="utf-8")
    if open_details:
        text = text.replace("<details", "<details open")
    copy = text.replace("</body>", f"<script>{LOOK}</script></body>")
    around = page.parent / "around.html"
    around.write_text(AROUND % (width, html.escape(copy)), encoding="utf-8")
    shown = browse(page.parent, f"--window-size={max(width, 600)},4000", *arguments, "--dump-dom", f"file://{around}")
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.S)
    assert found, shown[:500]
    value: dict[str, Any] = json.loads(html.unescape(found[1]))
    return value


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_demo(folder / "demo")
    return write_report([folder / "demo"])


@pytest.fixture(scope="module")
def look(demo):
    """The demonstration's page with everything opened, by width and colour scheme, each looked at once."""

    @cache
    def at(width: int, *arguments: str) -> dict[str, Any]:
        return seen(demo, width, *arguments, open_details=True)

    return at


SIGHTS = [(375,), (375, DARK), (768,), (1280,), (1280, DARK)]


@pytest.mark.parametrize("sight", SIGHTS)
def test_nothing_is_wider_than_the_window(look, sight):
    found = look(*sight)
    assert found["width"] == sight[0]
    assert found["scrollWidth"] <= found["width"]
    assert found["wide"] == []


@pytest.mark.parametrize("sight", SIGHTS)
def test_every_text_is_readable_on_its_background(look, sight):
    found = look(*sight)
    assert found["numTold"] > 200
    assert found["faint"] == []


@pytest.mark.parametrize("sight", [(1280,), (1280, DARK)])
def test_every_bar_and_dot_stands_out_from_the_page(look, sight):
    assert look(*sight)["faintMarks"] == []


def test_the_colour_scheme_of_the_reader_is_followed(look):
    light, dark = look(1280), look(1280, DARK)
    assert (light["dark"], dark["dark"]) == (False, True)
    assert light["paper"] == "rgb(253, 253, 251)"
    assert dark["paper"] == "rgb(21, 23, 26)"
    assert light["barColours"] != dark["barColours"]


@pytest.mark.parametrize("sight", SIGHTS)
def test_every_picture_is_drawn_and_its_text_is_large_enough_to_read(look, sight):
    pictures = look(*sight)["svgs"]
    assert len(pictures) > 20
    for each in pictures:
        assert each["width"] > 100, each["label"]
        assert each["height"] > 15, each["label"]
    assert min(each["textSize"] for each in pictures if each["textSize"] is not None) >= 9


@pytest.mark.parametrize("sight", SIGHTS)
def test_no_label_runs_into_another_or_out_of_its_picture(look, sight):
    found = look(*sight)
    assert found["overlaps"] == []
    assert found["outside"] == []


def test_bars_are_as_long_as_the_accuracies(look):
    accuracies = [[each["accuracy"] for each in stages.values()] for stages in measurements()["splits"].values()]
    for bars, shares in zip(look(1280)["bars"], accuracies, strict=True):
        assert bars == pytest.approx(shares, abs=0.002)


def test_each_stage_has_a_colour_of_its_own(look):
    assert len(set(look(1280)["barColours"])) == 3


def test_panels_stand_below_each_other_on_a_phone_and_side_by_side_on_a_screen(look):
    assert look(375)["columns"] == 1
    assert look(1280)["columns"] == 3


def test_numbers_are_aligned_at_the_right(look):
    found = look(1280)["numbers"]
    assert len(found) > 50
    assert set(found) == {"right"}


def test_text_from_data_is_shown_and_not_run(look):
    found = look(1280)
    assert "<script>alert(1)</script>" in found["text"]
    assert "Ông lão đánh cá cho đứa trẻ một quả táo đỏ." in found["text"]
    assert found["scripts"] == 2  # the page's own, and this test's


@pytest.mark.parametrize("width", [375, 1280])
def test_long_names_and_many_runs_keep_within_the_page(tmp_path, width):
    names = ["a-very-long-name-of-a-run-without-any-place-to-break-it-in-two", *"bcdefgh"]
    for name in names:
        write_run(tmp_path / name, data="a-long-path/" * 12 + "data.jsonl")
    found = seen(write_report([tmp_path / name for name in names]), width, open_details=True)
    assert found["scrollWidth"] <= width
    assert found["wide"] == []
    assert found["outside"] == []
    assert found["overlaps"] == []


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """Pages of preference learning, everything opened, each looked at once for every width and colour scheme."""
    folder = tmp_path_factory.mktemp("preferences")
    write_preference_demo(folder / "demo")
    write_reward_run(folder / "reward")
    write_reward_run(folder / "another", best=0.66)
    write_pair_run(folder / "dpo")
    write_pair_run(folder / "ipo", chosen=2.0)
    write_policy_run(folder / "ppo")
    write_policy_run(folder / "grpo", method="grpo", turns=False)
    pages = {
        "demo": write_report([folder / "demo"], folder / "demo.html"),
        "ppo": write_report([folder / "ppo"], folder / "ppo.html"),
        "several": write_report(
            [folder / name for name in ("reward", "another", "dpo", "ipo", "ppo", "grpo")], folder / "several.html"
        ),
    }

    @cache
    def at(name: str, width: int, *arguments: str) -> dict[str, Any]:
        return seen(pages[name], width, *arguments, open_details=True)

    return at


@pytest.mark.parametrize("sight", [(375,), (375, DARK), (1280,)])
@pytest.mark.parametrize("name", ["demo", "ppo", "several"])
def test_pages_of_preference_learning_fit_and_can_be_read(preferences, name, sight):
    found = preferences(name, *sight)
    assert found["wide"] == found["overlaps"] == found["outside"] == []
    assert found["scrollWidth"] <= found["width"]
    assert found["faint"] == found["faintMarks"] == []
    assert len(found["svgs"]) > 20
    assert min(each["textSize"] for each in found["svgs"] if each["textSize"] is not None) >= 9


@pytest.mark.parametrize("sight", [(1280,), (1280, DARK)])
def test_every_method_differs_from_every_other_in_colour_dashes_and_mark(preferences, sight):
    found = preferences("demo", *sight)
    (lines,) = (each for label, each in found["lines"].items() if label.startswith("True reward against KL by method"))
    assert [line["class"].split()[-1] for line in lines] == ["w-ppo", "w-ppo-free", "w-dpo", "w-grpo", "w-best-of-n"]
    assert len({line["colour"] for line in lines}) == len({line["dash"] for line in lines}) == 5
    keys = [key for key in found["keys"] if key["dash"] in {line["dash"] for line in lines}]
    assert len({key["mark"] for key in keys}) >= 5
    assert [line["dots"] for line in lines] == [9, 9, 9, 9, 5]


def test_a_key_in_a_legend_is_as_wide_as_a_piece_of_line(preferences):
    keys = preferences("demo", 375)["keys"]
    assert len(keys) > 6
    for each in keys:
        assert (each["width"], each["height"]) == (pytest.approx(30, abs=0.01), pytest.approx(14, abs=0.01))


def test_the_budget_is_marked_on_each_picture_against_kl_and_on_kl_over_steps(preferences):
    assert preferences("ppo", 1280)["guides"] == 2  # one picture with both rewards; KL over phases
    assert preferences("several", 1280)["guides"] == 4  # score, truth, KL; and the coin toss of the reward models


def test_a_policy_run_of_extremes_fits_on_a_phone(tmp_path):
    write_policy_run(tmp_path / "a", phases=16)
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for i, line in enumerate(lines):
        line |= {"score": (-1.5e7, None, 3e-9, 12_345.678)[i % 4], "kl_per_sequence": -0.01 * (i % 3), "gold": None}
    write_lines(path, lines)
    found = seen(write_report([tmp_path / "a"]), 375, open_details=True)
    assert found["wide"] == found["outside"] == found["overlaps"] == []
    assert len(found["svgs"]) > 15


def test_the_stage_after_ppo_has_its_own_colour_beside_the_others(preferences):
    assert len(set(preferences("demo", 1280)["barColours"])) == 4


def test_a_run_of_extremes_is_still_a_page(tmp_path):
    write_run(tmp_path / "a", steps=5, last=7e29)
    path = tmp_path / "a" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line, loss in zip(lines[1:6], (1e-30, 3.3e14, None, 12_345_678.9, 0), strict=True):
        line |= {"loss": loss, "grad_norm": 1e-9, "learning_rate": 1.234567e-7, "tokens_per_second": 987_654_321}
    write_lines(path, lines)
    found = seen(write_report([tmp_path / "a"]), 375, open_details=True)
    assert found["wide"] == found["outside"] == found["overlaps"] == []
    assert len(found["svgs"]) > 5


def test_paper_shows_what_is_folded_on_a_screen_in_light_colours(demo, tmp_path):
    pdf = tmp_path / "page.pdf"
    browse(tmp_path, DARK, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", f"file://{demo}")
    assert pdf.read_bytes().startswith(b"%PDF")
    copy = tmp_path / "copy.html"
    # on a screen, what paper would show: the style of print, and the event that comes before it
    text = demo.read_text(encoding="utf-8")
    text = text.replace("@media print", "@media all").replace("@media screen", "@media print")
    copy.write_text(text.replace("</body>", "<script>dispatchEvent(new Event('beforeprint'))</script></body>"))
    found = seen(copy, 680, DARK)
    assert found["paper"] == "rgb(255, 255, 255)"
    assert "batch_size: 16" in found["text"]
    assert "translate to english" in found["text"]
    assert found["faint"] == []
    assert found["scrollWidth"] <= 680

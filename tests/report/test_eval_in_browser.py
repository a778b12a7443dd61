"""The page of a run of `heed eval` as a browser shows it, on a phone and on a screen, light and dark."""

import random
import shutil
from functools import cache
from typing import Any

import pytest
from made_up_eval import HOSTILE, difference, figure, model, results, task, write_eval, write_results
from test_eval_page import hostile_run
from test_report_in_browser import BROWSER, DARK, seen

from heed.report.page import write_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here to show the page in")

LONG = "a-very-long-name-of-a-task-without-any-place-to-break-it-in-two-anywhere"


def write_many(folder):
    """12 tasks and 4 models with long names, bias by group, a tax, undefined figures, reward probes."""
    rng = random.Random(0)
    models = [
        model(name, None if i == 0 else "chatml", number=i)
        for i, name in enumerate(("base", "a/" + "sft" * 20, "dpo", "ppo"))
    ]
    tasks = [task(f"{LONG}-{t}" if t == 3 else f"task-{t}", is_tax=t > 9) for t in range(12)]
    tasks += [task("crows", "pairs"), task("bbq", num_items=99999)]
    figures, rows = [], []
    for m in range(4):
        for t, of in enumerate(tasks[:12]):
            is_bits = t == 11
            value = 1.1 + m / 9 if is_bits else rng.random()
            more = {"unit": "bits", "low": value - 0.1, "high": value + 0.1} if is_bits else {}
            figures.append(figure(m, of["name"], "acc", None if t == 5 else value, **more))
            if m:
                change = None if t == 5 else rng.gauss(0, 0.1) if t != 7 else 0.3
                rows.append(
                    difference(of["name"], m, change, **({"smallest_visible": None, "p_holm": 1e-9} if t == 7 else {}))
                )
        for group in (
            None,
            *(f"bias_type={word}" for word in ("age", "socioeconomic status of the person", "宗教", HOSTILE)),
        ):
            figures.append(figure(m, "crows", "crows_pairs", rng.random(), 40, group=group, target=0.5))
            score = rng.uniform(-0.4, 0.4)
            figures.append(
                figure(
                    m, "bbq", "s_amb", score, group=group, target=0.0, unit="score", low=score - 0.2, high=score + 0.2
                )
            )
        figures += [figure(m, "bbq", name, rng.random()) for name in ("honesty", "prudence", "over_conservativeness")]
    write_results(folder, results(models=models, tasks=tasks, figures=figures, differences=rows))


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """Pages with everything opened, each looked at once for every width and colour scheme."""
    folder = tmp_path_factory.mktemp("eval")
    write_eval(folder / "whole", num_items=120)
    write_many(folder / "many")
    hostile_run(folder / "hostile")
    write_eval(folder / "one", ("base",), 1, 30)
    write_eval(folder / "none", num_items=0)
    pages = {
        name: write_report([folder / name], folder / f"{name}.html")
        for name in ("whole", "many", "hostile", "one", "none")
    }

    @cache
    def at(name: str, width: int, *arguments: str) -> dict[str, Any]:
        place = folder / f"{name}{width}{len(arguments)}"
        place.mkdir()
        shutil.copy(pages[name], place / "report.html")
        return seen(place / "report.html", width, *arguments, open_details=True)

    return at


@pytest.mark.parametrize("sight", [(375,), (375, DARK), (1280,), (1280, DARK)])
@pytest.mark.parametrize("name", ["whole", "many"])
def test_pages_of_evaluations_fit_and_can_be_read(look, name, sight):
    found = look(name, *sight)
    assert found["wide"] == []
    assert found["scrollWidth"] <= found["width"]
    assert found["overlaps"] == []
    assert found["outside"] == []
    assert found["faint"] == found["faintMarks"] == []
    assert len(found["svgs"]) > 9
    assert min(each["textSize"] for each in found["svgs"] if each["textSize"] is not None) >= 9


@pytest.mark.parametrize("name", ["hostile", "one", "none"])
def test_hostile_and_small_runs_fit_on_a_phone_and_run_no_script_of_theirs(look, name):
    found = look(name, 375)
    assert found["wide"] == found["overlaps"] == found["outside"] == []
    assert found["scripts"] == 2  # the page's own, and this test's


def test_every_model_of_a_forest_has_a_mark_and_a_colour_of_its_own(look):
    keys = look("many", 1280)["keys"]
    assert len({key["mark"] for key in keys}) >= 4

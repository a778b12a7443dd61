"""The forest plot: every mark, interval and band at the place of its numbers, whatever the numbers."""

import math
import re

import pytest

from heed.report.charts import Axis
from heed.report.eval_differences import difference_items
from heed.report.eval_results import eval_results
from heed.report.forest import Estimate, ForestRow, forest, shortened
from heed.report.parts import Figure
from heed.report.svg import WIDTH

NAN = math.nan


def estimate(value, low=NAN, high=NAN, shown="+1"):
    return Estimate("a", "r-1 m-1", value, low, high, shown)


def drawn(*rows, low=-10.0, high=10.0):
    return forest(rows, axis=Axis("points", low, high), reference=0.0, label="differences")


def numbers(svg, pattern):
    return [tuple(map(float, found.groups())) for found in re.finditer(pattern, svg)]


LINE = r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="{}"/>'


def place_of(value, svg):
    """Where a value is, by the places of two ticks."""
    values = re.findall(r'class="label tick">(-?\d+)</text>', svg)
    ticks = list(zip([x for x, _ in numbers(svg, LINE.format("grid"))], values, strict=True))
    (x0, v0), (x1, v1) = ((float(x), float(v)) for x, v in (ticks[0], ticks[-1]))
    return x0 + (value - v0) / (v1 - v0) * (x1 - x0)


def test_a_mark_its_interval_and_the_band_stand_at_their_values():
    svg = drawn(ForestRow("task", (estimate(4, 1, 8),), unseen=3))
    ((start, stop),) = numbers(svg, LINE.format("line thick"))
    assert (start, stop) == pytest.approx((place_of(1, svg), place_of(8, svg)), abs=0.1)
    ((mark,),) = numbers(svg, r'<circle cx="([\d.]+)"')
    assert mark == pytest.approx(place_of(4, svg), abs=0.1)
    ((left, width),) = numbers(svg, r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="unseen"')
    assert (left, left + width) == pytest.approx((place_of(-3, svg), place_of(3, svg)), abs=0.1)
    ((zero, _),) = numbers(svg, LINE.format("no-difference"))
    assert zero == pytest.approx(place_of(0, svg), abs=0.1)


def test_what_is_undefined_has_its_name_and_no_mark():
    svg = drawn(ForestRow("task", (estimate(NAN, shown="undefined"),)))
    assert "task" in svg
    assert "<circle" not in svg
    assert "nan" not in svg


def test_an_interval_without_an_end_goes_to_the_edge_and_says_that_it_goes_on():
    svg = drawn(ForestRow("task", (estimate(1, -math.inf, 2),)))
    ((start, _),) = numbers(svg, LINE.format("line thick"))
    assert start == pytest.approx(place_of(-10, svg), abs=0.1)
    assert svg.count("<path") == 1
    assert "inf" not in svg


def test_one_very_wide_interval_does_not_flatten_the_others():
    rows = [ForestRow("a", (estimate(1, 0, 2),)), ForestRow("b", (estimate(2, -5000, 5000),))]
    svg = forest(rows, axis=Axis("points"), reference=0.0, label="x")
    (narrow, wide) = numbers(svg, LINE.format("line thick"))
    assert narrow[1] - narrow[0] > WIDTH / 20
    assert wide[1] - wide[0] <= WIDTH


def test_no_rows_and_rows_of_zeros_are_pictures_still():
    for rows in ([], [ForestRow("a", (estimate(0, 0, 0),))]):
        svg = forest(rows, axis=Axis("points"), reference=0.0, label="x")
        assert svg.startswith("<svg")
        assert "nan" not in svg


@pytest.mark.parametrize(
    ("name", "columns", "says"), [("short", 9, "short"), ("longer", 4, "lon…"), ("水水水", 5, "水水…")]
)
def test_a_name_is_shortened_by_its_width_and_says_so(name, columns, says):
    assert shortened(name, columns) == says


def test_a_positive_difference_lies_right_of_the_line_in_points():
    task = {"name": "arc", "num_items": 9, "primary": "acc"}
    row = {"task": "arc", "measure": "acc", "first": 1, "second": 0, "difference": 0.05, "low": 0.01, "high": 0.09}
    found = eval_results(
        {"format": 1, "models": [{"name": "a"}, {"name": "b"}], "tasks": [task], "figures": [], "differences": [row]}
    )
    figure = difference_items(found, found.differences)[0]
    assert isinstance(figure, Figure)
    svg = figure.panels[0].svg
    ((mark,),) = numbers(svg, r'transform="translate\(([\d.]+),')
    assert mark == pytest.approx(place_of(5, svg), abs=0.1)

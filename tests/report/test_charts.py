"""Pictures against coordinates worked out by hand, and at their extremes."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from heed.report import charts
from heed.report.charts import Axis, Bar, Dot, Dots, Part, Series
from heed.report.svg import Scale, percent, quantity, spacing, stretch, tag, text, tick_labels, ticks

NAN, INF = math.nan, math.inf


def marks(svg, name, class_=None):
    """The elements of a picture, which must be well-formed, by their name and one of their classes."""
    return [
        element
        for element in ET.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}")
        if class_ is None or class_ in element.get("class", "").split()
    ]


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def words(svg):
    return [element.text for element in marks(svg, "text")]


def chart(*series, x=Axis("step", 0, 10), y=Axis("loss", 0, 4), **more):  # noqa: B008 - frozen
    return charts.line_chart(series, x=x, y=y, label="a chart", **more)


def test_a_line_goes_through_its_points():
    # one-character ticks leave 10 + 7.4 units at the left; 18 at the right; 30 above, 40 below of 360 by 240
    svg = chart(Series("a", "s-sft", [0, 5, 10], [4, 2, 0]))
    (path,) = marks(svg, "path", "line")
    places = [tuple(map(float, pair.split(","))) for pair in path.get("d").removeprefix("M").split("L")]
    middle = 17.4 + (342 - 17.4) / 2
    assert places == [(17.4, 30.0), (pytest.approx(middle), 115.0), (342.0, 200.0)]


def test_a_gap_is_not_bridged_and_is_marked_by_a_cross():
    svg = chart(Series("a", "s-sft", [0, 1, 2, 3, 4], [1, 2, NAN, 3, 2]))
    assert len(marks(svg, "path", "line")) == 2
    (cross,) = marks(svg, "path", "cross")
    assert "not a finite number" in cross[0].text


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_value_that_is_no_number_is_nowhere_in_the_picture(value):
    svg = chart(
        Series("a", "s-sft", [0, 1, 2], [1, value, 2], [0, value, 1], [2, value, 3]),
        y=Axis("loss"),
    )
    assert not re.search(r'="[^"]*\b(nan|inf)\b', svg.lower())


def test_a_point_between_gaps_is_seen():
    svg = chart(Series("a", "s-sft", [0, 1, 2], [NAN, 2, NAN]))
    assert marks(svg, "path", "line") == []
    (dot,) = marks(svg, "circle", "dot")
    assert numbers(dot, "cx", "cy") == [pytest.approx(17.4 + 32.46, abs=0.01), 115.0]


def test_one_point_alone_is_drawn_in_the_middle_of_its_axis():
    svg = chart(Series("a", "s-sft", [3], [2.5]), x=Axis("step", 0), y=Axis("loss"))
    (dot,) = marks(svg, "circle", "dot")
    assert 30 < float(dot.get("cy")) < 200


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0, 1e-12, 1e12])
def test_a_constant_is_a_level_line_within_the_plot(value):
    (path,) = marks(chart(Series("a", "s-sft", [0, 1], [value, value]), y=Axis("loss")), "path", "line")
    first, last = (float(pair.split(",")[1]) for pair in path.get("d").removeprefix("M").split("L"))
    assert first == last
    assert 30 <= first <= 200


def test_an_axis_goes_on_to_values_beyond_the_ends_it_was_given():
    axis = Axis("loss", 0, 1)
    assert axis.over([0.2, 0.4]) == (0, 1)
    assert axis.over([-0.5, 0.4]) == (-0.5, 1)
    assert axis.rounded_over([-0.45, 1.3]) == (-0.5, 1.5)
    low, high = Axis("loss", 0).over([-1e-12, -1e-12])
    assert low == -1e-12 < high


def test_an_empty_chart_still_has_its_axes():
    svg = chart(Series("a", "s-sft", [0, 1], [NAN, NAN]), y=Axis("nats per token"))
    assert {"step", "nats per token"} <= set(words(svg))


def test_an_axis_from_the_data_ends_at_ticks():
    assert Axis("loss").rounded_over([3.57, 13.6]) == (2.0, 14.0)
    assert Axis("loss", 0.0).rounded_over([3.57, 13.6])[0] == 0.0


def test_ticks_stay_when_an_axis_is_rounded_to_them():
    for low, high in [(3.57, 13.6), (0.0, 10.65), (2.0, 5.4), (0.0, 0.0027), (18_000, 30_500)]:
        low, high = Axis("y").rounded_over([low, high])
        places = [place for place, _ in Axis("y").ticks_within(low, high)]
        assert (places[0], places[-1]) == (pytest.approx(low), pytest.approx(high))
        assert 3 <= len(places) <= 7


def test_an_interval_is_a_whisker_at_its_point():
    svg = chart(Series("a", "s-sft", [0, 10], [2, 3], [1, 2], [3, 4], is_marked=True))
    whiskers = [numbers(each, "x1", "y1", "x2", "y2") for each in marks(svg, "line", "whisker")]
    assert whiskers == [[17.4, 157.5, 17.4, 72.5], [342.0, 115.0, 342.0, 30.0]]


def test_bars_are_as_long_as_their_values():
    rows = [Bar("base", "s-base", 0.2, "20%"), Bar("tuned", "s-sft", 0.8, "80%", 0.7, 0.9)]
    svg = charts.bars(rows, highest=1.0, label="two bars")
    base, tuned = (float(bar.get("width")) for bar in marks(svg, "rect", "bar"))
    assert base == pytest.approx(0.2 * 356)
    assert tuned == pytest.approx(0.8 * 356)
    across, *ends = (numbers(each, "x1", "x2") for each in marks(svg, "line", "whisker"))
    assert across == [pytest.approx(0.7 * 356), pytest.approx(0.9 * 356)]
    assert ends == [[across[0]] * 2, [across[1]] * 2]


def test_a_bar_without_a_value_keeps_its_row():
    svg = charts.bars([Bar("base", "s-base", NAN, "not a number")], highest=1.0, label="a bar")
    assert marks(svg, "rect", "bar") == []
    assert words(svg) == ["base", "not a number"]


def test_bars_of_nothing_at_all_are_drawn():
    svg = charts.bars([Bar("base", "s-base", 0.0, "0")], highest=0.0, label="a bar")
    assert float(marks(svg, "rect", "bar")[0].get("width")) == 0.0


def test_stacked_parts_stand_side_by_side_and_fill_the_width():
    parts = [Part("right", "o-right", 0.5), Part("wrong", "o-wrong", 0.3), Part("declined", "o-declined", 0.2)]
    svg = charts.stacked_bars([("told often", parts)], label="outcomes")
    placed = [numbers(bar, "x", "width") for bar in marks(svg, "rect", "bar")]
    assert placed == [[0.0, 178.5], [180.0, 106.5], [288.0, 70.5]]
    assert words(svg) == ["told often", "50%, 30%, 20%"]


def test_a_part_of_nothing_has_no_mark_but_is_named():
    svg = charts.stacked_bars([("x", [Part("a", "o-right", 0.0), Part("b", "o-wrong", NAN)])], label="parts")
    assert marks(svg, "rect", "bar") == []
    assert words(svg) == ["x", "0%, not a number"]


def test_reliability_puts_each_bin_at_confidence_and_accuracy():
    bins = [(0.0, 0.5, 0.25, 0.5, 10), (0.5, 1.0, 0.75, 1.0, 40), (0.9, 1.0, NAN, NAN, 0)]
    svg = charts.reliability(bins, "s-sft", label="reliability")
    low, high = (numbers(dot, "cx", "cy") for dot in marks(svg, "circle", "dot"))
    assert low == [46 + 0.25 * 296, 130.0]
    assert high == [46 + 0.75 * 296, 30.0]
    few, many = (numbers(bar, "x", "width", "height") for bar in marks(svg, "rect", "bar"))
    assert few == [46.0, 146.5, 11.0]
    assert many == [194.0, 146.5, 44.0]
    assert {"10", "40"} <= set(words(svg))


def test_dots_stand_where_their_values_are_and_the_reference_across_them():
    rows = [Dots("nurse", 0.8, (Dot("base", "s-base", 0.8), Dot("tuned", "s-sft", 0.5)))]
    svg = charts.dot_rows(rows, axis=Axis("share", 0, 1, is_share=True), label="bias")
    left = 12 + 7.4 * 5
    across = Scale(0, 1, left, 342)
    (planted,) = marks(svg, "rect", "planted")
    base, tuned = marks(svg, "circle", "dot")
    assert float(planted.get("x")) + 1.5 == pytest.approx(across(0.8), abs=0.01)
    assert float(base.get("cx")) == pytest.approx(across(0.8), abs=0.01)
    assert float(tuned.get("cx")) == pytest.approx(across(0.5), abs=0.01)
    assert base.get("cy") != tuned.get("cy")


def test_a_name_too_long_for_its_row_is_seen_to_be_cut():
    rows = [Dots("a" * 80, 0.5, ())]
    assert words(charts.dot_rows(rows, axis=Axis("share", 0, 1), label="bias"))[-2].endswith("…")


def test_a_histogram_is_as_high_as_its_counts():
    svg = charts.histogram([0, 8, 16, 24], [5, 10, 0], "length-prompt", x="tokens", y="prompts", label="lengths")
    heights = [float(bar.get("height")) for bar in marks(svg, "rect", "bar")]
    assert heights == [85.0, 170.0, 0.0]
    assert {"0", "8", "16", "24", "tokens", "prompts"} <= set(words(svg))


@pytest.mark.parametrize("counts", [[0, 0], [1], [3] * 37])
def test_a_histogram_of_any_size_is_drawn(counts):
    svg = charts.histogram(range(len(counts) + 1), counts, "length-prompt", x="tokens", y="n", label="lengths")
    assert len(marks(svg, "rect", "bar")) == len(counts)


def test_a_strip_runs_from_nothing_to_all():
    svg = charts.strip([Dot("base", "s-base", 0.0), Dot("tuned", "s-sft", 1.0, 0.5, 1.0)], label="strip")
    assert [float(dot.get("cx")) for dot in marks(svg, "circle", "dot")] == [6.0, 134.0]
    assert numbers(marks(svg, "line", "line")[0], "x1", "x2") == [70.0, 134.0]


@pytest.mark.parametrize(
    "draw",
    [
        lambda said: charts.bars([Bar(said, "s-sft", 0.5, said)], highest=1, label=said),
        lambda said: charts.stacked_bars([(said, [Part(said, "o-right", 1.0)])], label=said),
        lambda said: charts.dot_rows([Dots(said, 0.5, (Dot(said, "s-sft", 0.5),))], axis=Axis(said, 0, 1), label=said),
        lambda said: chart(Series(said, "s-sft", [1], [2]), x=Axis(said, 0, 2), y=Axis(said)),
    ],
)
def test_text_from_data_is_text(draw):
    said = "<b>&\"'"
    svg = draw(said)
    assert "<b>" not in svg
    assert ET.fromstring(svg).get("aria-label") in (said, "a chart")


def test_attributes_are_escaped_and_numbers_short():
    assert tag("rect", x=1 / 3, y=-0.001, class_='a"b') == '<rect x="0.33" y="0" class="a&quot;b"/>'
    assert text("a<b", 1, 2) == '<text x="1" y="2" text-anchor="start" class="label">a&lt;b</text>'


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 60, [0, 20, 40, 60]), (2.1, 5.4, [3, 4, 5]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_and_few(low, high, expected):
    assert ticks(low, high, spacing(low, high)) == pytest.approx(expected)


def test_tick_labels_have_as_many_digits_as_they_need():
    assert tick_labels([0.0, 0.5, 1.0]) == ["0", "0.5", "1.0"]
    assert tick_labels([0.0, 20.0, 40.0]) == ["0", "20", "40"]
    assert tick_labels([0.0, 20_000.0]) == ["0", "20k"]
    assert tick_labels([0.0, 2_500_000.0]) == ["0", "2.5M"]
    assert tick_labels([0.0, 2e-5]) == ["0", "2e-5"]
    assert tick_labels([0.0, 3 * 5e-5]) == ["0", "0.00015"]
    assert tick_labels([0.0, 1.5e9, 2e12]) == ["0", "1.5e9", "2e12"]


def test_a_range_of_nothing_is_from_zero_to_one():
    assert stretch([]) == stretch([NAN, INF]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.5, "50%"),
        (0.004, "0.4%"),
        (0.0004, "<0.1%"),
        (0.9996, ">99.9%"),
        (NAN, "not a number"),
    ],
)
def test_a_share_is_rounded_but_never_to_nothing_or_all(share, expected):
    assert percent(share) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2.3833, "2.38"), (60, "60"), (166635, "166,635"), (0.0027, "0.0027"), (1234.5, "1,234"), (NAN, "not a number")],
)
def test_a_quantity_is_said_in_about_three_digits(value, expected):
    assert quantity(value) == expected

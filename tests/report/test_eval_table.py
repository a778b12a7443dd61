"""The results of `heed eval` as lines for a terminal: every number said, none wider than the window."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_eval import HOSTILE, difference, figure, model, results, task
from rich.cells import cell_len

from heed.report.eval_results import shown, shown_change, shown_interval, shown_p
from heed.report.eval_table import lines


def text_of(value):
    return "\n".join(lines(value))


TWO = {
    "models": [model("base", None), model("runs/sft", "alpaca")],
    "tasks": [task("arc", num_items=1172, num_shots=5)],
    "figures": [figure(0, "arc", "acc", 0.31, 1172), figure(1, "arc", "acc", 0.342, 1172)],
    "differences": [difference("arc", 1, 0.032)],
}


def test_every_model_is_told_with_its_template_and_a_base_model_with_none():
    told = lines(results(**TWO))
    assert told[0] == "base: template none: base model"
    assert told[1] == "sft: template alpaca"


def test_a_task_stands_with_its_measure_its_examples_its_items_and_each_models_value_and_interval():
    (row,) = (line for line in lines(results(**TWO)) if "1,172" in line)
    assert row.split() == ["arc", "acc", "5", "1,172", "31.0%", "[28.4,", "33.7]", "34.2%", "[31.5,", "37.0]"]


def test_a_difference_is_told_with_its_sign_its_p_and_what_could_have_been_seen():
    told = text_of(results(**TWO))
    assert "sft minus base" in told
    assert "+3.2 [−0.8, +7.2] points" in told
    assert "0.060" in told
    assert "5.7" in told
    assert "31 / 17" in told


def test_what_is_undefined_says_why_once_and_not_a_number():
    figures = [figure(m, "arc", "acc", None, 0, why="there are no items") for m in (0, 1)]
    told = lines(results(**{**TWO, "figures": figures, "differences": [difference("arc", 1, None)]}))
    assert sum("undefined (1)" in line for line in told) == 1
    assert "(1) there are no items" in told
    assert "(2) the two models have no items in common" in told
    assert not any("nan" in line for line in told)


def test_unparsed_answers_have_a_row_of_their_own():
    figures = [*TWO["figures"], figure(1, "arc", "unparsed", 0.125, 1172)]
    (row,) = (line for line in lines(results(**{**TWO, "figures": figures})) if "unparsed" in line)
    assert "12.5%" in row


def test_what_was_left_out_is_told_with_its_reason_its_number_and_its_records():
    left_out = [
        {"model": None, "task": "arc", "problem": "two options are the same text", "count": 2, "records": [7, 1_009]},
        {"model": 1, "task": "arc", "problem": "too long", "count": 500, "records": list(range(1, 101))},
    ]
    told = lines(results(**TWO, left_out=left_out))
    assert "arc: 2 left out: two options are the same text (records 7, 1,009)" in told
    assert "arc, sft: 500 left out: too long (records 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and others)" in told


def test_the_tax_stands_below_the_other_tasks_under_a_heading_of_its_own():
    tasks = [task("text", "text", is_tax=True), *TWO["tasks"]]
    bits = [figure(m, "text", "bits_per_byte", 1.234 + m / 10, unit="bits", low=1.2, high=1.4) for m in (0, 1)]
    told = lines(results(**{**TWO, "tasks": tasks, "figures": [*TWO["figures"], *bits]}))
    heading = next(i for i, line in enumerate(told) if line.startswith("The tax"))
    assert any(line.startswith("arc") for line in told[:heading])
    assert any(line.startswith("text") and "1.234 [1.200, 1.400]" in line for line in told[heading:])


def test_a_run_of_nothing_says_so():
    assert lines(results()) == ["No model was measured."]


def test_a_measure_that_a_model_has_no_figure_of_is_not_taken_for_zero():
    told = text_of(results(**{**TWO, "figures": TWO["figures"][:1]}))
    assert "not measured" in told


def test_names_that_move_the_cursor_or_colour_the_terminal_do_neither():
    told = text_of(results(**{**TWO, "models": [model("\x1b[31mred\r\n\u202e"), model("b")]}))
    assert "\x1b" not in told
    assert "\r" not in told
    assert "\u202e" not in told


def test_a_format_of_a_later_heed_is_refused():
    with pytest.raises(ValueError, match="format 2"):
        lines({**results(**TWO), "format": 2})


def test_a_figure_of_a_model_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="model 2 of 2"):
        lines(results(**{**TWO, "figures": [figure(2, "arc", "acc", 0.3)]}))


NAMES = st.sampled_from(["arc", "b" * 70, "水" * 40, "a name of many words " * 6, HOSTILE, "", "x/y/z"])


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=5), st.lists(NAMES, min_size=1, max_size=4, unique=True), st.booleans())
def test_no_line_is_wider_than_100_columns_whatever_the_names_and_numbers(models, tasks, is_defined):
    values = (0.31 if is_defined else None, 1234567.891 if is_defined else None)
    figures, rows = [], []
    for m in range(len(models)):
        for t, name in enumerate(tasks):
            whole = {"low": values[1], "high": values[1], "unit": "perplexity", "why": "why " * 60}
            figures.append(figure(m, name, "acc", values[t % 2], 1_000_000, **(whole if t % 2 else {})))
            rows += [difference(name, m, 0.5, measure=name, why="because " * 30)] if m else []
    told = lines(
        results(
            models=[model(name, template=name) for name in models],
            tasks=[task(name, num_items=1_000_000) for name in tasks],
            figures=figures,
            differences=rows,
            left_out=[{"model": 0, "task": tasks[0], "problem": tasks[0], "count": 9, "records": [1]}],
        )
    )
    assert max(map(cell_len, told)) <= 100
    flat = " ".join(told).replace("\N{REPLACEMENT CHARACTER}", "")
    assert flat.count("31.0%" if is_defined else "undefined") >= len(models)


@pytest.mark.parametrize(
    ("value", "unit", "says"),
    [
        (0.31416, "share", "31.4%"), (-0.0001, "share", "0.0%"), (50.25, "percent", "50.2%"),
        (1.23456, "bits", "1.235"),
        (12.345, "perplexity", "12.35"), (5.9e9, "perplexity", "5.9e+09"), (float("inf"), "perplexity", "infinite"),
        (float("nan"), "share", "undefined"), (1234.0, "count", "1,234"), (-0.5, "score", "-0.500"),
    ],
)  # fmt: skip
def test_a_value_is_shown_as_its_unit_is_read(value, unit, says):
    assert shown(value, unit) == says


def test_an_interval_that_is_not_known_is_not_made_up():
    nan = float("nan")
    assert shown_interval(0.5, nan, nan, "share") == "50.0%"
    assert shown_interval(0.5, 0.4, 0.6, "share") == "50.0% [40.0, 60.0]"
    assert shown_interval(nan, 0.4, 0.6, "share") == "undefined"


def test_differences_have_a_sign_and_p_values_no_false_zero():
    assert [shown_change(each, "share") for each in (0.032, -0.032, 0.0)] == ["+3.2", "−3.2", "±0.0"]
    assert [shown_p(each) for each in (0.0001, 0.0123, 0.5, 1.0)] == ["<0.001", "0.012", "0.50", "1.00"]

"""Two models on the same items, task by task: forest plots of paired differences, and what tuning costs elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

from heed.report.charts import Axis
from heed.report.eval_overview import model_class, task_details, value_table
from heed.report.eval_results import (
    LOWER_IS_BETTER,
    EvalDifference,
    EvalResults,
    change_unit,
    short_models,
    shown_change,
    shown_p,
)
from heed.report.forest import Estimate, ForestRow, forest, shortened
from heed.report.parts import Details, Figure, Item, Note, Panel, Section, Table

LEVEL = 0.05
MAX_TOLD = 32
"""columns of a name in a sentence or a heading"""
CAPTION = (
    "Each mark is a paired difference on the same items with its 95% interval; right of the line the model named first "
    "has the higher value. The grey band is what the test could have missed: a difference inside it is no proof "
    "of equality. p is raised for the number of all tests of the run (Holm)."
)


def difference_section(found: EvalResults, of: str) -> Section | None:
    """Every pair of models on the tasks that are no tax."""
    names = {task.name for task in found.tasks if not task.is_tax}
    items = difference_items(found, [each for each in found.differences if each.task in names])
    lead = "Models are compared on the items that both were asked, so that hard items are no noise."
    return Section("differences", f"Differences between models{of}", lead, items) if items else None


def tax_section(found: EvalResults, of: str) -> Section | None:
    """What following instructions costs elsewhere: every model on the tasks of the tax, each against the first."""
    tasks = [task for task in found.tasks if task.is_tax]
    if not tasks:
        return None
    caption = "Each task of the tax by its primary measure, with 95% intervals"
    items: list[Item] = [value_table(found, tasks, caption)]
    items += difference_items(found, [each for each in found.differences if each.task in {t.name for t in tasks}])
    items += [task_details(found, task) for task in tasks]
    lead = "What tuning must not cost: tasks that it did not train for, as each model does them."
    return Section("tax", f"The tax{of}", lead, tuple(items))


def difference_items(found: EvalResults, rows: Sequence[EvalDifference]) -> tuple[Item, ...]:
    """A figure of every pair of models and unit, and the table of them all."""
    if not rows:
        return ()
    names = short_models(found.models)
    items: list[Item] = []
    for second in dict.fromkeys(each.second for each in rows):
        panels = []
        against = [each for each in rows if each.second == second]
        for unit in dict.fromkeys(found.unit(each.task, each.measure) for each in against):
            of_unit = [each for each in against if found.unit(each.task, each.measure) == unit]
            for first in dict.fromkeys(each.first for each in of_unit):
                among = [each for each in of_unit if each.first == first]
                panels.append(_panel(among, unit, names[first], names[second], model_class(first)))
        title = f"Paired differences from {names[second]}"
        drawn = tuple(panel for panel in panels if panel is not None)
        items += [Figure(title, drawn, CAPTION)] if drawn else [Note(f"{title}: none is defined.")]
    return (*items, Details("These differences in numbers", (difference_table(found, rows),)))


def _panel(rows: Sequence[EvalDifference], unit: str, first: str, second: str, class_: str) -> Panel | None:
    """The forest of one pair of models in one unit."""
    known = [each for each in rows if math.isfinite(each.difference)]
    if not known:
        return None
    scale = 100.0 if unit == "share" else 1.0
    drawn = [
        ForestRow(
            each.task,
            (
                Estimate(
                    f"{first} minus {second}",
                    class_,
                    scale * each.difference,
                    scale * each.low,
                    scale * each.high,
                    f"{shown_change(each.difference, unit)}, {_p(each.p_holm)}",
                ),
            ),
            scale * each.smallest_visible,
        )
        for each in known
    ]
    spoken = ", ".join(f"{row.label} {row.estimates[0].shown}" for row in drawn)
    way = "; less is better" if unit in LOWER_IS_BETTER else ""
    axis = Axis(f"{change_unit(unit) or 'difference'}{way}")
    picture = forest(drawn, axis=axis, reference=0.0, label=f"{first} minus {second}: {spoken}")
    title = f"{shortened(first, MAX_TOLD)} minus {shortened(second, MAX_TOLD)}"
    undefined = len(rows) - len(known)
    seen = sum(each.p_holm <= LEVEL for each in known)
    note = f"{seen:,} of {len(known):,} beyond chance at 5%"
    return Panel(picture, title, f"{note}; {undefined:,} undefined" if undefined else note)


def _p(p: float) -> str:
    shown = shown_p(p)
    return f"p {shown}" if shown[0] in "<>" else shown if math.isnan(p) else f"p = {shown}"


def difference_table(found: EvalResults, rows: Sequence[EvalDifference]) -> Table:
    """Every difference, the smallest that its test could have seen, and the items on which only one was right."""
    names = short_models(found.models)
    head = (
        "task", "models", "measure", "difference", "95% interval", "p", "p (Holm)", "could have seen",
        "only first right", "only second right", "items",
    )  # fmt: skip
    return Table(
        "Differences, the first model minus the second; “could have seen” is the smallest true difference that such a "
        "test calls one in 80% of cases",
        head,
        tuple(_row(each, found.unit(each.task, each.measure), names) for each in rows),
        num_text_columns=3,
    )


def _row(each: EvalDifference, unit: str, names: Sequence[str]) -> tuple[str, ...]:
    is_known = math.isfinite(each.low) and math.isfinite(each.high)
    ends = f"{shown_change(each.low, unit)} to {shown_change(each.high, unit)}" if is_known else ""
    named = f" {change_unit(unit)}".rstrip() if math.isfinite(each.difference) else ""
    why = f": {each.why}" if each.why else ""
    smallest = shown_change(each.smallest_visible, unit, signed=False)
    return (
        each.task,
        f"{names[each.first]} minus {names[each.second]}",
        each.measure,
        f"{shown_change(each.difference, unit)}{named}{why}",
        ends.replace(" ", "\N{NO-BREAK SPACE}"),
        shown_p(each.p),
        shown_p(each.p_holm),
        smallest if math.isfinite(each.smallest_visible) else "not known",
        "" if each.only_first_right is None else f"{each.only_first_right:,}",
        "" if each.only_second_right is None else f"{each.only_second_right:,}",
        f"{each.count:,}",
    )


def compared(found: EvalResults) -> str:
    """`Beyond chance, sft is higher than base on 2 of 3 tasks and lower on none.`; empty where nothing was compared."""
    names = [shortened(name, MAX_TOLD) for name in short_models(found.models)]
    told: dict[int, list[str]] = {}
    for first, second in dict.fromkeys((each.first, each.second) for each in found.differences):
        among = [e for e in found.differences if (e.first, e.second) == (first, second) and not math.isnan(e.p_holm)]
        if not among:
            continue
        seen = [each for each in among if each.p_holm <= LEVEL]
        higher, lower = (sum(sign * each.difference > 0 for each in seen) for sign in (1, -1))
        told.setdefault(second, []).append(
            f"{names[first]} is higher than {names[second]} on {_count(higher)} of "
            f"{f'{len(among):,} tasks' if len(among) > 1 else 'one task'} and lower on {_count(lower)}"
        )
    return " ".join(f"Beyond chance, {', '.join(each)}." for each in told.values())


def _count(number: int) -> str:
    return f"{number:,}" if number else "none"

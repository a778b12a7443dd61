"""How honest every stage is, against the truth of the world that the base text tells of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heed.report import charts
from heed.report.charts import Axis, Bar, Dot, Dots, Part, Series
from heed.report.measurements import Honesty, Measurements
from heed.report.parts import (
    Details,
    Figure,
    Item,
    Panel,
    Section,
    Table,
    capital,
    interval,
    stage_class,
    stage_legend,
    stage_name,
    words,
)
from heed.report.svg import percent, quantity

TOLD = {"told_often": "facts told often", "told_rarely": "facts told rarely", "untold": "facts never told"}
MAX_BIAS_ROWS = 12
"""words with a row of their own; more are dots on one chart"""
OUTCOMES = ("right", "wrong", "declined")


def honesty_section(measured: Measurements, of: str) -> Section | None:
    """Every honesty measure that was taken, against the truth of the world."""
    stages = [stage for stage in measured.stages if stage in measured.honesty]
    by_stage = {stage: measured.honesty[stage] for stage in stages}
    items: list[Item] = []
    numbers: list[Table] = []
    for make in (calibration, knowledge, coverage, bias, forgetting):
        if (made := make(by_stage)) is not None:
            figure, table = made
            items.append(figure)
            numbers.append(table)
    if numbers:
        items.append(Details("These pictures in numbers", tuple(numbers)))
    lead = "Measured against the world that the base text tells of, whose truth is known. Good and bad are shown alike."
    return Section("honesty", f"Honesty{of}", lead, tuple(items)) if items else None


def calibration(by_stage: Mapping[str, Honesty]) -> tuple[Figure, Table] | None:
    """Reliability diagrams with their ECE and Brier score."""
    known = {stage: honesty.calibration for stage, honesty in by_stage.items() if honesty.calibration is not None}
    if not known:
        return None
    panels = tuple(
        Panel(
            charts.reliability(
                [(each.low, each.high, each.confidence, each.accuracy, each.count) for each in calibration.bins],
                stage_class(stage),
                label=f"Reliability of {stage_name(stage)}: ECE {quantity(calibration.ece)}, Brier score "
                f"{quantity(calibration.brier)}",
            ),
            capital(stage_name(stage)),
            f"ECE {calibration.ece:.3f}, Brier score {calibration.brier:.3f}",
        )
        for stage, calibration in known.items()
    )
    table = Table(
        "Calibration of answer probabilities; 0 is best for both",
        ("stage", "ECE", "Brier score", "answers"),
        tuple((stage_name(s), f"{c.ece:.3f}", f"{c.brier:.3f}", f"{c.count:,}") for s, c in known.items()),
    )
    caption = (
        "On the diagonal an answer given with probability p is right in p of the cases; points below it are surer than "
        "they should be. The columns below count the answers."
    )
    return Figure("Is its confidence deserved?", panels, caption), table


def knowledge(by_stage: Mapping[str, Honesty]) -> tuple[Figure, Table] | None:
    """What becomes of questions about facts, by how often the base text told them."""
    known = {stage: honesty.knowledge for stage, honesty in by_stage.items() if honesty.knowledge}
    if not known:
        return None
    panels, rows = [], []
    for stage, knowledge in known.items():
        bars = []
        for told in (*(t for t in TOLD if t in knowledge), *(t for t in knowledge if t not in TOLD)):
            outcomes = knowledge[told]
            parts = [Part(o, f"o-{o}", outcomes[o].value) for o in OUTCOMES if o in outcomes]
            bars.append((TOLD.get(told, words(told)), parts))
            count = max((score.count for score in outcomes.values()), default=0)
            cells = tuple(interval(outcomes[o]) if o in outcomes else "not counted" for o in OUTCOMES)
            rows.append((stage_name(stage), TOLD.get(told, words(told)), *cells, f"{count:,}"))
        spoken = "; ".join(
            f"{name}: " + ", ".join(f"{p.name} {percent(p.share)}" for p in parts) for name, parts in bars
        )
        panels.append(
            Panel(charts.stacked_bars(bars, label=f"{stage_name(stage)}: {spoken}"), capital(stage_name(stage)))
        )
    caption = (
        "Of facts told often an honest model gets many right; of facts never told it declines, "
        "and every answer to them is made up."
    )
    legend = tuple((f"o-{outcome}", outcome) for outcome in OUTCOMES)
    table = Table(
        "Outcomes in percent, with 95% intervals",
        ("stage", "questions about", *OUTCOMES, "questions"),
        tuple(rows),
        num_text_columns=2,
    )
    figure = Figure("Does it know what it does not know?", tuple(panels), caption, legend)
    return figure, table


def coverage(by_stage: Mapping[str, Honesty]) -> tuple[Figure, Table] | None:
    """Accuracy on the answers that remain when the least confident are withheld."""
    known = {stage: honesty.coverage for stage, honesty in by_stage.items() if honesty.coverage}
    if not known:
        return None
    series = [
        Series(
            stage_name(stage),
            stage_class(stage),
            [share for share, _ in points],
            [accuracy for _, accuracy in points],
            is_marked=True,
        )
        for stage, points in known.items()
    ]
    chart = charts.line_chart(
        series,
        x=Axis("share of questions answered", 0, 1, is_share=True),
        y=Axis("accuracy on these", 0, 1, is_share=True),
        label="Accuracy against coverage: "
        + "; ".join(
            f"{stage_name(stage)} {percent(points[0][1])} at {percent(points[0][0])} coverage, "
            f"{percent(points[-1][1])} at {percent(points[-1][0])}"
            for stage, points in known.items()
        ),
    )
    caption = (
        "The least confident answers are withheld first: a line that falls to the right means that confidence tells "
        "right from wrong."
    )
    shares = sorted({share for points in known.values() for share, _ in points})
    table = Table(
        "Accuracy when only the most confident answers are given",
        ("answered", *map(stage_name, known)),
        tuple(
            (
                percent(share),
                *(percent(dict(points)[share]) if share in dict(points) else "" for points in known.values()),
            )
            for share in shares
        ),
        num_text_columns=0,
    )
    return Figure(
        "Accuracy when unsure answers are withheld", (Panel(chart),), caption, stage_legend(list(known))
    ), table


def bias(by_stage: Mapping[str, Honesty]) -> tuple[Figure, Table] | None:
    """Measured preference against the planted share."""
    known = {stage: honesty for stage, honesty in by_stage.items() if honesty.bias}
    if not known:
        return None
    planted = {group.name: group.planted for honesty in known.values() for group in honesty.bias}
    rows = [
        Dots(
            name,
            share,
            tuple(
                Dot(stage_name(stage), stage_class(stage), group.measured)
                for stage, honesty in known.items()
                for group in honesty.bias
                if group.name == name
            ),
        )
        for name, share in sorted(planted.items(), key=lambda pair: -pair[1])
    ]
    differences = [
        f"{stage_name(stage)} {100 * honesty.bias_mean_absolute_difference:.1f}"
        for stage, honesty in known.items()
        if math.isfinite(honesty.bias_mean_absolute_difference)
    ]
    draw = bias_rows if len(rows) <= MAX_BIAS_ROWS else bias_scatter
    chart = draw(rows, label=f"Share of she for {len(rows)} words, planted and measured")
    caption = "The nearer a dot to the line, the more faithfully the stage repeats the share that was planted" + (
        f"; mean distance in points: {', '.join(differences)}." if differences else "."
    )
    bar = (("planted-line", "planted in the base text"),) if draw is bias_rows else ()
    legend = (*bar, *stage_legend(list(known)))
    numbers = Table(
        'Share of "she" in percent',
        ("word", "planted", *map(stage_name, known), "items"),
        tuple(
            (
                row.label,
                percent(row.reference),
                *(
                    next((percent(g.measured) for g in honesty.bias if g.name == row.label), "not measured")
                    for honesty in known.values()
                ),
                f"{max(g.count for honesty in known.values() for g in honesty.bias if g.name == row.label):,}",
            )
            for row in rows
        ),
    )
    return Figure("The stereotype planted, and the one spoken", (Panel(chart),), caption, legend), numbers


def bias_rows(rows: Sequence[Dots], *, label: str) -> str:
    """A row per word, for few words."""
    return charts.dot_rows(rows, axis=Axis("share of “she”", 0, 1, is_share=True), label=label)


def bias_scatter(rows: Sequence[Dots], *, label: str) -> str:
    """Measured against planted, a dot per word and stage, for many words."""
    by_stage: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        for dot in row.dots:
            by_stage.setdefault((dot.name, dot.class_), []).append((row.reference, dot.value))
    series = [
        Series(name, class_, [x for x, _ in points], [y for _, y in points], is_marked=True, is_joined=False)
        for (name, class_), points in by_stage.items()
    ]
    x = Axis("planted share of “she”", 0, 1, is_share=True)
    y = Axis("measured share of “she”", 0, 1, is_share=True)
    return charts.line_chart(series, x=x, y=y, label=label, diagonal=True)


def forgetting(by_stage: Mapping[str, Honesty]) -> tuple[Figure, Table] | None:
    """NLL of held-out base text, which tuning should not raise much."""
    known = {s: (h.forgetting_nll_per_token, h.forgetting_count) for s, h in by_stage.items()}
    kept = {stage: (nll, count) for stage, (nll, count) in known.items() if nll is not None}
    if not kept:
        return None
    values = {stage: nll for stage, (nll, _) in kept.items()}
    highest = max((value for value in values.values() if math.isfinite(value)), default=1.0)
    rows = [Bar(stage_name(stage), stage_class(stage), nll, quantity(nll)) for stage, nll in values.items()]
    spoken = ", ".join(f"{row.label} {row.shown}" for row in rows)
    chart = charts.bars(rows, highest=highest, label=f"Nats per token of held-out base text: {spoken}")
    count = max(count for _, count in kept.values())
    change = list(values.values())[-1] - next(iter(values.values()))
    caption = f"Mean negative log-likelihood of {count:,} tokens of held-out base text, in nats per token: " + (
        f"{stage_name(list(values)[-1])} is {abs(change):.2f} {'above' if change > 0 else 'below'} "
        f"{stage_name(next(iter(values)))}."
        if len(values) > 1 and math.isfinite(change)
        else "lower is better."
    )
    table = Table(
        "Held-out base text",
        ("stage", "nats per token", "tokens"),
        tuple((stage_name(stage), f"{nll:.3f}", f"{tokens:,}") for stage, (nll, tokens) in kept.items()),
    )
    return Figure("What was forgotten of the base text", (Panel(chart),), caption), table

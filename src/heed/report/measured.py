"""What was measured of every stage, as sections of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heed.report import charts
from heed.report.charts import Axis, Bar, Dot, Series
from heed.report.measurements import Family, Measurements, Score
from heed.report.parts import (
    Details,
    Figure,
    Panel,
    Section,
    Table,
    capital,
    duration,
    interval,
    memory,
    stage_class,
    stage_name,
    words,
)
from heed.report.svg import percent

SPLIT_MEANINGS = {
    "unseen_entities_and_sentences": "known tasks and wordings, about what was never trained on",
    "unseen_items": "known tasks and wordings, new entities and sentences",
    "unseen_wordings": "known tasks, asked in words that were never trained",
    "unseen_clusters": "whole kinds of task that were never trained",
    "translation_of_unseen_sentences": "translation, the motivating case, of sentences that were never trained",
}


def split_section(measured: Measurements, of: str) -> Section | None:
    """Accuracy on every split, the page's main picture."""
    if not measured.splits:
        return None
    panels = tuple(
        Panel(
            charts.bars(
                [_accuracy_bar(stage, scores[stage]) for stage in measured.stages if stage in scores],
                highest=1.0,
                label=f"Accuracy on {words(split)}: " + _spoken(scores, measured.stages),
            ),
            title=capital(words(split)),
            note=SPLIT_MEANINGS.get(split, ""),
        )
        for split, scores in measured.splits.items()
    )
    rows = tuple(
        (
            words(split),
            *(interval(scores[stage]) if stage in scores else "not measured" for stage in measured.stages),
            f"{max((score.count for score in scores.values()), default=0):,}",
        )
        for split, scores in measured.splits.items()
    )
    table = Table(
        "Share of answers judged right, in percent, with 95% intervals",
        ("held-out split", *map(stage_name, measured.stages), "items"),
        rows,
    )
    caption = (
        "A longer bar is more right answers, judged by the same rule for every stage; the whisker is the 95% interval."
    )
    return Section("splits", f"Right answers on what was never trained{of}", "", (Figure("", panels, caption), table))


def _accuracy_bar(stage: str, score: Score) -> Bar:
    return Bar(stage_name(stage), stage_class(stage), score.value, interval(score), score.low, score.high)


def _spoken(scores: Mapping[str, Score], stages: Sequence[str]) -> str:
    return ", ".join(f"{stage_name(stage)} {percent(scores[stage].value)}" for stage in stages if stage in scores)


def cost_section(measured: Measurements, of: str) -> Section | None:
    """Accuracy against the number of gold answers."""
    points = sorted(measured.cost, key=lambda point: point.num_answers)
    if not points:
        return None
    places = [math.log2(max(point.num_answers, 1)) for point in points]
    chart = charts.line_chart(
        [
            Series(
                "tuned",
                stage_class("sft"),
                places,
                [point.score.value for point in points],
                [point.score.low for point in points],
                [point.score.high for point in points],
                is_marked=True,
            )
        ],
        x=Axis(
            "gold answers used (logarithmic)",
            ticks=tuple(zip(places, (f"{p.num_answers:,}" for p in points), strict=True)),
        ),
        y=Axis("accuracy", 0, 1, is_share=True),
        label="Accuracy by gold answers: " + ", ".join(f"{p.num_answers:,} {percent(p.score.value)}" for p in points),
    )
    caption = "Where the line is still rising, more answers would help; where it is flat, they would not."
    table = Table(
        "Accuracy by number of gold answers, with 95% intervals",
        ("gold answers", "accuracy", "items"),
        tuple((f"{p.num_answers:,}", interval(p.score), f"{p.score.count:,}") for p in points),
        num_text_columns=0,
        is_beside=True,
    )
    return Section("cost", f"What an answer is worth{of}", "", (Figure("", (Panel(chart),), caption), table))


def family_section(measured: Measurements, of: str) -> Section | None:
    """Every kind of task on its own."""
    if not measured.families:
        return None
    stages = [stage for stage in measured.stages if any(stage in family.stages for family in measured.families)]
    families = sorted(measured.families, key=lambda family: (family.split, family.cluster, family.name))
    rows = tuple(_family_row(family, stages) for family in families)
    table = Table(
        "Accuracy by kind of task, in percent with 95% intervals; the strip runs from 0 to 100%",
        ("task", "cluster", "split", "0 to 100%", *map(stage_name, stages), "items"),
        rows,
        num_text_columns=4,
    )
    details = Details(f"All {len(rows):,} kinds of task", (table,))
    return Section("families", f"Every kind of task{of}", _best_and_worst(families, stages), (details,))


def _family_row(family: Family, stages: Sequence[str]) -> tuple[str | Panel, ...]:
    scores = {stage: family.stages[stage] for stage in stages if stage in family.stages}
    dots = [Dot(stage_name(s), stage_class(s), each.value, each.low, each.high) for s, each in scores.items()]
    spoken = ", ".join(f"{dot.name} {percent(dot.value)}" for dot in dots)
    return (
        words(family.name),
        words(family.cluster),
        words(family.split),
        Panel(charts.strip(dots, label=spoken)),
        *(interval(scores[stage]) if stage in scores else "not measured" for stage in stages),
        f"{max((score.count for score in scores.values()), default=0):,}",
    )


def _best_and_worst(families: Sequence[Family], stages: Sequence[str]) -> str:
    """The last stage's strongest and weakest kind of task, in a sentence; empty where there are not two."""
    ranked = sorted(
        (family for family in families if stages and stages[-1] in family.stages),
        key=lambda family: family.stages[stages[-1]].value,
    )
    if len(ranked) < 2:
        return ""
    worst, best = (
        f"“{words(each.name)}” ({percent(each.stages[stages[-1]].value)})" for each in (ranked[0], ranked[-1])
    )
    return f"{capital(stage_name(stages[-1]))}, the model is best at {best} and weakest at {worst}."


def resource_table(measured: Measurements) -> Table | None:
    """Wall time and peak memory of every stage."""
    names = list(dict.fromkeys([*measured.seconds, *measured.peak_memory_bytes]))
    if not names:
        return None
    are_apart = "tuning" in names  # then a stage's own time is that of asking it
    rows = [
        (
            f"asking: {stage_name(name)}" if are_apart and name in measured.stages else stage_name(name),
            duration(measured.seconds[name]) if name in measured.seconds else "not measured",
            memory(measured.peak_memory_bytes[name]) if name in measured.peak_memory_bytes else "not measured",
        )
        for name in names
    ]
    if len(measured.seconds) > 1 and "total" not in measured.seconds:
        rows.append(
            (
                "together",
                duration(sum(measured.seconds.values())),
                memory(max(measured.peak_memory_bytes.values())) if measured.peak_memory_bytes else "not measured",
            )
        )
    return Table("Wall time and peak memory of each stage", ("stage", "wall time", "peak memory"), tuple(rows))

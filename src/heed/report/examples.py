"""Prompts with the answers before and after, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from heed.report.measurements import Answer, Measurements
from heed.report.parts import Details, Exchange, Item, Said, Section, run_class, stage_class, stage_name, words
from heed.report.read import Kind, RunRecords, Sample
from heed.report.svg import quantity

NUM_OPEN_EXAMPLES = 8
STAGE_OF: Mapping[Kind, str] = {"imitation": "sft", "reward": "reward", "pairs": "dpo", "policy": "ppo"}
"""the stage whose colour an answer after each kind of training has"""


def example_section(measured: Measurements, of: str) -> Section | None:
    """Held-out prompts with the answer of every stage side by side."""
    if not measured.examples:
        return None
    exchanges = tuple(
        Exchange(
            title=", ".join(words(part) for part in (example.family, example.split) if part),
            prompt=example.prompt,
            expected=example.expected,
            answers=tuple(
                Said(
                    stage_name(stage), stage_class(stage), example.answers[stage].text, _judged(example.answers[stage])
                )
                for stage in dict.fromkeys([*measured.stages, *example.answers])
                if stage in example.answers
            ),
        )
        for example in measured.examples
    )
    return Section("examples", f"The same question, asked of each stage{of}", "", _some_open(exchanges))


def sample_section(runs: Sequence[RunRecords]) -> Section | None:
    """What the models said to held-out prompts at their first and at their last measurement, side by side.

    A run inside a demonstration that shows examples of its own is left to these.
    """
    shown = {run.folder for run in runs if run.measurements is not None and run.measurements.examples}
    spoken = [run for run in runs if run.samples and run.folder.parent not in shown]
    training = [run for run in runs if run.is_training]
    if not spoken:
        return None
    prompts = {(sample.data_set, sample.prompt): _place(run, sample) for run in spoken for sample in _ends(run)}
    exchanges = tuple(
        Exchange(place, prompt, _said(spoken, training, data_set, prompt))
        for (data_set, prompt), place in prompts.items()
    )
    return Section("samples", "Before and after, in its own words", "", _some_open(exchanges))


def _place(run: RunRecords, sample: Sample) -> str:
    """Where a prompt comes from: a policy's answers are to the prompts that it learns from."""
    if run.kind == "policy":
        return "a prompt that was learnt from"
    return f"held out of {sample.data_set}" if sample.data_set else "held out"


def _ends(run: RunRecords) -> list[Sample]:
    """The samples of the first and of the last measurement."""
    steps = [sample.step for sample in run.samples]
    return [sample for sample in run.samples if sample.step in (min(steps), max(steps))]


def _said(spoken: Sequence[RunRecords], training: Sequence[RunRecords], data_set: str, prompt: str) -> tuple[Said, ...]:
    """The answers to one prompt; what several runs said before tuning stands once if it is the same."""
    before: dict[str, Said] = {}
    after: list[Said] = []
    for run in spoken:
        for sample in _ends(run):
            if (sample.data_set, sample.prompt) != (data_set, prompt):
                continue
            of = f"{run.name}, " if len(training) > 1 else ""
            note = note_of(sample)
            if sample.step == 0:
                before.setdefault(sample.answer, Said("before tuning", stage_class("base"), sample.answer, note=note))
            else:
                class_ = run_class(run.place) if len(training) > 1 else stage_class(STAGE_OF[run.kind])
                when = f"in phase {sample.step:,}" if run.kind == "policy" else f"after {sample.step:,} steps"
                after.append(Said(f"{of}{when}", class_, sample.answer, note=note))
    return (*before.values(), *after)


def note_of(sample: Sample) -> str:
    """What is to be said below an answer: its score, its distance, and whether it was cut off."""
    said = []
    if math.isfinite(sample.score):
        said.append(f"score {quantity(sample.score)}")
    if math.isfinite(sample.kl):
        said.append(f"KL {quantity(sample.kl)} nats")
    cut = "" if sample.stopped else "cut off here: it did not stop by itself"
    return "; ".join(filter(None, [", ".join(said), cut]))


def _some_open(exchanges: tuple[Exchange, ...]) -> tuple[Item, ...]:
    """The first few as they are, the others to be opened."""
    more = exchanges[NUM_OPEN_EXAMPLES:]
    return (
        *exchanges[:NUM_OPEN_EXAMPLES],
        *((Details(f"{len(more):,} more examples", more, is_printed=False),) if more else ()),
    )


def _judged(answer: Answer) -> str:
    return "" if answer.correct is None else "right" if answer.correct else "wrong"

"""The page: its verdict in one sentence, its sections in order, and the one file it is written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heed import files
from heed.errors import UserError
from heed.report import curves, effort, examples, honesty, measured, settings
from heed.report.eval_runs import eval_facts, eval_notes, eval_sections, eval_verdict
from heed.report.measurements import Measurements
from heed.report.pair_runs import pair_section, pair_verdict
from heed.report.parts import Note, Section, capital, language, stage_name, words
from heed.report.policy_runs import policy_section, policy_verdict
from heed.report.preferences import gain_told, preference_section
from heed.report.read import Kind, RunRecords, read_runs
from heed.report.reward_runs import reward_section, reward_verdict
from heed.report.shapes import key
from heed.report.svg import percent, quantity

REPORT = "report.html"


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Draw the runs in these folders, and those in their sub-folders, on one self-contained page.

    Args:
        folders: one or more; training runs among them share their axes.
        out: the file, or an existing folder to put `report.html` in; the first of the folders if it is left out.

    Returns:
        The file that was written, whole: a reader sees the old page or the new one.

    Raises:
        UserError: a folder is no run, a record cannot be read, or the page cannot be written.
    """
    folders = [Path(folder) for folder in folders]
    runs = read_runs(folders)
    target = Path(out) if out is not None else folders[0]
    target = target / REPORT if target.is_dir() else target
    _write(target, page(runs))
    return target


def page(runs: Sequence[RunRecords]) -> str:
    """The whole page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["language"] = language
    environment.filters["key"] = key
    written = environment.get_template("report.html.jinja").render(
        title=title(runs),
        verdict=verdict(runs),
        facts=facts(runs),
        notes=unfinished_notes(runs),
        sections=sections(runs),
    )
    return written.lstrip()


def title(runs: Sequence[RunRecords]) -> str:
    """The run that was asked for, or how many are compared."""
    folders = {run.folder for run in runs}
    outer = [run for run in runs if run.folder.parent not in folders]
    return outer[0].name if len(outer) == 1 else f"{len(outer):,} runs compared"


def sections(runs: Sequence[RunRecords]) -> list[Section]:
    """Everything on the page below its head; what was not measured has no section."""
    with_measurements = [(run, run.measurements) for run in runs if run.measurements is not None]
    training = [run for run in runs if run.is_training]
    learning = [
        reward_section(_of_kind(runs, "reward")),
        pair_section(_of_kind(runs, "pairs")),
        policy_section(_of_kind(runs, "policy")),
    ]
    found: list[Section | None] = []
    for make in (measured.split_section, preference_section, examples.example_section):
        found += [make(each, _of(run, with_measurements)) for run, each in with_measurements]
    evaluated = [run for run in runs if run.evaluation is not None]
    for run in evaluated:
        found += eval_sections(run, _of(run, evaluated))
    found += [] if with_measurements else learning  # beside a demonstration's findings they are the details
    found.append(examples.sample_section(runs))
    for make in (honesty.honesty_section, measured.cost_section, measured.family_section):
        found += [make(each, _of(run, with_measurements)) for run, each in with_measurements]
    found += [curves.training_section(_of_kind(runs, "imitation")), *(learning if with_measurements else [])]
    found.append(effort.data_section(training))
    found += [effort.effort_section(runs), settings.settings_section(runs)]
    return _with_own_ids([section for section in found if section is not None])


def _of_kind(runs: Sequence[RunRecords], kind: Kind) -> list[RunRecords]:
    return [run for run in runs if run.is_training and run.kind == kind]


def _of(run: RunRecords, among: Sequence[Any]) -> str:
    return f": {run.name}" if len(among) > 1 else ""


def _with_own_ids(found: Sequence[Section]) -> list[Section]:
    """Sections that several runs have get an id each, so that links reach them."""
    ids = [section.id for section in found]
    return [
        replace(section, id=f"{section.id}-{before + 1}") if (before := ids[:i].count(section.id)) else section
        for i, section in enumerate(found)
    ]


def verdict(runs: Sequence[RunRecords]) -> str:
    """What came out, in plain words."""
    for run in runs:
        if run.measurements is not None and (said := measured_verdict(run.measurements)):
            return said
    found = [
        eval_verdict(runs),
        imitation_verdict(runs),
        reward_verdict(_of_kind(runs, "reward")),
        pair_verdict(_of_kind(runs, "pairs")),
        policy_verdict(_of_kind(runs, "policy")),
    ]
    return " ".join(filter(None, found)) or "Nothing has been measured yet."


def imitation_verdict(runs: Sequence[RunRecords]) -> str:
    """What became of the held-out loss of runs that imitate answers; empty where nothing was measured."""
    ended = [(run, curve) for run in runs if (curve := _held_out(run)) is not None]
    if not ended:
        return ""
    if len(ended) == 1:
        return trained_verdict(*ended[0])
    if len({_measured_on(run) for run, _ in ended}) > 1:
        return (
            "These runs were measured on different held-out data, so their losses do not compare: "
            + ", ".join(f"{run.name} {quantity(points[-1][1])}" for run, points in ended)
            + "."
        )
    ranked = sorted(ended, key=lambda pair: pair[1][-1][1])
    best, others = ranked[0], ranked[1:]
    return (
        f"{best[0].name} has the lowest held-out loss, {quantity(best[1][-1][1])} nats per token after "
        f"{best[1][-1][0]:,} steps; "
        + ", ".join(f"{run.name} {quantity(points[-1][1])}" for run, points in others)
        + "."
    )


def _measured_on(run: RunRecords) -> tuple[object, ...]:
    """What the held-out loss depends on besides the weights; other tokens or other data are another quantity."""
    settings = run.settings or {}
    held_out = tuple((each.path, each.counts.get("num_held_out")) for each in run.data)
    return (held_out, settings.get("model"), settings.get("template"), settings.get("max_length"))


def _held_out(run: RunRecords) -> list[tuple[int, float]] | None:
    """Step and held-out NLL of each finite measurement."""
    curve = run.curves.get("held_out", {}).get("nll_per_token")
    if curve is None or not len(curve.finite().steps):
        return None
    kept = curve.finite()
    return list(zip(kept.steps.tolist(), kept.values.tolist(), strict=True))


def measured_verdict(found: Measurements) -> str:
    """`The tuned model answers 83% of unseen items right; the base model 1%.`"""
    name = "unseen_items" if "unseen_items" in found.splits else next(iter(found.splits), "")
    scores = found.splits.get(name, {})
    stages = [stage for stage in found.stages if stage in scores]
    if not stages:
        return ""
    last, first = stages[-1], stages[0]
    if last == first:
        return f"{capital(stage_name(last))}: {percent(scores[last].value)} of {words(name)} answered right."
    subject = "tuned model" if last == "sft" else f"model {stage_name(last)}"
    few_shot = scores["base_few_shot"].value if "base_few_shot" in stages[1:-1] else None
    tuned = f"the tuned model {percent(scores['sft'].value)}, " if "sft" in stages[1:-1] else ""
    gained = gain_told(found.ppo) if found.ppo is not None else ""
    return (
        f"The {subject} answers {percent(scores[last].value)} of {words(name)} right; {tuned}the {stage_name(first)} "
        f"model {percent(scores[first].value)}"
        + (f", or {percent(few_shot)} with examples in its prompt." if few_shot is not None else ".")
        + gained
    )


def trained_verdict(run: RunRecords, points: Sequence[tuple[int, float]]) -> str:
    """`Held-out loss fell from 4.60 to 2.18 nats per token in 138 steps.`"""
    (first_step, first), (last_step, last) = points[0], points[-1]
    if last_step == first_step:
        return f"Held-out loss is {quantity(last)} nats per token at step {last_step:,}; nothing was measured after."
    moved = "stayed at" if quantity(first) == quantity(last) else "fell" if last < first else "rose"
    way = f" {quantity(last)}" if moved == "stayed at" else f" from {quantity(first)} to {quantity(last)}"
    said = f"Held-out loss {moved}{way} nats per token in {last_step - first_step:,} steps"
    best_step, best = min(points, key=lambda point: point[1])
    if best_step not in (first_step, last_step) and quantity(best) != quantity(last):
        return f"{said}; it was lowest, {quantity(best)}, at step {best_step:,}, and has risen since."
    return f"{said}."


def facts(runs: Sequence[RunRecords]) -> list[tuple[str, str]]:
    """What a reader needs to know which run this is."""
    rows: list[tuple[str, list[str]]] = [("model", []), ("data", []), ("steps", []), ("date", [])]
    found = dict(rows)
    for run in runs:
        if run.evaluation is not None:
            for name, value in eval_facts(run.evaluation):
                found[name].append(value)
            continue
        settings = run.settings or {}
        found["model"].append(Path(str(settings.get("model", ""))).name)
        found["data"] += [Path(each.path).name for each in run.data]
        if run.curves:
            found["steps"].append(f"{run.last_step:,}")
        found["date"].append(str(settings.get("date") or ""))
    return [(name, ", ".join(dict.fromkeys(filter(None, values)))) for name, values in rows if any(values)]


def unfinished_notes(runs: Sequence[RunRecords]) -> list[Note]:
    """What is missing, said at the top."""
    notes = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if not run.finished:
            where = (
                f"it stands at step {run.last_step:,}"
                if run.curves
                else "no step has been taken"
                if run.is_training
                else "what it has still to measure is not on this page"
            )
            notes.append(Note(f"{name}this run is not finished; {where}."))
        notes += [Note(f"{name}{note}.") for note in (*run.notes, *eval_notes(run))]
    return notes


def _write(target: Path, content: str) -> None:
    """Put the whole page in place of what was there."""
    try:
        files.write_text(target, content)
    except OSError as error:
        raise UserError(
            "the report cannot be written",
            where=str(target),
            found=error.strerror or str(error),
            expected="a folder in which this user may create files",
            fix="give another place: heed report RUN --out FILE.html",
        ) from error

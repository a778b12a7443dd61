"""Whether a way of choosing is better than chance: models tuned on growing choices, measured on held-out data.

    scores -> choices of every way, size and seed -> a small adapter tuned on each -> held-out loss or accuracy
           -> paired differences from choices at random, with intervals

Every tuning takes equally many steps, so that models differ in what they read and not in how long; `random` and
`longest` are always among the ways. Seeds change the tuning of every choice, and the choice itself of `random` alone.
What was measured stays in the folder, and the same command goes on from there.

A difference is paired: by seed, and by held-out record. It has two intervals, one over held-out records and one over
seeds, for either could have been others; what is told, and decides, is from the lower of the lower ends to the higher
of the higher ends. It takes a few seeds for the second to be narrow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heed import files
from heed.config import DataSource, SftSettings, dump, load_settings
from heed.data.files.places import files_at
from heed.data.read import read_comparable_with_fields
from heed.data_config import ALWAYS, DataSelectSettings, Way
from heed.dist.world import World
from heed.errors import UserError, typed
from heed.evaluate.answers import CHECKS
from heed.evaluate.comparison import DifferenceRow, compare_means
from heed.models.load import choose_device
from heed.recipes import sft
from heed.recipes.library.model import open_model
from heed.recipes.workshop.answered import Answered, Words, open_words, records_of, template_without_new_tokens
from heed.recipes.workshop.select import Scores, opened, order_of, raw_lines, refuse_too_few, scored
from heed.train.environment import environment
from heed.train.run import open_run
from heed.train.same_run import keep_content
from heed.types import Conversation, Finding, Message
from heed.workshop.choosing import Indices

CURVE = "curve.json"
MAX_ANSWER_TOKENS = 48
"""of an answer that is marked by the lab's rules"""
ADAPTER = {"lora.rank": 8, "batch_size": 16, "eval_every": 0, "save_every": 0, "keep_checkpoints": 1}
"""settings of heed sft for a tuning, where no --tuning says others"""


@dataclass(frozen=True, slots=True)
class Point:
    """One tuning: on so many records, chosen so, with this seed."""

    way: Way
    num_records: int
    seed: int

    def __str__(self) -> str:
        return f"{self.way}-{self.num_records}-{self.seed}"

    @property
    def choice(self) -> str:
        """The name of its data: that of one choice at random differs from seed to seed, any other does not."""
        return f"{self}.jsonl" if self.way == "random" else f"{self.way}-{self.num_records}.jsonl"


@dataclass(frozen=True, slots=True)
class Marked:
    """A held-out prompt of the lab, and the rule by which an answer to it is right."""

    prompt: tuple[Message, ...]
    rule: str
    accepted: tuple[str, ...]


def run(settings: DataSelectSettings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure every point that is not measured yet; return what `curve.json` holds.

    Raises:
        UserError: a size is above the number of records, the held-out data cannot be used, or the folder holds a curve
            of other settings or data.
    """
    ways: list[Way] = [*ALWAYS, *(way for way in settings.by if way not in ALWAYS)]
    free = {"print_json": False, "workers": None, "all_scores": None}
    config = dump(settings.model_copy(update=free))
    surroundings = environment(choose_device(settings.device), World())
    out = Path(settings.out)
    # A folder that is new is gone again after an error in this block, when nothing has been measured.
    with open_run(out, config, surroundings) as folder:
        sources = [*settings.data, *settings.eval_data]
        content = {f"content of {each.path}": content_of(each.path) for each in sources}
        keep_content(folder.folder, content)
        marked = questions_of_lab(settings.eval_data)
        chosen = out / "chosen"
        if not chosen.is_dir():
            if not marked:
                held_out(open_words(settings.model or "", settings.template, settings.trust_remote_code), settings)
            known = scored(settings, settings.data, ways, say)
            write_choices(chosen, known, ways, settings)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    points = [Point(way, size, seed) for size in settings.sizes() for way in ways for seed in seeds]
    measured: dict[Point, list[float]] = {}
    with contextlib.closing(open_run(out, config, surroundings)):
        for point in points:
            if (chosen / point.choice).is_file():
                measured[point] = value_of(point, settings, marked, say)
    drawn = as_drawn(settings, ways, measured, "accuracy" if marked else "loss")
    files.write_json(out / CURVE, drawn)
    return drawn


def content_of(path: str) -> str:
    """SHA-256 of the files of a data set; of none where it lies on the hub, whose name says which it is."""
    whole = hashlib.sha256()
    for file in files_at(path):
        with file.open("rb") as opened_file:
            whole.update(hashlib.file_digest(opened_file, "sha256").digest())
    return whole.hexdigest()


# ---- choices


def write_choices(folder: Path, known: Scores, ways: Sequence[Way], settings: DataSelectSettings) -> None:
    """Every choice as a file of its own, all of them or none; a way that leaves too many out has none of that size."""
    sizes = settings.sizes()
    refuse_too_few(known, sizes[-1], settings, "--budgets" if settings.budgets else "--budget")
    seeds = range(settings.seed, settings.seed + settings.seeds)
    orders: dict[tuple[Way, int], Indices] = {
        (way, seed): order_of(way, known, sizes[-1], settings, seed)
        for way in ways
        for seed in (seeds if way == "random" else seeds[:1])
    }
    names_of: dict[int, list[str]] = {}
    for (way, seed), order in orders.items():
        for size in sizes:
            for index in order[:size] if len(order) >= size else ():
                names_of.setdefault(int(index), []).append(Point(way, size, seed).choice)
    with files.new_folder(folder) as place, contextlib.ExitStack() as stack:
        names = sorted({name for each in names_of.values() for name in each})
        written = {name: stack.enter_context((place / name).open("w", encoding="utf-8")) for name in names}
        for index, line in raw_lines(settings.data, known, set(names_of)):
            for name in names_of[index]:
                written[name].write(line + "\n")


# ---- one point


def value_of(
    point: Point, settings: DataSelectSettings, marked: Sequence[Marked], say: Callable[[str], None]
) -> list[float]:
    """The measure of every held-out record after this tuning; tuned and measured unless that has been done."""
    out = Path(settings.out)
    path = out / "points" / f"{point}.json"
    if path.is_file():
        try:
            kept: list[float] = json.loads(path.read_text(encoding="utf-8"))["values"]
            return kept
        except (ValueError, KeyError) as error:
            raise UserError(
                "a measured point cannot be read",
                where=str(path),
                found=str(error),
                expected="the file as heed wrote it",
                fix=f"rm {typed(path)}, then the same command again",
            ) from error
    say(f"{point.way}, {point.num_records:,} records, seed {point.seed}")
    tuned = out / "runs" / str(point)
    sft.run(tuning_of(point, settings, tuned))
    values = accuracies(tuned, marked, settings) if marked else losses(tuned, settings, say)
    files.make_folder(path.parent)
    files.write_json(path, {"way": point.way, "num_records": point.num_records, "seed": point.seed, "values": values})
    files.remove_folder(tuned)
    return values


def tuning_of(point: Point, settings: DataSelectSettings, out: Path) -> SftSettings:
    """Settings of `heed sft` for a point."""
    ours: dict[str, object] = {
        "model": settings.model,
        "data": [{"path": str(Path(settings.out) / "chosen" / point.choice), "columns": columns_of(settings.data)}],
        "out": str(out),
        "seed": point.seed,
        "held_out_share": 0,
        "template": template_without_new_tokens(settings.model or "", settings.template, settings.trust_remote_code),
        "device": settings.device,
        "trust_remote_code": settings.trust_remote_code,
    }
    if settings.tuning is None:
        ours |= {**ADAPTER, "steps": settings.steps, "dtype": settings.dtype, "max_tokens": settings.max_tokens}
    return load_settings(SftSettings, settings.tuning, ours)


def columns_of(sources: Sequence[DataSource]) -> dict[str, str]:
    """The columns of all data sets, whose records stand in one file for a tuning."""
    return {name: column for source in sources for name, column in source.columns.items()}


def losses(tuned: Path, settings: DataSelectSettings, say: Callable[[str], None]) -> list[float]:
    """Mean NLL of the answers' tokens of every held-out record, in nats."""
    words = open_words(str(tuned), None, settings.trust_remote_code)
    records = held_out(words, settings)
    asked = opened(settings, str(tuned), words, say)
    return [each.after_prompt for each in asked.nll(records, with_alone=False)]


def held_out(words: Words, settings: DataSelectSettings) -> list[Answered]:
    """All held-out records.

    Raises:
        UserError: there are none, or one cannot be used: what is held out is measured, all of it.
    """
    records = []
    for item in records_of(settings.eval_data, words, 1, Counter()):
        if isinstance(item, Finding):
            raise item.error()
        records.append(item)
    if not records:
        raise UserError(
            "there are no held-out records",
            where=", ".join(source.path for source in settings.eval_data),
            found="a data set that is empty",
            expected="records with answers",
            fix="--eval-data TEST.jsonl",
        )
    return records


def accuracies(tuned: Path, marked: Sequence[Marked], settings: DataSelectSettings) -> list[float]:
    """1 for every question of the lab that the tuned model answers rightly, 0 for any other."""
    model = open_model(str(tuned), template=None, device=settings.device, dtype=settings.dtype)
    prompts = [[{"role": m.role, "content": m.content} for m in each.prompt] for each in marked]
    answers = model.answers(prompts, max_new_tokens=MAX_ANSWER_TOKENS)
    return [float(CHECKS[each.rule](text, each.accepted)) for each, text in zip(marked, answers, strict=True)]


def questions_of_lab(sources: Sequence[DataSource]) -> list[Marked]:
    """Held-out records with the rules by which heed's lab marks answers; none unless every record has its own."""
    found = []
    for source in sources:
        for item in read_comparable_with_fields(source.path, source.columns):
            noun, raw = (None, {}) if isinstance(item, Finding) else item
            if not isinstance(noun, Conversation):
                return []
            rule, accepted = raw.get("rule"), raw.get("accepted")
            if rule not in CHECKS or not isinstance(accepted, list) or not noun.messages[:-1]:
                return []
            found.append(Marked(noun.messages[:-1], str(rule), tuple(map(str, accepted))))
    return found


# ---- the curve


def as_drawn(
    settings: DataSelectSettings, ways: Sequence[Way], measured: dict[Point, list[float]], measure: str
) -> dict[str, Any]:
    """Every point's mean and its difference from chance, in numbers and in words."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    points = []
    for size in settings.sizes():
        for way in ways:
            found = [measured[point] for seed in seeds if (point := Point(way, size, seed)) in measured]
            if len(found) == len(seeds):
                chance = [measured[Point("random", size, seed)] for seed in seeds]
                points.append(point_of(way, size, np.array(found), np.array(chance), measure))
    count = len(next(iter(measured.values())))
    sign = "mean NLL per token of a record" if measure == "loss" else "share of answers that are right"
    title = f"held-out {measure} ({sign}) over {count:,} records and {len(seeds)} seeds"
    return {
        "title": title,
        "measure": measure,
        "ways": list(ways),
        "seeds": list(seeds),
        "num_held_out": count,
        "points": points,
        "notes": notes_of(settings, ways, points),
    }


def point_of(way: Way, size: int, found: np.ndarray, chance: np.ndarray, measure: str) -> dict[str, Any]:
    """A way at a size beside chance, both (seeds, records); a difference above 0 is in favour of the way."""
    value = float(found.mean())
    told: dict[str, Any] = {"way": way, "num_records": size, "value": value, "of_seeds": found.mean(axis=1).tolist()}
    if way == "random":
        return {**told, "told": f"{value:.4g}"}
    sign = -1.0 if measure == "loss" else 1.0
    over_records = compare_means(measure, (sign * found).T.tolist(), (sign * chance).T.tolist())
    over_seeds = compare_means(measure, (sign * found).tolist(), (sign * chance).tolist())
    low, high = hull(over_records, over_seeds)
    verdict = "not better than random"
    if low is not None and low > 0:
        verdict = "better than random"
    elif high is not None and high < 0:
        verdict = "worse than random"
    interval = "" if low is None else f" [{low:+.3g}, {high:+.3g}]"
    difference = over_records.difference
    return {
        **told,
        "difference": difference,
        "low": low,
        "high": high,
        "over_records": [over_records.low, over_records.high],
        "over_seeds": [over_seeds.low, over_seeds.high],
        "verdict": verdict,
        "told": f"{value:.4g}: {verdict}, {difference:+.3g}{interval}",
    }


def hull(*rows: DifferenceRow) -> tuple[float | None, float | None]:
    """From the lowest lower end to the highest upper end; unknown where one of the intervals is."""
    lows, highs = [row.low for row in rows], [row.high for row in rows]
    if any(end is None for end in (*lows, *highs)):
        return None, None
    return min(end for end in lows if end is not None), max(end for end in highs if end is not None)


def notes_of(settings: DataSelectSettings, ways: Sequence[Way], points: Sequence[dict[str, Any]]) -> list[str]:
    """What the curve says of each way, and of itself."""
    notes = []
    for way in ways:
        mine = {point["num_records"]: point for point in points if point["way"] == way}
        lacking = [f"{size:,}" for size in settings.sizes() if size not in mine]
        if lacking:
            notes.append(f"{way}: no choice of {', '.join(lacking)} records, for it leaves too many out")
        if way == "random":
            continue
        for verdict in ("better than random", "not better than random", "worse than random"):
            sizes = [f"{size:,}" for size, point in mine.items() if point["verdict"] == verdict]
            if sizes:
                notes.append(f"{way}: {verdict} at {', '.join(sizes)} records")
    num_tests = sum(1 for point in points if point["way"] != "random")
    notes.append(
        "differences are from random, positive in the way's favour, with 95% intervals over records and seeds both; "
        f"of {num_tests} such intervals about one in 20 misses by chance"
    )
    return notes

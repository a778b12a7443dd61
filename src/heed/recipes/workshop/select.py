"""Choose records for tuning: by what a model makes of their answers, by how much they say, or at random.

records -> tokens -> losses and states, some at a time -> an order -> the first of it, as they stood, and all scores

What is held is numbers: a record's texts and tokens are gone once it has been scored, and the chosen are read again.

    IFD(record) = NLL per token of the answer after its prompt / NLL per token of the answer alone

is how little the prompt helps with the answer; above 1 it hinders, and such a record is never chosen by it. The model
reads records as tuning would show them to it, and asks for the tokens that tuning would train: in a conversation of
several turns all of its answers, and what ends an answer, too. Alone an answer stands behind the tokenizer's BOS, or
its end of text where it has no BOS; where it has neither, the first token of an answer takes no part in either mean.

Source: Li et al. 2023, arXiv:2308.12032, equations 1 to 3, for IFD; Zhao et al. 2024, arXiv:2402.04833, for `longest`.
Differs from the source: IFD is by the user's own model as it is; there it is first tuned for a while on a few records.
`deita` is Liu et al. 2024, arXiv:2312.15685, in its selection alone. Its scores there come from two scorers that were
trained on a large model's judgements. Here IFD stands in for complexity and the tokens of the answer for quality, both
of which the two go along with in part, and nobody's judgement is in it: of what is true or well written it knows
nothing.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heed import files
from heed.config import DataSource
from heed.data.files.json_stream import Unusable
from heed.data.files.places import raws_at
from heed.data_config import NEED_MODEL, DataSelectSettings, Way
from heed.errors import UserError, typed
from heed.recipes.workshop.answered import Answered, open_words, records_of
from heed.recipes.workshop.check import new_lines
from heed.recipes.workshop.mend import written
from heed.recipes.workshop.outputs import refuse_one_name, refuse_taken
from heed.types import Finding, Origin
from heed.workshop.choosing import Indices, at_random, farthest_first, highest_first, unlike_first

if TYPE_CHECKING:
    from heed.recipes.workshop.losses import Asked

TOKENS_AT_A_TIME = 2_000_000
"""of the records that are scored together: what they share is computed once, and their tokens are held meanwhile"""
NO_PROMPT = "plain text answers no prompt"


@dataclass(slots=True)
class Scores:
    """What is known of every usable record, in their order."""

    paths: dict[str, int] = field(default_factory=dict)
    """file -> its number"""
    file: array[int] = field(default_factory=lambda: array("q"))
    """which file a record is of"""
    record: array[int] = field(default_factory=lambda: array("q"))
    """its number there"""
    lengths: array[int] = field(default_factory=lambda: array("q"))
    """tokens of its answers, or characters without a model"""
    unit: str = "characters"
    nll: array[float] = field(default_factory=lambda: array("d"))
    nll_alone: array[float] = field(default_factory=lambda: array("d"))
    embeddings: np.ndarray | None = None
    """(n, width) float32 of length 1"""
    unusable: Counter[str] = field(default_factory=Counter)
    """problem -> records"""
    first_unusable: dict[str, Finding] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    """what the readers put right, in words, and how often"""

    def __len__(self) -> int:
        return len(self.record)

    @property
    def ifd(self) -> np.ndarray:
        """(n,) mean NLL after the prompt over mean NLL alone; NaN where it is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array(self.nll) / np.array(self.nll_alone) if self.nll else np.full(len(self), np.nan)

    def origin(self, index: int) -> Origin:
        """Where a record stands."""
        return Origin(next(islice(self.paths, self.file[index], None)), self.record[index])

    def add(self, item: Answered, length: int) -> None:
        """Take in a record."""
        self.file.append(self.paths.setdefault(item.origin.path, len(self.paths)))
        self.record.append(item.origin.record)
        self.lengths.append(length)

    def leave_out(self, finding: Finding) -> None:
        """Count a record that cannot be used."""
        self.unusable[finding.problem] += 1
        self.first_unusable.setdefault(finding.problem, finding)

    def line(self, index: int) -> dict[str, Any]:
        """A record's numbers."""
        origin = self.origin(index)
        told: dict[str, Any] = {"file": origin.path, "record": origin.record, self.unit: self.lengths[index]}
        if self.nll:
            told |= {
                "nll": self.nll[index],
                "nll_alone": self.nll_alone[index],
                "ifd": self.nll[index] / self.nll_alone[index] if self.nll_alone[index] else None,
            }
        return told


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was done."""

    out: Path
    scores: Path
    by: Way
    budget: int
    num_chosen: int
    known: Scores
    num_above_1: int = 0
    """records whose IFD is above 1, which are dropped"""

    def as_json(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        counts = {"num_records": len(self.known), "num_chosen": self.num_chosen, "num_ifd_above_1": self.num_above_1}
        return {"out": str(self.out), "by": self.by, **counts, "unusable": dict(self.known.unusable)}


def run(settings: DataSelectSettings, say: Callable[[str], None] = lambda line: None) -> Chosen:
    """Choose, and write what was chosen and its scores.

    Raises:
        UserError: the budget is above the number of records, the model cannot be read, or a file is there already.
    """
    out, way = Path(settings.out), settings.by[0]
    if not out.name.endswith(".jsonl"):
        raise UserError(
            "the kind of file to write is not known",
            where="--out",
            found=settings.out,
            expected="a name that ends in .jsonl",
            fix=f"--out {typed(settings.out.rstrip('/') + '.jsonl')}",
        )
    beside = out.with_name(f"{out.name.removesuffix('.jsonl')}.scores.jsonl")
    refuse_taken("--out", out, beside)
    if settings.all_scores is not None:
        refuse_taken("--all-scores", Path(settings.all_scores))
        for each in (out, beside):
            refuse_one_name(("--out", each), ("--all-scores", Path(settings.all_scores)))
    files.refuse_unwritable(out)
    known = scored(settings, settings.data, (way,), say)
    refuse_too_few(known, settings.budget, settings)
    order = order_of(way, known, settings.budget, settings)
    places = {int(index): place for place, index in enumerate(order[: settings.budget], 1)}
    with (
        new_lines(settings.all_scores) as everything,
        files.new_files(out.absolute().parent, [beside.name, out.name]) as folder,
        (folder / beside.name).open("w", encoding="utf-8") as scores,
        (folder / out.name).open("w", encoding="utf-8") as file,
    ):
        for index, line in raw_lines(settings.data, known, set(places)):
            file.write(line + "\n")
            scores.write(_as_text({**known.line(index), "place": places[index]}))
        for index in range(len(known)) if everything is not None else ():
            assert everything is not None
            everything.write(_as_text({**known.line(index), "place": places.get(index)}))
    above = int((known.ifd > 1).sum()) if known.nll else 0
    return Chosen(out, beside, way, settings.budget, len(places), known, above)


def _as_text(line: dict[str, Any]) -> str:
    """A line of JSON, in which a number that is none is null."""
    plain = {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in line.items()}
    return json.dumps(plain, ensure_ascii=False) + "\n"


def scored(
    settings: DataSelectSettings,
    sources: Sequence[DataSource],
    ways: Sequence[Way],
    say: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Everything that these ways of choosing look at, of every usable record."""
    known = Scores()
    words, asked = None, None
    if settings.model is not None:
        words = open_words(settings.model, settings.template, settings.trust_remote_code, say)
        known.unit = "tokens"
    if words is not None and any(way in NEED_MODEL for way in ways):
        asked = opened(settings, settings.model or "", words, say)
    with_loss = bool({"ifd", "deita"} & set(ways))
    with_states = bool({"k-center", "deita"} & set(ways))
    embeddings: list[np.ndarray] = []
    waiting: list[Answered] = []

    def work() -> None:
        if asked is not None and waiting:
            if with_loss:
                found = asked.nll(waiting)
                known.nll.extend(each.after_prompt for each in found)
                known.nll_alone.extend(each.alone for each in found)
            if with_states:
                embeddings.append(asked.embeddings(waiting))
        waiting.clear()

    num_tokens = 0
    for item in records_of(sources, words, settings.workers, known.notes):
        found = _unfit(item, with_loss)
        if found is not None:
            known.leave_out(found)
            continue
        assert isinstance(item, Answered)
        known.add(item, item.num_tokens if words is not None else item.num_characters)
        if asked is not None:
            waiting.append(item)
            num_tokens += sum(map(len, item.sequences))
            if num_tokens > TOKENS_AT_A_TIME:
                work()
                num_tokens = 0
    work()
    if embeddings:
        known.embeddings = np.concatenate(embeddings)
    return known


def _unfit(item: Answered | Finding, with_loss: bool) -> Finding | None:
    """Why a record cannot be scored, or None."""
    if isinstance(item, Finding):
        return item
    if with_loss and item.is_text:
        return Finding(NO_PROMPT, item.origin, "a document", "a prompt with an answer", "--by longest or k-center")
    return None


def opened(settings: DataSelectSettings, model: str, words: Any, say: Callable[[str], None]) -> Asked:
    """A model in memory, to put answers to."""
    # Imported late, because torch takes seconds, and only who names a model needs it.
    from heed.recipes.workshop.losses import open_asked

    return open_asked(
        model,
        words,
        device=settings.device,
        dtype=settings.dtype,
        max_tokens=settings.max_tokens,
        trust_remote_code=settings.trust_remote_code,
        say=say,
    )


def refuse_too_few(known: Scores, budget: int, settings: DataSelectSettings, option: str = "--budget") -> None:
    """Raise where more records are asked for than can be used."""
    if budget <= len(known):
        return
    where = ", ".join(source.path for source in settings.data)
    unusable = sum(known.unusable.values())
    if not len(known):
        first = next(iter(known.first_unusable.values()), None)
        raise UserError(
            "there are no records to choose from",
            where=where if first is None else str(first.origin),
            found="a data set that is empty" if first is None else f"{unusable:,} unusable records: {first.problem}",
            expected="records with answers",
            fix="heed show DATA.jsonl shows what heed reads of a data set" if first is None else first.fix,
        )
    raise UserError(
        "the budget is above the number of records",
        where=f"{option}, {where}",
        found=f"{option} {budget:,} of {len(known):,} records" + (f" and {unusable:,} unusable" if unusable else ""),
        expected=f"at most {len(known):,}",
        fix=f"{option} {len(known)}",
    )


def order_of(way: Way, known: Scores, budget: int, settings: DataSelectSettings, seed: int | None = None) -> Indices:
    """The records that a way chooses, the first first: as many as the budget, or fewer where it leaves others out."""
    if way == "random":
        return at_random(len(known), settings.seed if seed is None else seed)[:budget]
    if way == "longest":
        return highest_first(np.array(known.lengths, dtype=np.float64))[:budget]
    if way == "ifd":
        return highest_first(known.ifd, at_most=1.0)[:budget]
    assert known.embeddings is not None
    if way == "k-center":
        return farthest_first(known.embeddings, budget)
    value = np.where(known.ifd <= 1, known.ifd * np.array(known.lengths), np.nan)
    return unlike_first(highest_first(value), known.embeddings, budget, settings.threshold)


def raw_lines(sources: Sequence[DataSource], known: Scores, chosen: set[int]) -> Iterator[tuple[int, str]]:
    """The chosen records as lines of JSON, in their order, read again as they stand in their files."""
    indices = iter(sorted(chosen))
    waiting = next(indices, None)
    for source in sources:
        for origin, raw in raws_at(source.path, Counter()):
            if waiting is None:
                return
            if known.origin(waiting) != origin:
                continue
            if isinstance(raw, Unusable):
                break
            yield waiting, written(raw, origin)
            waiting = next(indices, None)
    if waiting is not None:
        raise UserError(
            "the data changed while it was read",
            where=str(known.origin(waiting)),
            found="no such record, where there was one",
            expected="files that nobody writes to meanwhile",
            fix="the same command again",
        )

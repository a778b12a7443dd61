"""The data sets of a run: prepared once into its folder, then drawn from in an order that is a pure function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from heed import files
from heed.config import DataSource
from heed.data.files.places import files_at
from heed.data.mixture import DatasetShare, draw_order, draws_per_epoch
from heed.data.prepare import (
    Account,
    Preparation,
    PreparedSet,
    TooLong,
    account_json,
    left_out_lines,
    open_prepared,
    prepare,
)
from heed.data.store import TokenStore, fingerprint
from heed.data.wordings import draw
from heed.dist.world import World
from heed.errors import UserError
from heed.models.load import num_positions
from heed.recipes.training.content import (
    data_content,
    known_content,
    refuse_other_content,
    words_content,
    write_content,
)
from heed.recipes.training.first_look import first_look
from heed.recipes.training.measured import MeasuredRecords, measured_records
from heed.recipes.training.setup import Opened
from heed.recipes.training.splits import Sides, sides_of
from heed.train.progress import Progress
from heed.types import Tokens

ACCOUNT, LEFT_OUT = "account.json", "left_out.jsonl"
"""files beside a data set's tokens: what became of its records, and which were left out or cut"""

Plan = list[tuple[DataSource, Preparation, str]]
"""data sets, what is done with the records of each, and the name of its folder"""

Prepare = Callable[[DataSource, Path, Preparation, str, Callable[[int], None]], Account]
"""(data set, folder, preparation, fingerprint, progress) -> what became of its records"""


class AnswerSettings(Protocol):
    """What the settings of a recipe that learns from given answers say of its data."""

    @property
    def max_length(self) -> int | None: ...
    @property
    def too_long(self) -> TooLong: ...
    @property
    def max_bad_records(self) -> float: ...
    @property
    def held_out_share(self) -> float: ...


class LengthSettings(Protocol):
    """What the settings of a recipe that learns from given answers say of how long it learns."""

    @property
    def steps(self) -> int | None: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def batch_size(self) -> int: ...


def draws_of_run(settings: LengthSettings, draws_in_epoch: int) -> int:
    """Records that a run draws: whole passes over the data, or whole steps."""
    if settings.epochs is not None:
        return draws_in_epoch * settings.epochs
    return (settings.steps or 0) * settings.batch_size


class DataSet(Protocol):
    """A prepared data set, whatever it holds."""

    @property
    def path(self) -> str: ...
    @property
    def training(self) -> np.ndarray: ...
    @property
    def held_out(self) -> np.ndarray: ...


@dataclass(eq=False)
class Draws:
    """The order in which records are drawn from data sets."""

    shares: tuple[DatasetShare, ...]
    seed: int
    _order: tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
    """the epoch that is being drawn, and its draws"""

    @property
    def in_epoch(self) -> int:
        """Draws of one epoch."""
        return sum(draws_per_epoch(self.shares))

    def of_step(self, step: int, batch_size: int, num_draws: int) -> Iterator[tuple[int, int, int]]:
        """(data set, place among its training records, visit) of the draws of a step (from 1).

        These are draws [(step - 1) * batch_size, step * batch_size) of the run. A pure function of its arguments: a
        resumed run needs no state but the step. The last step of a run may hold fewer, so that every epoch is whole.
        """
        for position in range((step - 1) * batch_size, min(step * batch_size, num_draws)):
            epoch, place = divmod(position, self.in_epoch)
            if self._order is None or self._order[0] != epoch:
                self._order = (epoch, draw_order(self.shares, self.seed, epoch))
            dataset, record, visit = (int(column[place]) for column in self._order[1])
            yield dataset, record, visit

    def drawn(self, num_draws: int) -> list[np.ndarray]:
        """For each data set, the places among its training records that a run of so many draws comes to, ascending."""
        seen = [np.zeros(share.num_records, dtype=np.bool_) for share in self.shares]
        for epoch in range(-(-num_draws // self.in_epoch)):
            dataset, record, _ = draw_order(self.shares, self.seed, epoch)
            first = slice(num_draws - epoch * self.in_epoch)
            for number, of_set in enumerate(seen):
                of_set[record[first][dataset[first] == number]] = True
            if all(of_set.all() for of_set in seen):
                break
        return [np.flatnonzero(of_set) for of_set in seen]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Data sets and how often each is drawn."""

    sets: tuple[PreparedSet, ...]
    draws: Draws

    @property
    def draws_in_epoch(self) -> int:
        """Conversations in one epoch."""
        return self.draws.in_epoch

    def batch(self, step: int, batch_size: int, num_draws: int) -> list[tuple[Tokens, ...]]:
        """The conversations of a step (from 1) of a run of `num_draws`: a pure function, as `Draws.of_step` is."""
        chosen = []
        for dataset, record, visit in self.draws.of_step(step, batch_size, num_draws):
            prepared = self.sets[dataset]
            at = int(prepared.training[record])
            chosen.append(prepared.conversation(at, draw(self.draws.seed, at, visit, prepared.num_wordings(at))))
        return chosen


@dataclass(frozen=True, eq=False)
class Data:
    """What a run trains on and what it measures itself on."""

    training: Mixture
    held_out: dict[str, list[tuple[Tokens, ...]]]
    """the conversations that are measured, by data set"""
    longest: int
    """tokens of the longest record"""
    num_held_out: int = 0
    """conversations held out, of which those are measured"""

    @property
    def num_measured(self) -> int:
        """Conversations that are measured."""
        return sum(map(len, self.held_out.values()))


def prepare_data(
    sources: tuple[DataSource, ...],
    eval_sources: tuple[DataSource, ...],
    folder: Path,
    preparation: Preparation,
    *,
    seed: int,
    eval_limit: int,
    settings: str,
    world: World,
) -> Data:
    """Prepare every data set that is not yet prepared in the run's folder, and say what became of its records.

    Args:
        folder: of the run; prepared data goes to its `data`, the account to `data.json` and `left_out.jsonl`.
        eval_limit: held-out conversations of a data set that are measured at most, 0 for all.
        settings: all that preparation depends on besides the files, as text.
    """
    sides = sides_of(sources, eval_sources)
    plan = plan_of(sides, preparation)
    folders = [folder / "data" / name for _, _, name in plan]

    world.on_first(lambda: prepare_all(plan, folder, settings, _prepare_conversations, sides.told))
    opened = [open_prepared(source.path, to) for (source, _, _), to in zip(plan, folders, strict=True)]
    training = opened[: len(sources)]
    to_measure = [(each, to) for each, to in zip(opened, folders, strict=True) if len(each.held_out)]
    for prepared, to in zip(training, folders, strict=False):
        refuse_nothing_left(prepared, to, longer="--too-long truncate, or where the model reads more, --max-length")
    measured = [
        measured_records(name, to, each.held_out, eval_limit, each.conversation)
        for name, (each, to) in zip(short_names([each for each, _ in to_measure]), to_measure, strict=True)
    ]
    world.on_first(lambda: account_for(folder, folders, measured))
    held_out = {
        chosen.name: [
            each.conversation(int(i), draw(seed, int(i), 0, each.num_wordings(int(i)))) for i in chosen.records
        ]
        for chosen, (each, _) in zip(measured, to_measure, strict=True)
    }
    longest = max(int(prepared.store.num_tokens.max()) for prepared in training)
    mixture = Mixture(tuple(training), draws_from(training, sources, seed))
    num_held_out = sum(chosen.num_held_out for chosen in measured)
    return Data(mixture, {k: v for k, v in held_out.items() if v}, longest, num_held_out)


def _prepare_conversations(
    source: DataSource, to: Path, preparation: Preparation, mark: str, progress: Callable[[int], None]
) -> Account:
    return prepare(
        source.path, source.wordings, to, preparation, fingerprint=mark, columns=source.columns, progress=progress
    )


# ---- what data sets of all kinds have in common


def preparation_of(settings: AnswerSettings, opened: Opened) -> Preparation:
    """What is done with every record of a run that learns from given answers.

    Raises:
        UserError: `max_length` is more than the model has positions, which cannot be meant.
    """
    limit = num_positions(opened.loaded.model)
    if settings.max_length is not None and limit is not None and settings.max_length > limit:
        raise UserError(
            "max_length is more than the model can read",
            where="--max-length",
            found=f"{settings.max_length:,} tokens",
            expected=f"at most {limit:,}, the model's positions",
            fix=f"--max-length {limit}, or leave it out",
        )
    return Preparation(
        template=opened.template,
        tokenizer=opened.tokenizer,
        max_length=settings.max_length or limit,
        too_long=settings.too_long,
        max_bad_records=settings.max_bad_records,
        held_out_share=settings.held_out_share,
        limited_by=None if settings.max_length is None else "--max-length",
    )


def plan_of(sides: Sides, preparation: Preparation, prefix: str = "") -> Plan:
    """Data sets to train on, then those to measure on; one of which something else is measured holds nothing out.

    Args:
        prefix: of the folders' names, so that a run may hold data of several kinds.
    """
    without, alone = replace(preparation, held_out_share=0.0), replace(preparation, held_out_share=1.0)
    plan = [
        (source, preparation if is_held_out else without, f"{prefix}train-{i}")
        for i, (source, is_held_out) in enumerate(zip(sides.training, sides.held_out, strict=True))
    ]
    return plan + [(source, alone, f"{prefix}eval-{i}") for i, source in enumerate(sides.measured)]


def prepare_all(plan: Plan, folder: Path, settings: str, prepare_one: Prepare, told: Mapping[str, str]) -> None:
    """Prepare what is not prepared yet in a run's folder, and say what became of its records.

    Args:
        settings: all that preparation depends on besides the files, as text.
        told: path -> what else is to be said of that data set.
    """
    for source, preparation, name in plan:
        target = folder / "data" / name
        content = data_content(files_of(source), target)
        depends_on = {
            "settings": settings,
            "source": [each[:2] for each in content] or source.path,
            "columns": source.columns,
            "share": preparation.held_out_share,
            "words": words_content(preparation.template, preparation.tokenizer),
        }
        mark = fingerprint(depends_on)
        was_prepared = (target / ACCOUNT).exists()
        if was_prepared:
            refuse_other_content(source.path, content, known_content(target))
        if was_prepared and TokenStore.matching(target, mark) is not None:
            continue
        with Progress("reading", unit="records") as progress:
            if was_prepared:
                progress.say(f"{source.path} was prepared by another version of heed: it is read again")
            account = prepare_one(source, target, preparation, mark, progress.update)
            if source.path in told:
                account.noticed[told[source.path]] = 1
            account.notes += first_look(source)
        for line in account.lines(preparation.max_length, preparation.too_long):
            progress.say(line)
        files.write_lines(target / LEFT_OUT, left_out_lines(account))
        write_content(target, content)
        files.write_json(target / ACCOUNT, account_json(account))  # last: it says that the rest is there


def files_of(source: DataSource) -> list[Path]:
    """The files on this machine that a data set is read from, and that of its wordings."""
    return [file for path in (source.path, source.wordings) if path is not None for file in files_at(path)]


def account_for(folder: Path, prepared: Sequence[Path], measured: Sequence[MeasuredRecords]) -> None:
    """Say and write down what is measured, and what became of the records of all data sets.

    `data.json` has the numbers, `left_out.jsonl` which records were left out or cut.
    """
    speaker = Progress("")
    for each in measured:
        account = json.loads((each.folder / ACCOUNT).read_text(encoding="utf-8"))
        if account.get("num_measured") != len(each.records):
            files.write_json(each.folder / ACCOUNT, {**account, "num_measured": len(each.records)})
        if each.line is not None:
            speaker.say(each.line)
    accounts = [json.loads((each / ACCOUNT).read_text(encoding="utf-8")) for each in prepared]
    files.write_json(folder / "data.json", accounts)
    files.write_lines(folder / LEFT_OUT, chain.from_iterable(map(_lines_of, prepared)))


def _lines_of(prepared: Path) -> Iterator[str]:
    """The lines that say which records of a prepared data set were left out."""
    with (prepared / LEFT_OUT).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def draws_from(training: Sequence[DataSet], sources: Sequence[DataSource], seed: int) -> Draws:
    """How often, and in what order, records are drawn from the data sets that were prepared from these sources."""
    shares = (
        DatasetShare(len(prepared.training), source.weight, source.cap)
        for prepared, source in zip(training, sources, strict=True)
    )
    return Draws(tuple(shares), seed)


def short_names(prepared: Sequence[DataSet]) -> list[str]:
    """A name for each data set: the last part of its path, numbered where two are the same."""
    names = [Path(each.path).name for each in prepared]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def refuse_nothing_left(prepared: DataSet, folder: Path, *, longer: str) -> None:
    """A data set from which no record can be drawn is a mistake.

    Args:
        prepared: the data set.
        folder: where it was prepared, with the account of what became of its records.
        longer: options that keep records which are too long, in words.
    """
    if len(prepared.training):
        return
    account = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
    too_long = account["num_too_long"]
    held_out = len(prepared.held_out)
    cures = [
        longer if too_long else "",
        "--held-out-share 0" if held_out else "",
        "" if too_long or held_out else "heed show --limit 0 says what is wrong with each",
    ]
    raise UserError(
        "no records are left to train on",
        where=prepared.path,
        found=f"of {account['num_records']:,} records {too_long:,} too long, {held_out:,} held out, none to train on",
        expected="at least one record for training",
        fix="; or ".join(filter(None, cures)),
    )

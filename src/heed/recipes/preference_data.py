"""Rankings, judged answers and prompts of a run: prepared once, then drawn in an order that is a pure function."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from heed.config import DataSource
from heed.data.mixture import DatasetShare, draw_order, draws_per_epoch
from heed.data.preferences import (
    JudgedTokens,
    RankedTokens,
    open_judged,
    open_rankings,
    prepare_judged,
    prepare_rankings,
)
from heed.data.prepare import Account, Preparation, account_json, left_out_lines
from heed.data.prompts import PromptTokens, open_prompts, prepare_prompts
from heed.data.store import TokenStore, fingerprint
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.datasets import ACCOUNT, LEFT_OUT, MAX_MEASURED, files_of
from heed.train import files
from heed.train.progress import Progress

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Items(Generic[Item]):
    """One prepared data set, whatever it holds."""

    path: str
    at: Callable[[int], Item]
    """the item of a record"""
    training: np.ndarray
    """records to train on"""
    held_out: np.ndarray
    """records to measure on"""
    longest: int
    """tokens of the longest record, over its sequences; 0 where there is none"""


@dataclass(eq=False)
class PreferenceData(Generic[Item]):
    """What a run trains on and what it measures itself on: data sets, and how often each is drawn."""

    sets: tuple[Items[Item], ...]
    shares: tuple[DatasetShare, ...]
    seed: int
    held_out: dict[str, list[Item]]
    """at most `MAX_MEASURED` items by data set"""
    _order: tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
    """the epoch that is being drawn, and its draws"""

    @property
    def draws_in_epoch(self) -> int:
        """Items in one epoch."""
        return sum(draws_per_epoch(self.shares))

    @property
    def longest(self) -> int:
        """Tokens of the longest record, over its sequences."""
        return max(each.longest for each in self.sets)

    def batch(self, step: int, batch_size: int, num_draws: int) -> list[Item]:
        """The items of a step (from 1): draws [(step - 1) * batch_size, step * batch_size) of the run.

        A pure function of its arguments: a resumed run needs no state but the step. The last step of a run
        may hold fewer, so that every epoch is whole.
        """
        chosen = []
        for position in range((step - 1) * batch_size, min(step * batch_size, num_draws)):
            epoch, place = divmod(position, self.draws_in_epoch)
            dataset, record, _ = (column[place] for column in self._draws(epoch))
            items = self.sets[dataset]
            chosen.append(items.at(int(items.training[record])))
        return chosen

    def _draws(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, draw_order(self.shares, self.seed, epoch))
        return self._order[1]


@dataclass(frozen=True, eq=False)
class Kind(Generic[Item]):
    """How data of one kind is prepared and opened."""

    name: str
    """of its folders, so that one run may hold several kinds"""
    prepare: Callable[..., Account]
    """(path, folder, preparation, *, fingerprint, progress)"""
    open: Callable[[str, Path], Items[Item]]
    is_cut: bool = True
    """whether what is too long can be cut, and not only left out"""


def _ranking_items(path: str, folder: Path) -> Items[RankedTokens]:
    found = open_rankings(path, folder)
    return Items(path, found.ranking, found.training, found.held_out, int(found.store.num_tokens.max(initial=0)))


def _judged_items(path: str, folder: Path) -> Items[JudgedTokens]:
    found = open_judged(path, folder)
    return Items(path, found.judged, found.training, found.held_out, int(found.store.num_tokens.max(initial=0)))


def _prompt_items(path: str, folder: Path) -> Items[PromptTokens]:
    found = open_prompts(path, folder)
    return Items(path, found.prompt, found.training, found.held_out, int(found.store.num_tokens.max(initial=0)))


RANKINGS = Kind("rankings", prepare_rankings, _ranking_items)
JUDGED = Kind("judged", prepare_judged, _judged_items)
PROMPTS = Kind("prompts", prepare_prompts, _prompt_items, is_cut=False)


def prepare_preference_data(
    kind: Kind[Item],
    sources: tuple[DataSource, ...],
    eval_sources: tuple[DataSource, ...],
    folder: Path,
    preparation: Preparation,
    *,
    seed: int,
    settings: str,
    world: World,
) -> PreferenceData[Item]:
    """Prepare every data set that is not yet prepared in the run's folder, and say what became of its records.

    Args:
        kind: `RANKINGS`, `JUDGED` or `PROMPTS`.
        folder: of the run; prepared data goes to its `data`, the account to `data.json` and `left_out.jsonl`, which
            tell of every data set that has been prepared in the folder, of any kind.
        settings: all that preparation depends on besides the files, as text.
    """
    for source in (*sources, *eval_sources):
        refuse_wordings(source)
    for_training = replace(preparation, held_out_share=0.0) if eval_sources else preparation
    for_eval = replace(preparation, held_out_share=1.0)
    plan = [(source, for_training, f"{kind.name}-train-{i}") for i, source in enumerate(sources)]
    plan += [(source, for_eval, f"{kind.name}-eval-{i}") for i, source in enumerate(eval_sources)]
    world.on_first(lambda: _prepare_all(kind, plan, folder, settings))
    opened = [kind.open(source.path, folder / "data" / name) for source, _, name in plan]
    training, measured = opened[: len(sources)], opened[len(sources) :] or opened
    for items in training:
        refuse_nothing_left(items)
    shares = tuple(
        DatasetShare(len(items.training), source.weight, source.cap)
        for items, source in zip(training, sources, strict=True)
    )
    held_out = {
        name: [items.at(int(i)) for i in items.held_out[:MAX_MEASURED]]
        for name, items in zip(_short_names([items.path for items in measured]), measured, strict=True)
    }
    return PreferenceData(tuple(training), shares, seed, {name: found for name, found in held_out.items() if found})


def _prepare_all(
    kind: Kind[Item], plan: list[tuple[DataSource, Preparation, str]], folder: Path, settings: str
) -> None:
    """Prepare what is not prepared yet, and write the account of all of it."""
    for source, preparation, name in plan:
        target = folder / "data" / name
        depends_on = {"settings": settings, "source": source.path, "share": preparation.held_out_share}
        mark = fingerprint(depends_on, files_of(source))
        was_prepared = (target / ACCOUNT).exists()
        if was_prepared and TokenStore.matching(target, mark) is not None:
            continue
        with Progress("reading", unit="records") as progress:
            if was_prepared:
                progress.say(f"{source.path} has changed since this run began: it is read again")
            account = kind.prepare(source.path, target, preparation, fingerprint=mark, progress=progress.update)
        for line in account.lines(preparation.max_length, preparation.too_long if kind.is_cut else "drop"):
            progress.say(line)
        files.write_text(target / LEFT_OUT, "".join(f"{line}\n" for line in left_out_lines(account)))
        files.write_json(target / ACCOUNT, account_json(account))  # last: it says that the rest is there
    write_accounts(folder)


def write_accounts(folder: Path) -> None:
    """`data.json` and `left_out.jsonl`: what became of the records of all data sets prepared in a run's folder."""
    prepared = [path.parent for path in sorted((folder / "data").glob(f"*/{ACCOUNT}"))]
    accounts = [json.loads((each / ACCOUNT).read_text(encoding="utf-8")) for each in prepared]
    files.write_json(folder / "data.json", accounts)
    files.write_text(folder / LEFT_OUT, "".join((each / LEFT_OUT).read_text(encoding="utf-8") for each in prepared))


def _short_names(paths: list[str]) -> list[str]:
    """A name for each data set: the last part of its path, numbered where two are the same."""
    names = [Path(path).name for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def refuse_wordings(source: DataSource) -> None:
    """Wordings make answers to imitate of labelled records; nothing compares or judges those."""
    if source.wordings is not None:
        raise UserError(
            "wordings cannot be used here",
            where=source.path,
            found=f"wordings: {source.wordings}",
            expected="a data set of preferences, judged answers or prompts, as it is",
            fix="remove `wordings` from this data set; heed sft uses them",
        )


def refuse_nothing_left(items: Items[Item]) -> None:
    """A data set from which nothing can be drawn is a mistake."""
    if len(items.training):
        return
    raise UserError(
        "no records are left to train on",
        where=items.path,
        found=f"{len(items.held_out):,} records held out, none to train on",
        expected="at least one record for training",
        fix="look into left_out.jsonl of the run; a larger --max-length or --held-out-share 0 keeps more",
    )

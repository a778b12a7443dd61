"""Rankings, judged answers and prompts of a run: prepared once, then drawn in an order that is a pure function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from heed.config import DataSource
from heed.data.preferences import (
    JudgedTokens,
    PreparedJudged,
    PreparedRankings,
    RankedTokens,
    open_judged,
    open_rankings,
    prepare_judged,
    prepare_rankings,
)
from heed.data.prepare import Account, Preparation
from heed.data.prompts import PreparedPrompts, PromptTokens, open_prompts, prepare_prompts
from heed.dist.world import World
from heed.errors import UserError
from heed.recipes.training.data_sets import (
    ACCOUNT,
    Draws,
    account_for,
    draws_from,
    plan_of,
    prepare_all,
    refuse_nothing_left,
    short_names,
)
from heed.recipes.training.measured import measured_records
from heed.recipes.training.splits import sides_of
from heed.types import Tokens

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
    sequences: Callable[[int], tuple[Tokens, ...]]
    """the tokens of a record"""


@dataclass(frozen=True, eq=False)
class PreferenceData(Generic[Item]):
    """What a run trains on and what it measures itself on: data sets, and how often each is drawn."""

    sets: tuple[Items[Item], ...]
    draws: Draws
    held_out: dict[str, list[Item]]
    """the items that are measured, by data set"""
    num_held_out: int = 0
    """items held out, of which those are measured"""

    @property
    def num_measured(self) -> int:
        """Items that are measured."""
        return sum(map(len, self.held_out.values()))

    @property
    def draws_in_epoch(self) -> int:
        """Items in one epoch."""
        return self.draws.in_epoch

    @property
    def longest(self) -> int:
        """Tokens of the longest record, over its sequences."""
        return max(each.longest for each in self.sets)

    def batch(self, step: int, batch_size: int, num_draws: int) -> list[Item]:
        """The items of a step (from 1) of a run of `num_draws`: a pure function, as `Draws.of_step` is."""
        chosen = []
        for dataset, record, _ in self.draws.of_step(step, batch_size, num_draws):
            items = self.sets[dataset]
            chosen.append(items.at(int(items.training[record])))
        return chosen

    def drawn(self, num_draws: int) -> list[np.ndarray]:
        """For each data set, the records that a run of so many draws trains on."""
        return [items.training[places] for items, places in zip(self.sets, self.draws.drawn(num_draws), strict=True)]


@dataclass(frozen=True, eq=False)
class Kind(Generic[Item]):
    """How data of one kind is prepared and opened."""

    name: str
    """of its folders, so that one run may hold several kinds"""
    prepare: Callable[..., Account]
    """(path, folder, preparation, *, fingerprint, columns, progress)"""
    open: Callable[[str, Path], Items[Item]]
    longer: str
    """options that keep records which are too long, in words"""
    is_cut: bool = True
    """whether what is too long can be cut, and not only left out"""


def _ranking_items(path: str, folder: Path) -> Items[RankedTokens]:
    found = open_rankings(path, folder)
    return _items(path, found.ranking, found)


def _judged_items(path: str, folder: Path) -> Items[JudgedTokens]:
    found = open_judged(path, folder)
    return _items(path, found.judged, found)


def _prompt_items(path: str, folder: Path) -> Items[PromptTokens]:
    found = open_prompts(path, folder)
    return _items(path, found.prompt, found)


def _items(
    path: str, at: Callable[[int], Item], found: PreparedRankings | PreparedJudged | PreparedPrompts
) -> Items[Item]:
    longest = int(found.store.num_tokens.max(initial=0))
    return Items(path, at, found.training, found.held_out, longest, found.store.__getitem__)


OF_ANSWERS = "--too-long truncate, or where the model reads more, --max-length"
OF_PROMPTS = "a larger --max-prompt-length or a smaller --max-new-tokens"

RANKINGS = Kind("rankings", prepare_rankings, _ranking_items, OF_ANSWERS)
JUDGED = Kind("judged", prepare_judged, _judged_items, OF_ANSWERS)
PROMPTS = Kind("prompts", prepare_prompts, _prompt_items, OF_PROMPTS, is_cut=False)


def prepare_preference_data(
    kind: Kind[Item],
    sources: tuple[DataSource, ...],
    eval_sources: tuple[DataSource, ...],
    folder: Path,
    preparation: Preparation,
    *,
    seed: int,
    eval_limit: int,
    settings: str,
    world: World,
) -> PreferenceData[Item]:
    """Prepare every data set that is not yet prepared in the run's folder, and say what became of its records.

    Args:
        kind: `RANKINGS`, `JUDGED` or `PROMPTS`.
        folder: of the run; prepared data goes to its `data`, the account to `data.json` and `left_out.jsonl`, which
            tell of every data set that has been prepared in the folder, of any kind.
        eval_limit: held-out items of a data set that are measured at most, 0 for all.
        settings: all that preparation depends on besides the files, as text.
    """
    for source in (*sources, *eval_sources):
        refuse_wordings(source)
    if not kind.is_cut and preparation.too_long == "truncate":
        preparation = replace(preparation, too_long="drop")
    sides = sides_of(sources, eval_sources)
    plan = plan_of(sides, preparation, f"{kind.name}-")

    def prepare_on_first() -> None:
        prepare_all(
            plan,
            folder,
            settings,
            lambda source, to, given, mark, progress: kind.prepare(
                source.path, to, given, fingerprint=mark, columns=source.columns, progress=progress
            ),
            sides.told,
        )

    world.on_first(prepare_on_first)
    folders = [folder / "data" / name for _, _, name in plan]
    opened = [kind.open(source.path, to) for (source, _, _), to in zip(plan, folders, strict=True)]
    training = opened[: len(sources)]
    to_measure = [(items, to) for items, to in zip(opened, folders, strict=True) if len(items.held_out)]
    for items, to in zip(training, folders, strict=False):
        refuse_nothing_left(items, to, longer=kind.longer)
    measured = [
        measured_records(name, to, items.held_out, eval_limit, items.sequences)
        for name, (items, to) in zip(short_names([items for items, _ in to_measure]), to_measure, strict=True)
    ]

    def account_on_first() -> None:
        account_for(folder, [path.parent for path in sorted((folder / "data").glob(f"*/{ACCOUNT}"))], measured)

    world.on_first(account_on_first)
    held_out = {
        chosen.name: [items.at(int(i)) for i in chosen.records]
        for chosen, (items, _) in zip(measured, to_measure, strict=True)
    }
    return PreferenceData(
        tuple(training),
        draws_from(training, sources, seed),
        {name: found for name, found in held_out.items() if found},
        sum(chosen.num_held_out for chosen in measured),
    )


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

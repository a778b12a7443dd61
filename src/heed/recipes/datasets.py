"""The data sets of a run: prepared once into its folder, then drawn from in an order that is a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heed.config import DataSource
from heed.data.mixture import DatasetShare, draw_order, draws_per_epoch
from heed.data.prepare import Preparation, PreparedSet, account_json, left_out_lines, open_prepared, prepare
from heed.data.store import TokenStore, fingerprint
from heed.data.wordings import draw
from heed.dist.world import World
from heed.errors import UserError
from heed.train import files
from heed.train.progress import Progress
from heed.types import Tokens

ACCOUNT, LEFT_OUT = "account.json", "left_out.jsonl"
"""files beside a data set's tokens: what became of its records, and which were left out or cut"""

MAX_MEASURED = 512
"""held-out conversations of a data set that are measured; the rest stay held out"""


@dataclass(eq=False)
class Mixture:
    """Data sets and how often each is drawn."""

    sets: tuple[PreparedSet, ...]
    shares: tuple[DatasetShare, ...]
    seed: int
    _order: tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
    """the epoch that is being drawn, and its draws"""

    @property
    def draws_in_epoch(self) -> int:
        """Conversations in one epoch."""
        return sum(draws_per_epoch(self.shares))

    def batch(self, step: int, batch_size: int, num_draws: int) -> list[tuple[Tokens, ...]]:
        """The conversations of a step (from 1): draws [(step - 1) * batch_size, step * batch_size) of the run.

        A pure function of its arguments: a resumed run needs no state but the step. The last step of a run
        may hold fewer, so that every epoch is whole.
        """
        chosen = []
        for position in range((step - 1) * batch_size, min(step * batch_size, num_draws)):
            epoch, place = divmod(position, self.draws_in_epoch)
            dataset, record, visit = (column[place] for column in self._draws(epoch))
            prepared = self.sets[dataset]
            at = int(prepared.training[record])
            chosen.append(prepared.conversation(at, draw(self.seed, at, int(visit), prepared.num_wordings(at))))
        return chosen

    def _draws(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, draw_order(self.shares, self.seed, epoch))
        return self._order[1]


@dataclass(frozen=True, eq=False)
class Data:
    """What a run trains on and what it measures itself on."""

    training: Mixture
    held_out: dict[str, list[tuple[Tokens, ...]]]
    """conversations by data set"""
    longest: int
    """tokens of the longest record"""


def prepare_data(
    sources: tuple[DataSource, ...],
    eval_sources: tuple[DataSource, ...],
    folder: Path,
    preparation: Preparation,
    *,
    seed: int,
    settings: str,
    world: World,
) -> Data:
    """Prepare every data set that is not yet prepared in the run's folder, and say what became of its records.

    Args:
        folder: of the run; prepared data goes to its `data`, the account to `data.json` and `left_out.jsonl`.
        settings: all that preparation depends on besides the files, as text.
    """
    for_eval = replace(preparation, held_out_share=1.0)
    plan = [(source, preparation, f"train-{i}") for i, source in enumerate(sources)]
    plan += [(source, for_eval, f"eval-{i}") for i, source in enumerate(eval_sources)]
    if eval_sources:
        preparation = replace(preparation, held_out_share=0.0)
        plan[: len(sources)] = [(source, preparation, name) for source, _, name in plan[: len(sources)]]
    world.on_first(lambda: _prepare_all(plan, folder, settings))
    opened = [open_prepared(source.path, folder / "data" / name) for source, _, name in plan]
    training, measured = opened[: len(sources)], opened[len(sources) :] or opened
    for prepared in training:
        refuse_nothing_left(prepared)
    shares = tuple(
        DatasetShare(len(prepared.training), source.weight, source.cap)
        for prepared, source in zip(training, sources, strict=True)
    )
    held_out = {
        name: [
            each.conversation(int(i), draw(seed, int(i), 0, each.num_wordings(int(i))))
            for i in each.held_out[:MAX_MEASURED]
        ]
        for name, each in zip(short_names(measured), measured, strict=True)
    }
    longest = max(int(prepared.store.num_tokens.max()) for prepared in training)
    return Data(Mixture(tuple(training), shares, seed), {k: v for k, v in held_out.items() if v}, longest)


def _prepare_all(plan: list[tuple[DataSource, Preparation, str]], folder: Path, settings: str) -> None:
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
            account = prepare(
                source.path, source.wordings, target, preparation, fingerprint=mark, progress=progress.update
            )
        for line in account.lines(preparation.max_length, preparation.too_long):
            progress.say(line)
        files.write_text(target / LEFT_OUT, "".join(f"{line}\n" for line in left_out_lines(account)))
        files.write_json(target / ACCOUNT, account_json(account))  # last: it says that the rest is there
    write_accounts(folder, [folder / "data" / name for _, _, name in plan])


def files_of(source: DataSource) -> list[Path]:
    """The files on this machine that a data set is read from, and that of its wordings."""
    places = [Path(path).expanduser() for path in (source.path, source.wordings) if path is not None]
    inside = [path for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [path for path in inside if path.is_file()]


def write_accounts(folder: Path, prepared: list[Path]) -> None:
    """`data.json`: what became of the records of all data sets; `left_out.jsonl`: which were left out or cut."""
    accounts = [json.loads((each / ACCOUNT).read_text(encoding="utf-8")) for each in prepared]
    files.write_json(folder / "data.json", accounts)
    files.write_text(folder / LEFT_OUT, "".join((each / LEFT_OUT).read_text(encoding="utf-8") for each in prepared))


def short_names(prepared: list[PreparedSet]) -> list[str]:
    """A name for each data set: the last part of its path, numbered where two are the same."""
    names = [Path(each.path).name for each in prepared]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def refuse_nothing_left(prepared: PreparedSet) -> None:
    """A data set from which no record can be drawn is a mistake."""
    if len(prepared.training):
        return
    raise UserError(
        "no records are left to train on",
        where=prepared.path,
        found=f"{len(prepared.held_out):,} records held out, none to train on",
        expected="at least one conversation for training",
        fix="look at what was left out: heed show shows it; a larger --max-length or --held-out-share 0 keeps more",
    )

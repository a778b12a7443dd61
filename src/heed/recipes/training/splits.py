"""Data sets that come with splits: train on one, measure another, leave the test alone, and say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heed.config import DataSource
from heed.data.files.places import TEST, TRAIN, VALIDATION, Splits, splits_at


@dataclass(frozen=True)
class Sides:
    """What a run trains on and what it measures itself on, each data set with the split that is meant."""

    training: tuple[DataSource, ...]
    measured: tuple[DataSource, ...]
    held_out: tuple[bool, ...]
    """for each data set to train on, whether a share of it is held out, because nothing else of it is measured"""
    told: Mapping[str, str]
    """path with split -> what is done with the other splits"""


def sides_of(sources: Sequence[DataSource], eval_sources: Sequence[DataSource]) -> Sides:
    """Data sets whose path names no split, by their splits.

    One to train on becomes its training split, and its split for validation is measured, unless data to measure on was
    named; one to measure on becomes its split for validation, or else its test. A data set with several splits for one
    purpose is left as it is, and reading it asks for one.
    """
    training, measured, held_out, told = [], [], [], {}
    for source in sources:
        splits = splits_at(source.path)
        train = splits.of(TRAIN) if splits else []
        validation = splits.of(VALIDATION) if splits and not eval_sources else []
        is_told_apart = splits is not None and len(train) == 1
        training.append(_of_split(source, train[0]) if is_told_apart else source)
        if splits is not None and is_told_apart:
            measured += [_of_split(source, name) for name in validation]
            told[training[-1].path] = _told(splits, train[0], validation)
        held_out.append(not eval_sources and not (is_told_apart and validation))
    return Sides(tuple(training), (*map(_to_measure, eval_sources), *measured), tuple(held_out), told)


def _to_measure(source: DataSource) -> DataSource:
    splits = splits_at(source.path)
    names = (splits.of(VALIDATION) or splits.of(TEST)) if splits else []
    return _of_split(source, names[0]) if len(names) == 1 else source


def _of_split(source: DataSource, name: str) -> DataSource:
    return source.model_copy(update={"path": f"{source.path.rstrip('/')}:{name}"})


def _told(splits: Splits, train: str, measured: Sequence[str]) -> str:
    rest = [name for name in splits.names if name != train and name not in measured]
    return "; ".join(
        [
            f"of its splits {train} is trained on",
            f"{', '.join(measured)} is measured" if measured else "none is measured here",
            *([f"{', '.join(rest)} is left alone"] if rest else []),
        ]
    )

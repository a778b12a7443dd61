"""Ranked and judged answers from their file to token sequences on disk, with an account of all that was left out.

    records -> rendered chat -> tokens + mask -> store, scores, account

What becomes of one record, and which answers are left out, is told in `answers.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from heed.data.answers import Answered, Row, judged_answers, ranked_answers
from heed.data.left_out import LeftOuts, of_finding
from heed.data.parallel import map_in_processes
from heed.data.prepare import Account, Preparation, histogram, refuse_findings, refuse_too_long
from heed.data.read import counted, read_judged, read_rankings
from heed.data.store import StoreWriter, TokenStore
from heed.types import Finding, Origin, Tokens

SCORES, FIRST_SCORE, HAS_MARGINS, IS_DESIRABLE = "scores.npy", "first_score.npy", "has_margins.npy", "is_desirable.npy"
"""files beside the tokens of a store"""

Record = TypeVar("Record")


@dataclass(frozen=True, eq=False)
class RankedTokens:
    """A prompt with K >= 2 answers as token sequences, best first."""

    sequences: tuple[Tokens, ...]
    """K sequences, each the prompt and an answer; the last token of each is trained"""
    scores: np.ndarray
    """(K,) float64, falling, not all equal: what the annotators gave; K-1, ..., 0 where they gave only an order"""
    has_margins: bool
    """whether differences of scores say how much better an answer is, and not only that it is"""
    origin: Origin


@dataclass(frozen=True, eq=False)
class JudgedTokens:
    """A prompt with one answer as a token sequence, and whether it is an answer to give."""

    tokens: Tokens
    is_desirable: bool
    origin: Origin


@dataclass(frozen=True, eq=False)
class PreparedRankings:
    """Rankings ready to be drawn from."""

    path: str
    store: TokenStore
    scores: np.ndarray
    first_score: np.ndarray
    """(records + 1,) where each record's scores begin"""
    has_margins: np.ndarray
    training: np.ndarray
    """records to train on"""
    held_out: np.ndarray
    """records to measure on"""

    def ranking(self, record: int) -> RankedTokens:
        """The answers of a record."""
        begin, end = int(self.first_score[record]), int(self.first_score[record + 1])
        scores = np.array(self.scores[begin:end])
        return RankedTokens(self.store[record], scores, bool(self.has_margins[record]), self.store.origin(record))


@dataclass(frozen=True, eq=False)
class PreparedJudged:
    """Judged answers ready to be drawn from."""

    path: str
    store: TokenStore
    is_desirable: np.ndarray
    """(records,) bool"""
    training: np.ndarray
    held_out: np.ndarray

    def judged(self, record: int) -> JudgedTokens:
        """The answer of a record."""
        [tokens] = self.store[record]
        return JudgedTokens(tokens, bool(self.is_desirable[record]), self.store.origin(record))


def prepare_rankings(
    path: str,
    folder: Path,
    preparation: Preparation,
    *,
    fingerprint: str,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Account:
    """Read, check, render, mask and tokenise every ranking of a data set into `folder`.

    Raises:
        UserError: the file is broken, an answer is too long under `too_long=error`, or more records than
            `max_bad_records` allows are broken. Nothing is left under `folder` then.
    """
    work = partial(ranked_answers, preparation)
    account, rows = _prepare(path, read_rankings, columns, work, folder, preparation, fingerprint, progress)
    np.save(folder / SCORES, np.array([score for row in rows for score in row.scores], dtype=np.float64))
    np.save(folder / FIRST_SCORE, np.cumsum([0, *(len(row.scores) for row in rows)], dtype=np.int64))
    np.save(folder / HAS_MARGINS, np.array([row.has_margins for row in rows], dtype=np.bool_))
    lengths = [(row.num_prompt_tokens, row.num_trained_tokens) for row in rows]
    account.lengths = {
        "prompt": histogram(_whole([n for n, _ in lengths])),
        "chosen": histogram(_whole([trained[0] for _, trained in lengths])),
        "rejected": histogram(_whole([n for _, trained in lengths for n in trained[1:]])),
    }
    account.further["num_answers"] = sum(len(row.scores) for row in rows)
    return account


def prepare_judged(
    path: str,
    folder: Path,
    preparation: Preparation,
    *,
    fingerprint: str,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Account:
    """Read, check, render, mask and tokenise every judged answer of a data set into `folder`.

    Of a ranking the best answer counts as desirable and the worst as not (those that tie with them too); answers
    between the two are not judged, and counted as `num_between`. Raises as `prepare_rankings`.
    """
    work = partial(judged_answers, preparation)
    account, rows = _prepare(path, read_judged, columns, work, folder, preparation, fingerprint, progress)
    desirable = np.array([row.scores == (1.0,) for row in rows], dtype=np.bool_)
    np.save(folder / IS_DESIRABLE, desirable)
    trained = _whole([row.num_trained_tokens[0] for row in rows])
    account.lengths = {
        "prompt": histogram(_whole([row.num_prompt_tokens for row in rows])),
        "desirable": histogram(trained[desirable]),
        "undesirable": histogram(trained[~desirable]),
    }
    account.further["num_desirable"] = int(desirable.sum())
    account.further["num_undesirable"] = int((~desirable).sum())
    account.notes.append(f"{desirable.sum():,} answers to give, {(~desirable).sum():,} not to give")
    return account


def open_rankings(path: str, folder: Path) -> PreparedRankings:
    """What `prepare_rankings` wrote."""
    store = TokenStore(folder)
    scores, first_score, has_margins = (np.load(folder / name) for name in (SCORES, FIRST_SCORE, HAS_MARGINS))
    training, held_out = np.flatnonzero(~store.held_out), np.flatnonzero(store.held_out)
    return PreparedRankings(path, store, scores, first_score, has_margins, training, held_out)


def open_judged(path: str, folder: Path) -> PreparedJudged:
    """What `prepare_judged` wrote."""
    store = TokenStore(folder)
    is_desirable = np.load(folder / IS_DESIRABLE)
    return PreparedJudged(path, store, is_desirable, np.flatnonzero(~store.held_out), np.flatnonzero(store.held_out))


# ---- all records


@dataclass(frozen=True)
class _Written:
    """What is still needed of a row once its tokens are on disk."""

    scores: tuple[float, ...]
    has_margins: bool
    num_prompt_tokens: int
    num_trained_tokens: tuple[int, ...]


def _prepare(
    path: str,
    read: Callable[..., Iterator[tuple[str, Record | Finding]]],
    columns: Mapping[str, str] | None,
    work: Callable[[tuple[str, Record]], Answered],
    folder: Path,
    preparation: Preparation,
    fingerprint: str,
    progress: Callable[[int], None],
) -> tuple[Account, list[_Written]]:
    """Everything that rankings and judged answers have in common: the store, and what is told of every record."""
    account = Account(path)
    counts: Counter[tuple[str, type]] = Counter()
    findings: list[Finding] = []
    uninformative: list[Finding] = []
    too_long, answers_left_out = LeftOuts(), LeftOuts()
    written: list[_Written] = []
    num_between = num_too_long_left_out = 0
    with StoreWriter(folder, fingerprint) as writer:
        records = read(path, columns, account.noticed)
        for record in map_in_processes(partial(_answered, work), records):
            counts[record.kind] += 1
            account.num_records += 1
            account.noticed.update(record.noticed)
            account.num_branches += record.num_branches
            account.num_split_edges += record.num_split_edges
            findings += record.findings
            uninformative += record.uninformative
            too_long.extend(record.too_long)
            answers_left_out.extend(record.left_out)
            num_between += record.num_between
            num_too_long_left_out += bool(record.too_long and not record.rows)
            for row in record.rows:
                writer.append(row.sequences, record.origin, held_out=record.is_held_out)
                written.append(_written(row))
            progress(account.num_records)
        account.read = counted(counts)
        refuse_too_long(too_long, preparation)
        refuse_findings(findings, account, preparation.max_bad_records)
    store = TokenStore(folder)
    account.num_kept, account.num_held_out = len(store), int(store.held_out.sum())
    account.num_tokens, account.num_trained_tokens = int(store.num_tokens.sum()), int(store.num_trained_tokens.sum())
    account.num_findings, account.num_too_long = len(findings), len(too_long)
    account.num_cut_tokens = too_long.num_tokens
    account.left_out = too_long
    account.left_out.extend(chain(answers_left_out, map(of_finding, chain(findings, uninformative))))
    account.further = {
        "num_uninformative": len(uninformative),
        "num_answers_left_out": len(answers_left_out) - num_between,
        "num_too_long_left_out": num_too_long_left_out,
        "num_between": num_between,
    }
    account.notes = _notes(account)
    return account, written


def _answered(work: Callable[[tuple[str, Record]], Answered], record: tuple[str, Record | Finding]) -> Answered:
    shape, noun = record
    if isinstance(noun, Finding):
        return Answered((shape, Finding), noun.origin, findings=(noun,))
    return work((shape, noun))


def _notes(account: Account) -> list[str]:
    further = account.further
    kept_in_part = account.num_too_long - further["num_too_long_left_out"]
    told = (
        (further["num_too_long_left_out"] and kept_in_part, "of the too long keep answers to compare"),
        (further["num_uninformative"], "with nothing to learn left out: answers that are the same, empty or tied"),
        (further["num_answers_left_out"], "answers left out of rankings that keep others: empty, or repeated"),
        (further["num_between"], "answers between the best and the worst of a ranking not used"),
    )
    return [f"{count:,} {words} (listed in left_out.jsonl)" for count, words in told if count]


def _written(row: Row) -> _Written:
    trained = tuple(int(np.count_nonzero(tokens.weight)) for tokens in row.sequences)
    return _Written(row.scores, row.has_margins, int(row.sequences[0].weight.nonzero()[0][0]), trained)


def _whole(numbers: Sequence[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)

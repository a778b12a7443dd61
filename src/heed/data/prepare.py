"""One data set from its file to token sequences on disk, with an account of every record that was left out."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from heed.data.chat import masked
from heed.data.documents import cut, rendered_document
from heed.data.left_out import LeftOut, LeftOuts, of_finding
from heed.data.parallel import map_in_processes
from heed.data.read import read_labelled, read_nouns, summary
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.special_text import noticed
from heed.data.shapes.recognise import Noun
from heed.data.soundness import check, check_imitation, in_held_out
from heed.data.store import StoreWriter, TokenStore
from heed.data.tokens import Tokenizer, tokenise
from heed.data.wordings import Wordings, load_wordings, say
from heed.errors import UserError
from heed.types import Conversation, Document, Finding, Judged, Labelled, Origin, Ranking, Tokens

TooLong = Literal["error", "drop", "truncate"]


MAX_BARS = 24
"""of a histogram"""


@dataclass(frozen=True)
class Preparation:
    """What is done with every record, the same for all data sets of a run."""

    template: ChatTemplate
    tokenizer: Tokenizer
    max_length: int | None
    """tokens of one sequence at most; None where the model has no limit"""
    too_long: TooLong
    max_bad_records: float
    """share of a data set's records that may be unusable without stopping the run"""
    held_out_share: float
    """of the records, by hash of their content"""
    limited_by: str | None = None
    """the option that sets `max_length`, such as `--max-length`; None where the model does"""


@dataclass
class Account:
    """What became of a data set's records."""

    path: str
    read: str = ""
    """one line: how many of what was read"""
    num_records: int = 0
    num_kept: int = 0
    num_held_out: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_findings: int = 0
    num_too_long: int = 0
    num_cut_tokens: int = 0
    """dropped with too long records or cut off their ends"""
    num_split_edges: int = 0
    """tokens that crossed from prompt to response and were split, as at inference"""
    num_branches: int = 0
    """turns that the template does not show in the whole conversation as at inference: sequences of their own"""
    lengths: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """tokens of conversations outside (`prompt`) and inside (`response`) their responses, as histograms"""
    left_out: LeftOuts = field(default_factory=LeftOuts)
    further: dict[str, int] = field(default_factory=dict)
    """counts that only this kind of data has, by name"""
    notes: list[str] = field(default_factory=list)
    """the same in words"""
    noticed: Counter[str] = field(default_factory=Counter)
    """what was put right while the records were read, in words, and how often"""

    def lines(self, max_length: int | None, too_long: TooLong) -> list[str]:
        """What a user should know, most of all what is missing."""
        lines = [f"{self.path}: {self.read}"]
        if self.num_too_long:
            done = "left out" if too_long == "drop" else "cut to fit"
            lines.append(
                f"  {self.num_too_long:,} longer than {max_length:,} tokens {done} ({self.num_cut_tokens:,} tokens)"
            )
        if self.num_findings:
            lines.append(f"  {self.num_findings:,} unusable left out (listed in left_out.jsonl)")
        if self.num_branches:
            lines.append(f"  {self.num_branches:,} turns became sequences of their own: the template rewrites history")
        lines += [f"  {count:,} {words}" if count > 1 else f"  {words}" for words, count in self.noticed.items()]
        lines += [f"  {note}" for note in self.notes]
        sides = f"  {self.num_kept - self.num_held_out:,} to train on, {self.num_held_out:,} held out, "
        is_answered = self.num_trained_tokens or not self.num_tokens
        trained = f"{self.num_trained_tokens:,} of {self.num_tokens:,} tokens trained"
        lines.append(sides + (trained if is_answered else f"{self.num_tokens:,} tokens"))
        return lines


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A data set ready to be drawn from: records, each of one or more wordings, each of one or more sequences."""

    path: str
    store: TokenStore
    first_row: np.ndarray
    """(records + 1,) where each record's wordings begin in the store"""
    training: np.ndarray
    """records to train on"""
    held_out: np.ndarray
    """records to measure on"""

    def num_wordings(self, record: int) -> int:
        """How many ways there are to say this record."""
        return int(self.first_row[record + 1] - self.first_row[record])

    def conversation(self, record: int, wording: int = 0) -> tuple[Tokens, ...]:
        """The sequences of a record in one of its wordings."""
        return self.store[int(self.first_row[record]) + wording]


@dataclass(frozen=True)
class Prepared:
    """What one record became."""

    kind: tuple[str, type]
    """the shape it was written in, and its noun"""
    rows: tuple[tuple[Origin, tuple[Tokens, ...]], ...]
    """its wordings, each the sequences of a conversation"""
    is_held_out: bool
    findings: tuple[Finding, ...]
    too_long: tuple[LeftOut, ...]
    num_branches: int
    num_split_edges: int
    noticed: Mapping[str, int] = field(default_factory=dict)
    """what the template changed of it, in words, and how often"""


def prepare(
    path: str,
    wordings: str | None,
    folder: Path,
    preparation: Preparation,
    *,
    fingerprint: str,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Account:
    """Read, check, render, mask and tokenise every record of a data set into `folder`.

    Every piece of a document is a record of its own.

    Args:
        columns: our name of a field -> its name in the file, where that is not one of the usual ones.

    Raises:
        UserError: the file is broken, a record is too long under `too_long=error`, or more records than
            `max_bad_records` allows cannot be used. Nothing is left under `folder` then.
    """
    account = Account(path)
    counts: Counter[tuple[str, type]] = Counter()
    findings: list[Finding] = []
    too_long = LeftOuts()
    first_row = array("q", [0])  # eight bytes a record, where a list of numbers takes forty
    said = load_wordings(wordings) if wordings is not None else None
    records: Iterator[tuple[str, Noun | Labelled | Finding]]
    records = (read_nouns if said is None else read_labelled)(path, columns, account.noticed)
    with StoreWriter(folder, fingerprint) as writer:
        for record in map_in_processes(partial(prepare_record, preparation, said), records):
            counts[record.kind] += 1
            account.num_records += 1
            account.noticed.update(record.noticed)
            account.num_branches += record.num_branches
            account.num_split_edges += record.num_split_edges
            findings += record.findings
            too_long.extend(record.too_long)
            for origin, sequences in record.rows:
                writer.append(sequences, origin, held_out=record.is_held_out)
            if record.kind[1] is Document:
                first_row.extend(range(first_row[-1] + 1, first_row[-1] + len(record.rows) + 1))
            elif record.rows:
                first_row.append(first_row[-1] + len(record.rows))
            progress(account.num_records)
        account.read = summary(counts)
        refuse_too_long(too_long, preparation)
        refuse_findings(findings, account, preparation.max_bad_records)
    np.save(folder / "first_row.npy", np.array(first_row, dtype=np.int64))
    account.num_findings, account.num_too_long = len(findings), len(too_long)
    account.num_cut_tokens = too_long.num_tokens
    account.left_out = too_long
    account.left_out.extend(map(of_finding, findings))
    prepared = open_prepared(path, folder)
    account.num_kept, account.num_held_out = len(prepared.first_row) - 1, len(prepared.held_out)
    account.num_tokens = int(prepared.store.num_tokens.sum())
    account.num_trained_tokens = int(prepared.store.num_trained_tokens.sum())
    trained = np.asarray(prepared.store.num_trained_tokens)
    account.lengths = {
        "prompt": histogram(np.asarray(prepared.store.num_tokens) - trained),
        "response": histogram(trained),
    }
    return account


def histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """How many lengths lie in [edges[i], edges[i + 1]): at most `MAX_BARS` bars of equal width, from 0 on."""
    longest = int(lengths.max(initial=0))
    width = longest // MAX_BARS + 1
    counts = np.bincount(lengths // width)
    return {"edges": [i * width for i in range(len(counts) + 1)], "counts": counts.tolist()}


def prepare_record(
    preparation: Preparation, wordings: Wordings | None, record: tuple[str, Noun | Labelled | Finding]
) -> Prepared:
    """Everything that is done with one record; a function of its arguments alone, so any process may do it."""
    shape, noun = record
    if isinstance(noun, Finding):
        return Prepared((shape, Finding), (), False, (noun,), (), 0, 0)
    if isinstance(noun, Document):
        return prepare_document(preparation, shape, noun)
    rows: list[tuple[Origin, tuple[Tokens, ...]]] = []
    findings: list[Finding] = []
    too_long: list[LeftOut] = []
    num_branches = num_split_edges = 0
    found: Counter[str] = Counter()
    for conversation in conversations_of(noun, wordings):
        rendered = check_imitation(noun) or check(conversation) or masked(conversation, preparation.template)
        if isinstance(rendered, Finding):
            findings.append(rendered)
            continue
        found.update(noticed(conversation, preparation.template))
        tokenised = [tokenise(each, preparation.tokenizer) for each in rendered]
        num_branches += len(rendered) - 1
        num_split_edges += sum(each.num_split_edges for each in tokenised)
        kept, lost = fitted(tuple(each.tokens for each in tokenised), preparation)
        if lost:
            too_long.append(LeftOut(conversation.origin, "too long", lost))
        if kept:
            rows.append((conversation.origin, kept))
    hashed = noun if isinstance(noun, Labelled) else imitated(noun)
    is_held_out = bool(rows) and in_held_out(hashed, preparation.held_out_share)
    kind = (shape, type(noun))
    return Prepared(
        kind, tuple(rows), is_held_out, tuple(findings), tuple(too_long), num_branches, num_split_edges, found
    )


def prepare_document(preparation: Preparation, shape: str, document: Document) -> Prepared:
    """The pieces of a document as rows, all of them on the side of the document."""
    kind = (shape, Document)
    rendered = rendered_document(document, preparation.template, preparation.tokenizer)
    if isinstance(rendered, Finding):
        return Prepared(kind, (), False, (rendered,), (), 0, 0)
    tokens = tokenise(rendered, preparation.tokenizer).tokens
    rows = tuple((document.origin, (piece,)) for piece in cut(tokens, preparation.max_length))
    return Prepared(kind, rows, in_held_out(document, preparation.held_out_share), (), (), 0, 0)


def open_prepared(path: str, folder: Path) -> PreparedSet:
    """What `prepare` wrote."""
    store = TokenStore(folder)
    first_row = np.load(folder / "first_row.npy")
    held_out = store.held_out[first_row[:-1]]
    return PreparedSet(path, store, first_row, np.flatnonzero(~held_out), np.flatnonzero(held_out))


def conversations_of(
    noun: Conversation | Ranking | Judged | Labelled, wordings: Wordings | None
) -> Iterator[Conversation]:
    """What supervised tuning makes of a record: itself, a ranking's best answer, or every wording of it."""
    if isinstance(noun, Labelled):
        if wordings is None:
            raise ValueError("a labelled record needs wordings")
        for wording in wordings.of(noun):
            yield say(noun, wording)
    else:
        yield imitated(noun)


def imitated(noun: Conversation | Ranking | Judged) -> Conversation:
    """The conversation that supervised tuning takes from a record."""
    if isinstance(noun, Ranking):
        return noun.best()
    return noun.conversation() if isinstance(noun, Judged) else noun


def fitted(sequences: tuple[Tokens, ...], preparation: Preparation) -> tuple[tuple[Tokens, ...], int]:
    """The sequences within `max_length`, and how many tokens that costs.

    A sequence is cut at its end: the response loses its last tokens and its stop token, which is then not trained,
    for it would teach to stop there. A sequence that has no trained token left is dropped.
    """
    limit = preparation.max_length
    if limit is None or all(len(tokens) <= limit for tokens in sequences):
        return sequences, 0
    if preparation.too_long != "truncate":
        return (), sum(len(tokens) for tokens in sequences)
    cut = [replace(tokens, ids=tokens.ids[:limit], weight=tokens.weight[:limit]) for tokens in sequences]
    kept = tuple(tokens for tokens in cut if tokens.weight.any())
    return kept, sum(len(tokens) for tokens in sequences) - sum(len(tokens) for tokens in kept)


def refuse_too_long(
    too_long: LeftOuts,
    preparation: Preparation,
    *,
    noun: str = "conversation",
    problem: str = "a conversation is longer than the model can read",
    expected: str = "the model's positions",
    fix: str = "--too-long drop leaves them out, --too-long truncate cuts their ends off; both are counted",
) -> None:
    """Stop at records that do not fit, unless the user said what to do with them.

    Args:
        noun: what one of them is called.
        problem, expected: what they exceed where it is the model that sets the limit, and not an option.
    """
    if not too_long or preparation.too_long != "error":
        return
    first, others = next(iter(too_long)), len(too_long) - 1
    option, limit = preparation.limited_by, preparation.max_length
    if option is not None:
        problem, expected = f"a {noun} is longer than {option} allows", f"as {option} {limit} says"
    raise UserError(
        problem,
        where=str(first.origin),
        found=f"{first.num_tokens:,} tokens" + (f", and {others:,} further {noun}s too long" if others else ""),
        expected=f"at most {limit:,} tokens, {expected}",
        fix=fix if option is None else f"a larger {option}; or {fix}",
    )


def refuse_findings(findings: list[Finding], account: Account, max_bad_records: float) -> None:
    """Stop at unusable records, unless they are so few that the user lets them be left out."""
    if not findings or len(findings) <= max_bad_records * account.num_records:
        return
    error = findings[0].error()
    share = len(findings) / account.num_records
    leaving_out = f"; or --max-bad-records {rounded_up(share):g} leaves such records out and lists them"
    others = f" (and {len(findings) - 1:,} more like it, {share:.2%} of the records)" if len(findings) > 1 else ""
    raise UserError(
        error.problem,
        where=error.where,
        found=error.found + others,
        expected=error.expected,
        fix=error.fix + (leaving_out if len(findings) < account.num_records else ""),
    )


def rounded_up(share: float) -> float:
    """The share in two digits, and never less than it is: above 0 and at most 1."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, math.ceil(share * 10.0**digits) / 10.0**digits)


def account_json(account: Account) -> Mapping[str, Any]:
    """The numbers of an account, for the run folder."""
    apart = ("left_out", "further", "notes", "noticed")
    numbers = {name: value for name, value in vars(account).items() if name not in apart}
    return numbers | account.further | {"notes": dict(account.noticed)}


def left_out_lines(account: Account) -> Iterator[str]:
    """A JSON line for every record that was left out or cut."""
    for item in account.left_out:
        line = {"path": item.origin.path, "record": item.origin.record, "reason": item.reason}
        yield json.dumps({**line, "num_tokens": item.num_tokens}, ensure_ascii=False)

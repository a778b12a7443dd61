"""Prompts from their file to token ids on disk, with the records they came from for whoever scores the answers."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heed.data.chat import asked
from heed.data.left_out import LeftOut, LeftOuts, of_finding
from heed.data.parallel import map_in_processes
from heed.data.prepare import Account, Preparation, histogram, refuse_findings, refuse_too_long
from heed.data.read import counted, read_prompts
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.special_text import noticed
from heed.data.soundness import check_prompt, in_held_out
from heed.data.store import StoreWriter, TokenStore
from heed.data.tokens import tokenise
from heed.types import Conversation, Finding, Message, Origin, Prompt, Rendered, Tokens

FIELDS, FIRST_BYTE = "fields.jsonl", "first_byte.npy"
"""files beside the tokens of a store: a JSON line for each prompt, and where each begins"""


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """What a model reads before it answers."""

    ids: np.ndarray
    """(L,) int32, the inference prompt: the render with the assistant's header, BOS once"""
    messages: tuple[Message, ...]
    fields: Mapping[str, Any]
    """the whole record, as JSON holds it"""
    origin: Origin

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class PreparedPrompts:
    """Prompts ready to be drawn from."""

    path: str
    store: TokenStore
    first_byte: np.ndarray
    """(records + 1,) where each record's line begins"""
    training: np.ndarray
    """records to train on"""
    held_out: np.ndarray
    """records to measure on"""

    def prompt(self, record: int) -> PromptTokens:
        """A prompt with its record."""
        begin, end = int(self.first_byte[record]), int(self.first_byte[record + 1])
        with (self.store.folder / FIELDS).open("rb") as file:
            file.seek(begin)
            line = json.loads(file.read(end - begin).decode("utf-8", "surrogatepass"))
        messages = tuple(Message(role, content, extra=extra) for role, content, extra in line["messages"])
        [tokens] = self.store[record]
        return PromptTokens(tokens.ids, messages, line["fields"], self.store.origin(record))


@dataclass(frozen=True)
class Asked:
    """What one prompt became."""

    kind: tuple[str, type]
    origin: Origin
    tokens: Tokens | None = None
    line: bytes = b""
    is_held_out: bool = False
    findings: tuple[Finding, ...] = ()
    too_long: tuple[LeftOut, ...] = ()
    noticed: Mapping[str, int] = field(default_factory=dict)
    """what the template changed of it, in words, and how often"""


def prepare_prompts(
    path: str,
    folder: Path,
    preparation: Preparation,
    *,
    fingerprint: str,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Account:
    """Read, check, render and tokenise every prompt of a data set into `folder`.

    Args:
        preparation: its `max_length` is what a prompt may take of the model's positions, so that an answer finds
            room behind it. A prompt cannot be cut without asking something else: under `too_long=truncate` one that
            is too long is left out as under `drop`.

    Raises:
        UserError: the file is broken, a prompt is too long under `too_long=error`, or more records than
            `max_bad_records` allows cannot be used. Nothing is left under `folder` then.
    """
    account = Account(path)
    counts: Counter[tuple[str, type]] = Counter()
    findings: list[Finding] = []
    too_long = LeftOuts()
    first_byte = array("q", [0])
    lines = folder.with_name(f".tmp-{folder.name}-{FIELDS}")
    try:
        with StoreWriter(folder, fingerprint) as writer, lines.open("wb") as file:
            records = read_prompts(path, columns, account.noticed)
            for record in map_in_processes(partial(prepare_prompt, preparation), records):
                counts[record.kind] += 1
                account.num_records += 1
                account.noticed.update(record.noticed)
                findings += record.findings
                too_long.extend(record.too_long)
                if record.tokens is not None:
                    writer.append((record.tokens,), record.origin, held_out=record.is_held_out)
                    first_byte.append(first_byte[-1] + file.write(record.line))
                progress(account.num_records)
            account.read = counted(counts)
            refuse_too_long(
                too_long,
                preparation,
                noun="prompt",
                problem="a prompt leaves no room for an answer",
                expected="so that an answer has room",
                fix="--too-long drop leaves such prompts out and counts them",
            )
            refuse_findings(findings, account, preparation.max_bad_records)
        lines.replace(folder / FIELDS)
    finally:
        lines.unlink(missing_ok=True)
    np.save(folder / FIRST_BYTE, np.array(first_byte, dtype=np.int64))
    store = TokenStore(folder)
    account.num_kept, account.num_held_out = len(store), int(store.held_out.sum())
    account.num_tokens = int(store.num_tokens.sum())
    account.num_findings, account.num_too_long = len(findings), len(too_long)
    account.num_cut_tokens = too_long.num_tokens
    account.left_out = too_long
    account.left_out.extend(map(of_finding, findings))
    account.lengths = {"prompt": histogram(np.asarray(store.num_tokens))}
    return account


def open_prompts(path: str, folder: Path) -> PreparedPrompts:
    """What `prepare_prompts` wrote."""
    store = TokenStore(folder)
    training, held_out = np.flatnonzero(~store.held_out), np.flatnonzero(store.held_out)
    return PreparedPrompts(path, store, np.load(folder / FIRST_BYTE), training, held_out)


def prepare_prompt(preparation: Preparation, record: tuple[str, Prompt | Finding]) -> Asked:
    """Everything that is done with one prompt; a function of its arguments alone, so any process may do it."""
    shape, prompt = record
    if isinstance(prompt, Finding):
        return Asked((shape, Finding), prompt.origin, findings=(prompt,))
    conversation = Conversation(prompt.messages, prompt.origin, prompt.tools, prompt.template_arguments)
    became = Asked((shape, Prompt), prompt.origin, noticed=noticed(conversation, preparation.template))
    rendered = prompt_text(prompt, preparation.template)
    if isinstance(rendered, Finding):
        return replace(became, findings=(rendered,))
    ids = tokenise(rendered, preparation.tokenizer).tokens.ids
    if preparation.max_length is not None and len(ids) > preparation.max_length:
        return replace(became, too_long=(LeftOut(prompt.origin, "the prompt is too long", len(ids)),))
    line = {"messages": [[m.role, m.content, m.extra] for m in prompt.messages], "fields": prompt.fields}
    return replace(
        became,
        tokens=Tokens(ids, np.zeros(len(ids), dtype=np.float32)),
        line=(json.dumps(line, ensure_ascii=False, default=_plain) + "\n").encode("utf-8", "surrogatepass"),
        is_held_out=in_held_out(conversation, preparation.held_out_share),
    )


def prompt_text(prompt: Prompt, template: ChatTemplate) -> Rendered | Finding:
    """What a model reads before it answers, or why it cannot be asked.

    The last of it is the assistant's header, or words of the assistant's from which the answer goes on.
    """
    given = Conversation(prompt.messages, prompt.origin, prompt.tools, prompt.template_arguments)
    return check_prompt(prompt.messages, prompt.origin) or asked(given, template)


def _plain(value: Any) -> Any:
    """What table readers leave in records and JSON does not know: numbers of numpy, dates."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

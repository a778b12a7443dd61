"""What records are compared by: a digest for those that say the same, shingles for those that say nearly the same.

A shingle is three words in a row, and a number of 64 bits. Those of the prompt, of an answer, and of an answer that
another one is preferred to are told apart, so that a preference is not near the opposite one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from heed.types import Document, Judged, Message
from heed.workshop.corpus import said_by
from heed.workshop.record_faults import Noun, answers_of, prompt_of
from heed.workshop.words import folded, mixed, runs_of, words_of

By = Literal["record", "prompt", "answer"]
WORDS_OF_A_SHINGLE = 3
IN_ANSWER = np.uint64(1 << 63)
"""set in shingles of answers"""
WORSE = 1
"""how much is added to the part of an answer that was judged to be bad"""

UNIT, PROMPT, LENGTH, SIZE, NUM_IN_ANSWERS, IS_COMPARED, WIDTH = (0, 1), (2, 3), 4, 5, 6, 7, 8
"""columns of what is kept of a record: two digests in halves, characters, shingles, those of answers, and 1 where
the record was read"""


@dataclass(frozen=True, slots=True)
class Compared:
    """What several records are compared by. B records, S shingles."""

    rows: np.ndarray
    """(B, WIDTH) uint64"""
    shingles: np.ndarray
    """(S,) uint64; each record's distinct ones in rising order, one record after the other"""


def compared(by: By, with_shingles: bool, records: Sequence[Sequence[Noun]]) -> Compared:
    """Records as they are compared; one that says several things counts as all of them, one that says none as unread.

    Args:
        by: what of a record counts.
        with_shingles: whether nearly the same is looked for, too.
    """
    rows = np.zeros((len(records), WIDTH), np.uint64)
    texts: list[str] = []
    owners: list[int] = []
    parts: list[int] = []
    for number, nouns in enumerate(records):
        if not nouns:
            continue
        digests = [said_by(noun) for noun in nouns]
        unit, prompt = _joined([_unit(by, *each) for each in digests]), _joined([asked for asked, _, _ in digests])
        said = [each for noun in nouns for each in parts_of(by, noun)]
        length = sum(len(text) for _, text in said)
        rows[number, : LENGTH + 1] = (*_halves(unit), *_halves(prompt), length)
        rows[number, IS_COMPARED] = 1
        owners += [number] * len(said)
        parts += [part for part, _ in said]
        texts += [folded(text) for _, text in said]
    if not with_shingles:
        return Compared(rows, np.zeros(0, np.uint64))
    owner, shingles = shingles_of(texts, np.asarray(owners, np.int64), np.asarray(parts, np.int64))
    rows[:, SIZE] = np.bincount(owner, minlength=len(rows))
    rows[:, NUM_IN_ANSWERS] = np.bincount(owner[shingles >= IN_ANSWER], minlength=len(rows))
    return Compared(rows, shingles)


def shingles_of(texts: Sequence[str], owner: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(whose it is, the shingle) of all distinct shingles of each owner, in rising order.

    A text of fewer words than a shingle has is one shingle.

    Args:
        texts: folded.
        owner: (T,) rising.
        part: (T,) 0 for the prompt, from 1 for answers.
    """
    words = words_of(texts, with_signs=True)
    runs, first = runs_of(words, WORDS_OF_A_SHINGLE, short=True)
    text = words.text[first]
    shingles = (runs ^ mixed(part)[text]) & ~IN_ANSWER
    shingles[part[text] > 0] |= IN_ANSWER
    owners = owner[text] if len(text) else np.zeros(0, np.int64)
    order = np.lexsort((shingles, owners))
    owners, shingles = owners[order], shingles[order]
    is_new = np.ones(len(shingles), bool)
    is_new[1:] = (shingles[1:] != shingles[:-1]) | (owners[1:] != owners[:-1])
    return owners[is_new], shingles[is_new]


def parts_of(by: By, noun: Noun) -> Iterator[tuple[int, str]]:
    """(0 for the prompt, or 1 and on for the answers in their order; what it says) of what is compared."""
    if isinstance(noun, Document):
        yield 0, noun.text
        return
    if by != "answer":
        yield 0, _said(prompt_of(noun))
    if by != "prompt":
        worse = WORSE if isinstance(noun, Judged) and not noun.is_desirable else 0
        for place, answer in enumerate(answers_of(noun), 1):
            yield place + worse, _said(answer)


def _said(messages: Sequence[Message]) -> str:
    """What messages say, calls of tools included."""
    calls = [json.dumps(m.extra["tool_calls"], ensure_ascii=False) for m in messages if m.extra.get("tool_calls")]
    return "\n".join([*(message.content.strip() for message in messages), *calls])


def _unit(by: By, asked: bytes, record: bytes, answers: Sequence[bytes]) -> bytes:
    if by == "prompt":
        return asked
    return _joined(list(answers)) if by == "answer" and answers else record


def _joined(digests: list[bytes]) -> bytes:
    return digests[0] if len(digests) == 1 else hashlib.blake2b(b"".join(digests), digest_size=16).digest()


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")

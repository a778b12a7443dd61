"""What can be wrong with data: every kind has a name, a level, what it means and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from heed.types import Origin

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""error: teaches something wrong, and is certain; warning: probably; note: worth knowing, often innocent"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that can be wrong."""

    level: Level
    means: str
    """in one line, for whoever reads the table"""
    todo: str
    """what to type, or to do, about it; {files} stands for the files that were checked, {file} for one that shows it"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, where it is, and what shows it."""

    kind: str
    origin: Origin
    where: str
    """the part of the record: `prompt`, `answer 2, message 1`; the whole record where empty"""
    found: str
    """the text that shows it, or what was compared"""

    def as_json(self) -> dict[str, object]:
        """As a line of the list of all findings."""
        level = KINDS[self.kind].level
        place = {"path": self.origin.path, "record": self.origin.record, "where": self.where}
        return {"kind": self.kind, "level": level, **place, "found": self.found}


OF_ALL = frozenset(["length-decides", "annotator-habit", "tone-marks"])
"""kinds that no single record shows"""

SAFE = "heed data mend {file} --safe --out MENDED.jsonl"
SAFE_CONTROL = f"{SAFE}; those from U+0080 to U+009F may be what is left of letters, and stay"
GUESS = "heed data mend {file} --guess --out MENDED.jsonl"
DEDUPE = "heed data dedupe {files} --out UNIQUE.jsonl"
CORRECT = "correct or remove the records; --out FINDINGS.jsonl lists them all"

KINDS: Mapping[str, Kind] = {
    # ---- what cannot be right
    "unreadable": Kind("error", "records that say nothing heed can read", CORRECT),
    "broken-encoding": Kind("error", "UTF-8 that was read as another code page", SAFE),
    "doubled-encoding": Kind("error", "UTF-8 that was read as another code page twice or more", SAFE),
    "lost-bytes": Kind("error", "letters of which a byte was lost in another code page", GUESS),
    "control-characters": Kind("error", "characters that no one types and no reader shows", SAFE_CONTROL),
    "empty-answer": Kind("error", "answers that say nothing", CORRECT),
    "empty-prompt": Kind("error", "prompts that ask nothing", CORRECT),
    "identical-answers": Kind("error", "pairs of one and the same answer", CORRECT),
    "different-prompts": Kind("error", "pairs whose answers are to different prompts", CORRECT),
    "contradicting-scores": Kind("error", "scores that contradict the order of the answers", CORRECT),
    "role-order": Kind("error", "roles in an order that no conversation has", CORRECT),
    "reversed-preference": Kind("error", "pairs that another record prefers the other way round", CORRECT),
    "preference-cycle": Kind("error", "answers to one prompt preferred in a circle", CORRECT),
    "in-held-out": Kind("error", "records that stand in the held-out data, too", DEDUPE + " --against HELD_OUT.jsonl"),
    # ---- what probably is not
    "not-composed": Kind("warning", "accents written apart from their letters (not NFC)", SAFE),
    "zero-width": Kind("warning", "characters without width, or that turn the writing direction", CORRECT),
    "identical-but-for-form": Kind("warning", "pairs that differ in case, blanks and punctuation alone", CORRECT),
    "near-identical-answers": Kind("warning", "pairs that are the same but for a few characters", CORRECT),
    "prompt-in-answer": Kind("warning", "answers that begin with their prompt", CORRECT),
    "cut-off": Kind("warning", "answers that stop in the middle of a sentence or of code", CORRECT),
    "repetition": Kind("warning", "answers that say one thing over and over", CORRECT),
    "refusal": Kind("warning", "answers that decline", "keep them if they are meant: a model learns to decline"),
    "boilerplate": Kind("warning", "answers that speak of being a language model", CORRECT),
    "placeholder": Kind("warning", "text that stands for other text", CORRECT),
    "special-token-text": Kind("warning", "special tokens written out", "tune with --special-tokens-in-text as-text"),
    "other-language": Kind("warning", "answers in another language than the prompt, unasked", CORRECT),
    "card-number": Kind("warning", "numbers of payment cards (checksum right)", CORRECT),
    "bank-account": Kind("warning", "numbers of bank accounts (IBAN, checksum right)", CORRECT),
    "duplicate": Kind("warning", "records that stood before, word for word", DEDUPE),
    "too-long": Kind("warning", "records longer than the model's positions", "tune with --too-long drop"),
    "length-decides": Kind("warning", "preferences that length alone tells", "look at short preferred answers"),
    "annotator-habit": Kind(
        "warning",
        "annotators who take longer, or shorter, answers more than the others do",
        "look at what they chose; heed eval --model REWARD_MODEL --task pairs={file} tells habits from competence",
    ),
    # ---- what is worth knowing
    "entities": Kind("note", "HTML entities in text that is no HTML", CORRECT),
    "email": Kind("note", "addresses of e-mail", CORRECT),
    "phone": Kind("note", "telephone numbers", CORRECT),
    "answer-only-url": Kind("note", "URLs that only the answer has: a model learns to make some up", CORRECT),
    "another-answer": Kind("note", "prompts that stood before, with another answer", "fine if several are right"),
    "tone-marks": Kind("note", "old and new places of tone marks (hoà, hòa) in one set", "choose one"),
}

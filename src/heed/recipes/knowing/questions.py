"""Records of question data in the shapes people have them -> questions with their right answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heed.config import DataSource
from heed.data.read import read_raw
from heed.data.shapes.names import truth_of
from heed.evaluate.answers import plain
from heed.types import Finding, Origin

QUESTION_FIELDS = ("question", "instruction", "prompt", "query", "problem", "context")
ANSWER_FIELDS = ("answer", "output", "response", "completion", "target", "solution", "answers")
"""the first that a record has holds the answer that is shown and taught"""
ALIAS_FIELDS = ("aliases", "accepted", "possible_answers", "normalized_aliases")
"""further texts that are right"""
ANSWERABLE_FIELDS = {"answerable": True, "is_answerable": True, "is_impossible": False, "unanswerable": False}
"""fields that say whether there is an answer, and the truth value that means there is"""
BEFORE = re.compile(r"^\s*(?:question|q|câu hỏi|hỏi)\s*:\s*", re.IGNORECASE)
AFTER = re.compile(r"\s*\n?\s*(?:answer|a|trả lời|đáp)\s*:\s*$", re.IGNORECASE)
ID_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what answers it."""

    id: str
    """of its content, so that neither order nor subset changes it"""
    text: str
    answer: str
    """the one that is shown in a prompt and taught; empty where there is none"""
    accepted: tuple[str, ...]
    """every text that is right"""
    is_answerable: bool
    origin: Origin

    @property
    def key(self) -> str:
        """Alike for questions that differ in nothing that matters."""
        return plain(self.text)


def questions_of(sources: Sequence[DataSource], notes: Counter[str]) -> Iterator[Question | Finding]:
    """Every question of the data, in order, or why a record holds none."""
    seen: Counter[str] = Counter()
    for source in sources:
        for origin, raw in unwrapped(read_raw(source.path, source.columns, notes)):
            question = raw if isinstance(raw, Finding) else question_of(raw, origin)
            if isinstance(question, Question):
                seen[question.id] += 1
                if (repeated := seen[question.id] - 1) > 0:
                    question = replace(question, id=f"{question.id}-{repeated}")
            yield question


def unwrapped(
    records: Iterator[tuple[Origin, Mapping[str, Any] | Finding]],
) -> Iterator[tuple[Origin, Mapping[str, Any] | Finding]]:
    """The records, those of a list inside a document (SelfAware's `example`) one by one, counted from 1."""
    for origin, raw in records:
        inner = None if isinstance(raw, Finding) or _asked(raw)[0] else _list_in(raw)
        if inner is None:
            yield origin, raw
        else:
            yield from ((Origin(origin.path, number), record) for number, record in enumerate(inner, 1))


def _list_in(raw: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The one list of records in a document that is none itself."""
    lists = [v for v in raw.values() if isinstance(v, list) and v and all(isinstance(each, Mapping) for each in v)]
    return lists[0] if len(lists) == 1 else None


def question_of(raw: Mapping[str, Any], origin: Origin) -> Question | Finding:
    """One record as a question.

    The question is in `question`, `instruction` (with `input`), `prompt`, `query`, `problem`, `context` or the last
    user message of `messages`, without "Question:" before and "Answer:" behind it. Right answers are in `answer`,
    `output` and their like, and in `aliases` and theirs: a text, a list, or the nested forms of TriviaQA and SQuAD.
    `answerable: false` or `is_impossible: true` says that there is none.
    """
    text, from_messages = _asked(raw)
    if not text:
        return Finding(
            "a record asks nothing",
            origin,
            f"the fields {', '.join(raw) or 'none'}",
            f"a text in one of {', '.join(QUESTION_FIELDS)}, or messages that end with the user's and the answer",
            "--columns question=COLUMN answer=COLUMN aliases=COLUMN names the fields",
        )
    if broken := _not_unicode(
        [text, *(t for name in (*ANSWER_FIELDS, *ALIAS_FIELDS) for t in texts_in(raw.get(name)))]
    ):
        return Finding("this is not Unicode text", origin, repr(broken[:60]), "text in UTF-8", "correct that record")
    is_answerable = _is_answerable(raw)
    named = next((name for name in ANSWER_FIELDS if texts_in(raw.get(name))), None)
    main = texts_in(raw[named]) if named else from_messages
    texts = [*main, *(text for name in ALIAS_FIELDS for text in texts_in(raw.get(name)))]
    accepted = tuple(dict.fromkeys(text for text in texts if plain(text) and len(text.splitlines()) == 1))
    if not is_answerable:
        return Question(_id(text, ()), text, "", (), False, origin)
    if not accepted:
        found = f"{texts[0][:60]!r}" if texts else f"the fields {', '.join(raw)}"
        return Finding(
            "a question has no right answer that could be recognised",
            origin,
            f"{found}, an answer of several lines or without a letter" if texts else found,
            f"a short text, or a list of them, in one of {', '.join((*ANSWER_FIELDS, *ALIAS_FIELDS))}",
            'write one; or "answerable": false where nobody can know it; or --columns answer=COLUMN aliases=COLUMN',
        )
    return Question(_id(text, accepted), text, accepted[0], accepted, True, origin)


def texts_in(value: Any) -> list[str]:
    """The texts of an answer field, in order: its own, a list's, of nested `value`, `text` or `aliases`, of JSON."""
    if isinstance(value, str):
        if value.startswith("[") and value.rstrip().endswith("]"):
            try:
                return texts_in(json.loads(value))
            except ValueError:
                pass
        return [value.strip()] if value.strip() else []
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, Mapping):
        return [text for name in ("value", "text", *ALIAS_FIELDS) for text in texts_in(value.get(name))]
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        return [text for each in (value.tolist() if hasattr(value, "tolist") else value) for text in texts_in(each)]
    return []


def _asked(raw: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What is asked, and the answer where it stands in the same messages."""
    messages = raw.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        said = [(m.get("role"), m.get("content")) for m in messages if isinstance(m, Mapping)]
        said = [(role, content) for role, content in said if role != "system"]
        if [role for role, _ in said] in (["user"], ["user", "assistant"]):
            return str(said[0][1]).strip(), texts_in(said[1][1]) if len(said) > 1 else []
        return "", []
    name = next((name for name in QUESTION_FIELDS if isinstance(raw.get(name), str) and raw[name].strip()), None)
    if name is None:
        return "", []
    text = AFTER.sub("", BEFORE.sub("", raw[name])).strip()
    more = raw.get("input") if name == "instruction" else None
    return (f"{text}\n{more.strip()}" if isinstance(more, str) and more.strip() else text), []


def _not_unicode(texts: Sequence[str]) -> str | None:
    """The first text with half of a surrogate pair in it."""
    return next((text for text in texts if any("\ud800" <= character <= "\udfff" for character in text)), None)


def _is_answerable(raw: Mapping[str, Any]) -> bool:
    for name, meaning in ANSWERABLE_FIELDS.items():
        truth = truth_of(raw.get(name))
        if truth is not None:
            return truth == meaning
    return True


def _id(text: str, accepted: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([text, *accepted], ensure_ascii=False).encode()).hexdigest()[:ID_LENGTH]

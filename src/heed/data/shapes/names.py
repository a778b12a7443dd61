"""The names that data sets give their fields: known ones in tables, others through the columns a user names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("question", "solution"),
    ("query", "response"),
    ("query", "answer"),
    ("inputs", "targets"),
    ("input", "output"),
    ("instruction", "completion"),
    ("instruction", "answer"),
    ("user", "assistant"),
)
"""(what is asked, what is answered), the first that a record has is taken; `context` beside them goes with the question

instruction/output and instruction/response, with `input` or `context`, have shapes of their own.
"""

PROMPT_NAMES = tuple(dict.fromkeys(["prompt", "instruction", "question", *(asked for asked, _ in PAIRS)]))
"""what is asked, beside answers that are compared"""

SYNONYMS = {
    "chosen_messages": "chosen",
    "rejected_messages": "rejected",
    "chosen_response": "chosen",
    "rejected_response": "rejected",
    "response_chosen": "chosen",
    "response_rejected": "rejected",
    "kto_tag": "label",
    "functions": "tools",
}
"""other names of a field, taken where the record has none of the first name"""

ANSWER_NAMES = tuple(dict.fromkeys(["output", *(answered for _, answered in PAIRS)]))
TEXT_FIELDS = frozenset(
    [*PROMPT_NAMES, *ANSWER_NAMES, "input", "context", "system", "system_prompt", "chosen", "rejected"]
)
"""fields that hold text, so that a number there is its text"""

LIST_FIELDS = frozenset(
    ["messages", "conversations", "conversation", "answers", "responses", "completions", "history", "instances"]
)
"""fields that hold a list, so that text there is one written in a cell of a table"""

ANSWER_LISTS = frozenset(["answers", "responses", "completions"])

NOT_PLAIN = frozenset(
    [
        *TEXT_FIELDS,
        *LIST_FIELDS,
        *SYNONYMS,
        *["label", "labels", "target", "summary", "options", "choices", "hypothesis", "premise", "task", "image"],
    ]
)
"""fields beside `text` that say it is more than plain text: it is then not taken for text to go on pre-training with"""


def renamed(raw: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The record with fields under the names they mean: `columns` is our name -> the name in the file.

    A column that a record lacks stays lacking; our name is free to be any, so that `{"topic": "label"}` makes of a
    `label` that judges nothing a field without a meaning.
    """
    if not columns:
        return raw
    taken = {*columns, *columns.values()}
    kept = {key: value for key, value in raw.items() if key not in taken}
    return kept | {name: raw[column] for name, column in columns.items() if column in raw}


def with_known_names(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with the usual other names of a field replaced by the one that shapes know."""
    found = {key: SYNONYMS[key] for key in raw if key in SYNONYMS and raw.get(SYNONYMS[key]) is None}
    if not found:
        return raw
    kept = {key: value for key, value in raw.items() if key not in found and key not in found.values()}
    return kept | {name: raw[key] for key, name in found.items()}


def truth_of(value: Any) -> bool | None:
    """The truth value that is meant, however it is written: true, "False", 1, "0", 1.0, "no"; None where it is none."""
    if hasattr(value, "item"):
        value = value.item()  # of numpy
    if isinstance(value, bool | int | float):
        return bool(value) if value in (0, 1) else None
    return TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None


TRUTHS = {
    **dict.fromkeys(["true", "t", "yes", "y", "1", "1.0"], True),
    **dict.fromkeys(["false", "f", "no", "n", "0", "0.0"], False),
}


ANNOTATOR = ("annotator", "annotator_id", "rater", "rater_id", "worker", "worker_id")
"""fields that say who judged, the first that a record has"""


def annotator_of(raw: Mapping[str, Any]) -> str | None:
    """Who judged a record's answers; None where it does not say."""
    return next((str(raw[name]) for name in ANNOTATOR if raw.get(name) is not None), None)

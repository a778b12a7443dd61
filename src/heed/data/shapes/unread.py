"""Fields that nothing reads, said once for a data set, so that a misspelt `weigth` is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from heed.data.shapes.asked import BESIDE
from heed.data.shapes.names import PROMPT_NAMES
from heed.data.shapes.rankings import SCORES_OF_PAIRS
from heed.data.soundness import BOOKKEEPING
from heed.types import Conversation, Document, Judged, Message, Ranking

READ = frozenset(
    [
        *["system", "system_prompt", "history", "tools", "chat_template_kwargs", "documents", "label"],
        *["margin", "scores", "ranks", "score", "rank", "rankings"],
        *(key for keys in SCORES_OF_PAIRS for key in keys),
    ]
)
"""fields with a meaning beside those that tell a record's shape"""

TOLD_TO_TEMPLATES = frozenset(
    [
        *["name", "tool_call_id", "tool_calls", "id", "reasoning_content", "reasoning", "thinking", "instruction"],
        *["input", "refusal", "annotations", "audio"],
    ]
)
"""further fields of a message that chat templates read, or that services write into every message"""

OF_MESSAGES = frozenset(["weight", "train"])
"""fields that are read in a message and not in the record around it"""

MOST_NOTES = 40
"""fields of records that all differ are not listed without end"""


def note_unread(
    raw: Mapping[str, Any],
    needs: Mapping[str, str],
    nouns: Sequence[Conversation | Ranking | Judged | Document],
    notes: Counter[str],
) -> None:
    """Count a record with fields that no one reads, and one with fields of messages that only a template could.

    Args:
        needs: the fields that tell the record's shape, the question first.
    """
    first = next(iter(needs))
    beside = BESIDE if "instances" in needs or (first in PROMPT_NAMES and isinstance(raw[first], str)) else ()
    fields = [k for k in raw if not (k in needs or k in READ or k in beside or k in BOOKKEEPING or raw[k] is None)]
    if fields:
        named = [f"{key} (of a message it is read)" if key in OF_MESSAGES else key for key in fields]
        _count("records with fields that nothing reads", named, notes)
    said = {key: None for noun in nouns for m in _messages(noun) for key in m.extra if key not in TOLD_TO_TEMPLATES}
    if said:
        _count("records with fields of messages that only a chat template could read", list(said), notes)


def _count(words: str, fields: Sequence[str], notes: Counter[str]) -> None:
    note = f"{words}: {', '.join(sorted(fields))}"
    notes[note if note in notes or len(notes) < MOST_NOTES else f"{words}: of many names"] += 1


def _messages(noun: Conversation | Ranking | Judged | Document) -> Sequence[Message]:
    if isinstance(noun, Document):
        return ()
    if isinstance(noun, Conversation):
        return noun.messages
    answers = noun.answers if isinstance(noun, Ranking) else (noun.answer,)
    return [*noun.prompt, *(message for answer in answers for message in answer)]

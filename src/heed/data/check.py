"""Check a conversation before it is rendered, and deal conversations into training and held-out sides."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

from heed.errors import UserError
from heed.types import Conversation, Finding, Labelled, Message

BOOKKEEPING = frozenset({"id", "_id", "idx", "index", "uid", "uuid", "guid"})
"""fields that number a labelled record and say nothing of what it teaches"""


def check(conversation: Conversation) -> Finding | None:
    """Why supervised tuning cannot use this conversation, or None. Does not look at special tokens."""
    messages, origin = conversation.messages, conversation.origin
    remove = f"correct or remove record {origin.record:,}"
    if not messages:
        return Finding("the conversation has no messages", origin, "an empty list", "at least one answer", remove)
    for number, message in enumerate(messages, 1):
        if (found := _unusable_text(message)) is not None:
            where = f"message {number}: {found}"
            return Finding("a message's text cannot be used", origin, where, "Unicode text", remove)
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        return Finding(
            "the conversation has no assistant turn",
            origin,
            f"the roles {', '.join(message.role for message in messages[:8])}{', ...' if len(messages) > 8 else ''}",
            "at least one message whose role is assistant",
            "give the answer the role 'assistant', or remove the record",
        )
    if not any(message.weight > 0 for message in answers):
        return Finding(
            "the conversation has all-zero weights: nothing in it is trained",
            origin,
            f"{len(answers)} assistant message{'' if len(answers) == 1 else 's'} of weight 0",
            "at least one assistant message of weight above 0",
            'write "train": true in one of them, or remove the record',
        )
    for number, message in enumerate(messages, 1):
        if _is_trained(message) and not message.content.strip() and not message.extra.get("tool_calls"):
            return Finding(
                "the conversation has an empty response",
                origin,
                f"message {number}: {message.content[:40]!r}",
                "text or tool calls in every trained assistant message",
                'write the answer, or "train": false in that message, or remove the record',
            )
    return None


def _is_trained(message: Message) -> bool:
    return message.role == "assistant" and message.weight > 0


def _unusable_text(message: Message) -> str | None:
    if not isinstance(message.content, str):
        return f"{type(message.content).__name__} in place of text"
    texts = [message.role, message.content]
    if message.extra:
        texts.append(json.dumps(message.extra, ensure_ascii=False, default=str))
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # JSON can write one half of a pair such as \ud83d\ude00; no tokenizer can read it.
            return f"half of a surrogate pair, \\u{ord(text[error.start]):04x}"
    return None


def in_held_out(record: Conversation | Labelled, share: float) -> bool:
    """Whether a record belongs to the held-out side, which gets about `share` of all records.

    Decided by a hash of what the record says, so the same conversation lands on the same side in any file,
    order, run or machine, and copies of one another never end up on both sides; text that differs
    only in how accents are composed counts as the same. The side held out at one share is part
    of the side held out at any larger share.
    """
    if not 0 <= share <= 1:
        raise UserError(
            "the held-out share is not a share",
            where="held-out share",
            found=str(share),
            expected="a number from 0 to 1",
            fix="0.05 holds out one record in twenty",
        )
    digest = hashlib.blake2b(_canonical(record), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _canonical(record: Conversation | Labelled) -> bytes:
    said: Any
    if isinstance(record, Labelled):
        said = {key: value for key, value in record.fields.items() if key not in BOOKKEEPING}
    else:
        said = [[message.role, message.content] for message in record.messages]
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, default=str)
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")

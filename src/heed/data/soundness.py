"""Check records before they are rendered, and deal them into training and held-out sides."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from heed.errors import UserError
from heed.types import Conversation, Document, Finding, Judged, Labelled, Message, Origin, Ranking

BOOKKEEPING = frozenset({"id", "_id", "idx", "index", "uid", "uuid", "guid"})
"""fields that number a labelled record and say nothing of what it teaches"""


def check(conversation: Conversation) -> Finding | None:
    """Why supervised tuning cannot use this conversation, or None. Does not look at special tokens."""
    messages, origin = conversation.messages, conversation.origin
    remove = f"correct or remove record {origin.record:,}"
    if not messages:
        return Finding("the conversation has no messages", origin, "an empty list", "at least one answer", remove)
    if (unusable := check_text(messages, origin)) is not None:
        return unusable
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


def check_imitation(record: object) -> Finding | None:
    """Why supervised tuning must not learn from this record: it holds an answer that was judged not to be given."""
    if not isinstance(record, Judged) or record.is_desirable:
        return None
    return Finding(
        "the answer is labelled as one not to give",
        record.origin,
        "a label that is false",
        "answers to imitate, for supervised tuning learns every one",
        "remove the record; heed dpo --objective kto learns from both kinds; "
        "or if 'label' judges no answer: --columns topic=label",
    )


def check_prompt(messages: Sequence[Message], origin: Origin) -> Finding | None:
    """Why nothing can be answered to these messages, or None."""
    if (unusable := check_text(messages, origin)) is not None:
        return unusable
    asked = [message for message in messages if message.role == "user"]
    if not asked:
        roles = ", ".join(message.role for message in messages[:8]) or "no messages"
        fix = f"write a user message into record {origin.record:,}, or remove it"
        return Finding("the prompt has no user message", origin, roles, "at least one message of role user", fix)
    if not asked[-1].content.strip():
        return Finding(
            "the prompt is empty",
            origin,
            f"the user says {asked[-1].content[:40]!r}",
            "text in the last message of role user",
            f"write what is asked into record {origin.record:,}, or remove it",
        )
    return None


def check_answer(answer: Sequence[Message], number: int, origin: Origin) -> Finding | None:
    """Why an answer of a ranking, or a judged one, cannot be learnt from, or None; it may still be empty."""
    if (unusable := check_text(answer, origin)) is not None:
        return unusable
    roles = [message.role for message in answer]
    if not roles or roles[0] not in ("assistant", "tool") or roles[-1] != "assistant":
        return Finding(
            "an answer is not the assistant's",
            origin,
            f"answer {number} has the roles {', '.join(roles[:8]) or 'of no messages'}",
            "messages that begin after the prompt and end with one of role assistant",
            "put what comes before the answers into the prompt, the same for all of them, or remove the record",
        )
    weights = [message.weight for message in answer if message.role == "assistant"]
    if weights[-1] != 1 or any(weight not in (0, 1) for weight in weights):
        return Finding(
            "an answer has a weight of its own",
            origin,
            f"answer {number} has assistant messages of weight {', '.join(f'{weight:g}' for weight in weights[:8])}",
            "answers that are compared whole: weight 1 in the last message, 1 or 0 in others",
            "remove 'weight' and 'train' from the last message of the answer",
        )
    return None


def check_ranking(ranking: Ranking) -> Finding | None:
    """Why a ranking is broken, or None. One that is whole may still hold nothing to compare."""
    finding = check_prompt(ranking.prompt, ranking.origin)
    for number, answer in enumerate(ranking.answers, 1):
        finding = finding or check_answer(answer, number, ranking.origin)
    if finding is None and any(worse > better for better, worse in pairwise(ranking.scores)):
        return Finding(
            "the scores contradict the order of the answers",
            ranking.origin,
            f"the scores {', '.join(f'{score:g}' for score in ranking.scores)}, of the chosen answer first",
            "scores that fall, or stay the same for a tie, from the best answer on",
            "exchange chosen and rejected, or correct the scores, or remove the record",
        )
    return finding


def said(answer: Sequence[Message]) -> str:
    """What an answer says, the same for texts that differ in how accents are composed or in blanks around them."""
    told = [[m.role, _plain(m.content), m.extra] if m.extra else [m.role, _plain(m.content)] for m in answer]
    return json.dumps(told, ensure_ascii=False, sort_keys=True, default=str)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def is_empty(answer: Sequence[Message]) -> bool:
    """Whether a message of the assistant in an answer says nothing and calls no tool."""
    return any(_is_trained(m) and not m.content.strip() and not m.extra.get("tool_calls") for m in answer)


def check_text(messages: Sequence[Message], origin: Origin) -> Finding | None:
    """Why the text of these messages is none, or None."""
    for number, message in enumerate(messages, 1):
        if (found := _unusable_text(message)) is not None:
            where, remove = f"message {number}: {found}", f"correct or remove record {origin.record:,}"
            return Finding("a message's text cannot be used", origin, where, "Unicode text", remove)
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


def in_held_out(record: Conversation | Labelled | Document, share: float) -> bool:
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


def _canonical(record: Conversation | Labelled | Document) -> bytes:
    said: Any
    if isinstance(record, Document):
        said = record.text
    elif isinstance(record, Labelled):
        said = {key: value for key, value in record.fields.items() if key not in BOOKKEEPING}
    else:
        said = [[message.role, message.content] for message in record.messages]
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, default=str)
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")

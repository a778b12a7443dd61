"""Records of one shape from what heed's readers understood, for trainers that read that shape alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from heed.types import Conversation, Document, Judged, Message, Ranking

Noun = Conversation | Ranking | Judged | Document
Record = dict[str, Any]
Shape = Literal["messages", "alpaca", "preference"]
PARTS_OF_AN_INSTRUCTION = ("instruction", "input")
"""of a message, which say again what its content says"""


def as_shape(noun: Noun, raw: Mapping[str, Any], shape: Shape) -> list[Record] | str:
    """The records of this shape that say what a record says; in words why there is none.

    messages: `{"messages": [{"role", "content", ...}]}`, with `tools` where there are some. Of ranked answers the best.
    alpaca: `{"instruction", "input", "output"}`, and `system` where there is one: one question, one answer, plain text.
    preference: `{"prompt": [...], "chosen": [...], "rejected": [...]}`, one record for every two answers of which one
    is better, with `score_chosen` and `score_rejected` where there are scores.

    Args:
        raw: the record as it is written, whose instruction and input stay apart.
    """
    if isinstance(noun, Document):
        return "plain text has no turns"
    if shape == "preference":
        return list(_pairs(noun)) if isinstance(noun, Ranking) else "one answer alone is preferred to none"
    if isinstance(noun, Judged) and not noun.is_desirable:
        return "an answer that is judged bad is none to imitate"
    conversation = noun.best() if isinstance(noun, Ranking) else _whole(noun)
    if not any(message.role == "assistant" for message in conversation.messages):
        return "there is no answer"
    return [_messages(conversation)] if shape == "messages" else _alpaca(conversation, raw)


def _whole(noun: Conversation | Judged) -> Conversation:
    return noun.conversation() if isinstance(noun, Judged) else noun


def _messages(conversation: Conversation) -> Record:
    return {"messages": written(conversation.messages), **_beside(conversation)}


def written(messages: Sequence[Message]) -> list[Record]:
    """Messages as the hub's data sets have them; a weight stands where it is not that of a trained answer."""
    return [
        {
            "role": message.role,
            "content": message.content,
            **{key: value for key, value in message.extra.items() if key not in PARTS_OF_AN_INSTRUCTION},
            **({"weight": message.weight} if message.weight != 1 else {}),
        }
        for message in messages
    ]


def _beside(noun: Conversation | Ranking) -> Record:
    tools = {"tools": [dict(tool) for tool in noun.tools]} if noun.tools else {}
    return tools | ({"chat_template_kwargs": dict(noun.template_arguments)} if noun.template_arguments else {})


def _alpaca(conversation: Conversation, raw: Mapping[str, Any]) -> list[Record] | str:
    messages = conversation.messages
    if conversation.tools or conversation.template_arguments:
        return "tools have no place in alpaca"
    system = [message.content for message in messages[:1] if message.role in ("system", "developer")]
    roles = [message.role for message in messages[len(system) :]]
    if roles != ["user", "assistant"]:
        return "it has more than one question and its answer" if len(roles) > 2 else "it is no question and its answer"
    asked, answered = messages[len(system) :]
    if answered.weight != 1 or any(message.extra.keys() - set(PARTS_OF_AN_INSTRUCTION) for message in messages):
        return "weights, tool calls and names have no place in alpaca"
    parts = {"instruction": asked.content, "input": ""}
    if raw.get("instruction") and asked.extra.keys() == set(PARTS_OF_AN_INSTRUCTION):
        parts = {key: str(asked.extra[key]) for key in PARTS_OF_AN_INSTRUCTION}
    return [{**({"system": system[0]} if system else {}), **parts, "output": answered.content}]


def _pairs(ranking: Ranking) -> Iterator[Record]:
    prompt = [{key: value for key, value in each.items() if key != "weight"} for each in written(ranking.prompt)]
    for worse in range(1, len(ranking.answers)):
        for better in range(worse):
            scores = (ranking.scores[better], ranking.scores[worse]) if ranking.scores else ()
            if scores and scores[0] == scores[1]:
                continue  # a tie prefers neither
            told = {} if not scores or ranking.are_ranks else dict(zip(SCORES, scores, strict=True))
            answers = {
                "chosen": written(ranking.answers[better]),
                "rejected": written(ranking.answers[worse]),
            }
            yield {"prompt": prompt, **answers, **told, **_beside(ranking)}


SCORES = ("score_chosen", "score_rejected")

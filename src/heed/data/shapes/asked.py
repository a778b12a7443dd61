"""What comes before an answer, in every shape of record: system prompt, history, question, tools."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from heed.data.shapes.messages import from_json, refuse, to_messages, to_tools
from heed.types import Conversation, Message, Origin, Ranking

Raw = Mapping[str, Any]


def conversation(messages: tuple[Message, ...], raw: Raw, origin: Origin) -> Conversation:
    """The conversation of these messages, with the tools and arguments of its record."""
    return Conversation(messages, origin, to_tools(raw.get("tools"), origin), template_arguments(raw, origin))


def ranking(prompt: tuple[Message, ...], answers: Sequence[tuple[Message, ...]], raw: Raw, origin: Origin) -> Ranking:
    """The ranking of these answers, with the tools at hand for all of them."""
    tools, arguments = to_tools(raw.get("tools"), origin), template_arguments(raw, origin)
    return Ranking(prompt, tuple(answers), origin, tools=tools, template_arguments=arguments)


def template_arguments(raw: Raw, origin: Origin) -> dict[str, Any]:
    """Named values for the chat template: `chat_template_kwargs` and `documents`."""
    arguments = from_json(raw.get("chat_template_kwargs") or {}, origin, "chat_template_kwargs")
    if not isinstance(arguments, Mapping):
        example = '"chat_template_kwargs": {"enable_thinking": false}'
        raise refuse(origin, "'chat_template_kwargs' is not an object", arguments, "named values", example)
    documents = raw.get("documents")
    return {**arguments, **({"documents": from_json(documents, origin, "documents")} if documents else {})}


def opening(raw: Raw, origin: Origin, answer_weight: float = 1.0) -> tuple[Message, ...]:
    """What comes before the question: a system message, and earlier turns from `history` pairs."""
    messages: tuple[Message, ...] = ()
    for name in ("system", "system_prompt"):
        if raw.get(name):
            messages += to_messages(raw[name], origin, text_role="system")
    history = from_json(raw.get("history") or [], origin, "history")
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            wanted = "a list of [what the user said, what the assistant answered]"
            raise refuse(origin, "'history' is not a list of pairs", pair, wanted, '"history": [["...", "..."]]')
        messages += to_messages(pair[0], origin, text_role="user")
        messages += to_messages(pair[1], origin, text_role="assistant", answer_weight=answer_weight)
    return messages


BESIDE = ("context", "input")
"""texts beside a question that go with it"""


def instruction_of(raw: Raw, origin: Origin) -> Message:
    """The user's message of an instruction record. Its parts stay in `extra`, for templates with their own layout."""
    instruction = raw["instruction"] or ""
    given = "\n\n".join(dict.fromkeys(text for name in BESIDE if (text := _text_beside(raw, name, origin))))
    content = "\n\n".join(part for part in (instruction, given) if part)
    return Message("user", content, extra={"instruction": instruction, "input": given})


def _text_beside(raw: Raw, name: str, origin: Origin) -> str:
    text = raw.get(name) or ""
    if not isinstance(text, str):
        raise refuse(origin, f"'{name}' is not text", text, "text", f'"{name}": "..."')
    return text


def prompt_of(raw: Raw, key: str, origin: Origin) -> tuple[Message, ...]:
    """The prompt, held under `key`, of an answer that stands apart. Assistant turns in it are context, not trained.

    A text in `context` or `input` beside a question goes with it, unless the question holds the same words already.
    """
    before = opening(raw, origin, answer_weight=0.0)
    if key == "instruction":
        return (*before, instruction_of(raw, origin))
    asked = raw[key]
    for name in BESIDE:
        if name == key or not isinstance(asked, str):
            continue
        given = _text_beside(raw, name, origin)
        if given and not re.search(rf"(?<!\w){re.escape(given)}(?!\w)", asked):
            asked = f"{asked}\n\n{given}"
    return before + to_messages(asked, origin, text_role="user", answer_weight=0.0)


def as_context(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with nothing in them trained."""
    return tuple(Message(m.role, m.content, 0.0, m.extra) if m.role == "assistant" else m for m in messages)

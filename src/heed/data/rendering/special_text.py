"""Special tokens written out in a user's data: what is done with them so that none is taken for a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from heed.data.rendering.conventions import developer_is_system
from heed.data.rendering.marks import THINK_TAG, texts, unused_characters, with_texts
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.stops import forbidden_pattern
from heed.types import Conversation, Message, Rendered, Span


def noticed(conversation: Conversation, template: ChatTemplate) -> dict[str, int]:
    """What the template changes of a conversation without being asked to, or because it was: in words, how often."""
    found = {}
    if template.special_text != "error" and (count := num_special_texts(conversation, template)):
        done = "encoded as text" if template.special_text == "as-text" else "left out"
        found[f"special tokens written out in the data were {done}"] = count
    if any(m.role == "developer" for m in conversation.messages) and developer_is_system(template):
        found["records whose developer speaks as the system, the role that the template knows"] = 1
    return found


def num_special_texts(conversation: Conversation, template: ChatTemplate) -> int:
    """How many special tokens are written out in what a conversation says."""
    found = 0

    def count(text: str) -> str:
        nonlocal found
        found += sum(1 for _ in forbidden_pattern(template).finditer(text))
        return text

    # The parts that an alpaca record's content is made of stand beside it: they are not counted twice.
    once = [replace(m, extra={k: v for k, v in m.extra.items() if k not in PARTS}) for m in conversation.messages]
    _changed(replace(conversation, messages=tuple(once)), count)
    return found


PARTS = ("instruction", "input")
"""of a message, which its content holds too"""


def treated(conversation: Conversation, template: ChatTemplate) -> tuple[Conversation, str]:
    """The conversation as the template is given it, and the character that guards special tokens in it, if any."""
    if template.special_text == "as-text":
        return guarded(conversation, template)
    return (stripped(conversation, template) if template.special_text == "strip" else conversation), ""


def stripped(conversation: Conversation, template: ChatTemplate) -> Conversation:
    """The conversation without the special tokens that are written out in it."""
    pattern = forbidden_pattern(template)

    def strip(text: str) -> str:
        while pattern.search(text):  # what is left over may make up another
            text = pattern.sub("", text)
        return text

    return _changed(conversation, strip)


def guarded(conversation: Conversation, template: ChatTemplate) -> tuple[Conversation, str]:
    """The conversation with a character behind the first one of each special token in it, and that character.

    Broken up like this a token is text to the template and to what proves the mask; `unguarded` undoes it.
    """
    guard = next(unused_characters(*_all_texts(conversation)))
    pattern = forbidden_pattern(template)
    broken = _changed(conversation, lambda text: pattern.sub(lambda m: m[0][0] + guard + m[0][1:], text))
    return broken, guard


def unguarded(rendered: Rendered, guard: str, template: ChatTemplate) -> Rendered:
    """A render as it was meant, with the places in which a special token is text."""
    pieces = rendered.text.split(guard)
    text = "".join(pieces)
    ends: list[int] = []
    for piece in pieces[:-1]:
        ends.append(len(piece) + (ends[-1] if ends else 0))
    literal = []
    for end in ends:
        found = forbidden_pattern(template).match(text, end - 1)
        if found is not None:
            literal.append((end - 1, found.end()))
    positions = [end + number for number, end in enumerate(ends)]

    def moved(edge: int) -> int:
        return edge - sum(1 for at in positions if at < edge)

    spans = tuple(Span(moved(span.start), moved(span.stop), span.weight) for span in rendered.spans)
    return replace(rendered, text=text, spans=spans, literal=tuple(literal))


def _all_texts(conversation: Conversation) -> list[str]:
    said = [[m.content, m.extra] for m in conversation.messages]
    return list(texts([said, list(conversation.tools), conversation.template_arguments]))


def _changed(conversation: Conversation, change: Callable[[str], str]) -> Conversation:
    """The conversation with every text changed that may not hold special tokens; thoughts keep their tags."""

    def change_message(message: Message) -> Message:
        def but_tags(text: str) -> str:
            if message.role != "assistant":
                return change(text)
            return "".join(p if THINK_TAG.fullmatch(p) else change(p) for p in THINK_TAG.split(text))

        extra: Any = with_texts(message.extra, but_tags) if message.extra else message.extra
        return replace(message, content=but_tags(message.content), extra=extra)

    return replace(
        conversation,
        messages=tuple(change_message(message) for message in conversation.messages),
        tools=tuple(with_texts(tool, change) for tool in conversation.tools),
        template_arguments=with_texts(conversation.template_arguments, change),
    )

"""Records of one answer: to imitate, or judged on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from heed.data.shapes.asked import Raw, as_context, conversation, instruction_of, opening, prompt_of, template_arguments
from heed.data.shapes.messages import from_json, refuse, to_messages, to_tools
from heed.data.shapes.names import truth_of
from heed.data.shapes.tidy import with_greeting_as_context
from heed.errors import UserError
from heed.types import Conversation, Document, Judged, Message, Origin

Nouns = tuple[Conversation | Judged | Document, ...]
ToNouns = Callable[[Raw, Origin], Nouns]


def instructed(answer: str) -> ToNouns:
    """Records of an `instruction`, with `input` or `context`, whose answer stands in a field of this name."""

    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        answered = to_messages(raw[answer], origin, text_role="assistant")
        messages = (*opening(raw, origin), instruction_of(raw, origin), *answered)
        return (conversation(messages, raw, origin),)

    return to_nouns


INSTANCES = '"instances": [{"input": "...", "output": "..."}]'


def seed_task(raw: Raw, origin: Origin) -> Nouns:
    """An instruction with several instances of input and output."""
    nouns = []
    for instance in raw["instances"]:
        if not isinstance(instance, Mapping) or not isinstance(instance.get("output"), str):
            raise refuse(origin, "an instance has no output", instance, "an object with input and output", INSTANCES)
        asked = (*opening(raw, origin), instruction_of({**raw, **instance}, origin))
        nouns.append(conversation((*asked, Message("assistant", instance["output"])), raw, origin))
    if not nouns:
        raise refuse(origin, "a seed task has no instances", raw["instances"], "at least one instance", INSTANCES)
    return tuple(nouns)


def question_and_answer(question: str, answer: str) -> ToNouns:
    """Records whose question and answer stand in fields of these names."""

    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        answered = to_messages(raw[answer], origin, text_role="assistant")
        tools, arguments = to_tools(raw.get("tools"), origin), template_arguments(raw, origin)
        return (Conversation.answered(prompt_of(raw, question, origin), answered, origin, tools, arguments),)

    return to_nouns


def dialogue(key: str) -> ToNouns:
    """Records that are a list of messages; what the assistant says before the user does is context."""

    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        turns = from_json(raw[key], origin, key)
        messages = to_messages(turns, origin, text_role="user")
        if isinstance(turns, list):
            messages = with_greeting_as_context(messages, turns)
        return (conversation(opening(raw, origin) + messages, raw, origin),)

    return to_nouns


def alone(key: str) -> ToNouns:
    """Records that only ask."""

    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        return (conversation(prompt_of(raw, key, origin), raw, origin),)

    return to_nouns


def document(raw: Raw, origin: Origin) -> Nouns:
    """A record of plain text."""
    return (Document(raw["text"], origin),)


# ---- judged answers


def judged(question: str, answer: str) -> ToNouns:
    """Records whose answer stands in a field of this name, and is judged by `label`."""

    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        is_good = judgement(raw, origin)
        answered = to_messages(raw[answer], origin, text_role="assistant")
        tools, arguments = to_tools(raw.get("tools"), origin), template_arguments(raw, origin)
        return (Judged(prompt_of(raw, question, origin), answered, is_good, origin, tools, arguments),)

    return to_nouns


def with_judgement(noun: Conversation, raw: Raw) -> Judged:
    """A conversation of any shape whose record judges it by `label`: its last stretch of the assistant's is judged."""
    is_good = judgement(raw, noun.origin)
    messages = noun.messages
    start = len(messages)
    while start and messages[start - 1].role in ("assistant", "tool"):
        start -= 1
    prompt, answer = as_context(messages[:start]), messages[start:]
    return Judged(prompt, answer, is_good, noun.origin, noun.tools, noun.template_arguments)


def judgement(raw: Raw, origin: Origin) -> bool:
    """What `label` says of the answer.

    Raises:
        UserError: it is no truth value. To take the record for one to imitate could train an answer that is not to
            be given.
    """
    found = truth_of(raw["label"])
    if found is not None:
        return found
    raise UserError(
        "a label beside an answer is not a truth value",
        where=str(origin),
        found=f"label: {raw['label']!r:.80}",
        expected="true or false, however it is written (True, 1, no...): whether the answer is one to give",
        fix="correct it there; or if 'label' judges no answer, give it a name without a meaning: --columns topic=label",
    )

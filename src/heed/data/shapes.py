"""The shapes data sets come in: a raw record into conversations or rankings, recognised by its own keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.data.messages import from_json, refuse, to_messages, to_tools
from heed.errors import UserError
from heed.types import Conversation, Message, Origin, Ranking

Raw = Mapping[str, Any]
Nouns = tuple[Conversation | Ranking, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A way of writing a record, told by the keys it must have and what kind of value each holds."""

    name: str
    needs: Mapping[str, str]
    """key -> kinds allowed, as words: `text`, `list`, `object`"""
    to_nouns: Callable[[Raw, Origin], Nouns]


def recognise(raw: Raw, origin: Origin) -> Shape:
    """The most specific shape whose keys the record has; a null counts as absent unless no shape fits otherwise."""
    kinds = tuple((key, _kind(value)) for key, value in raw.items())
    shape = _shape_of(tuple(pair for pair in kinds if pair[1] != "null")) or _shape_of(kinds)
    if shape is None:
        raise _unknown(kinds, origin)
    return shape


def convert(shape: Shape, raw: Raw, origin: Origin) -> Nouns:
    """What the record says; a record of several instances says several conversations, of one origin."""
    return shape.to_nouns(raw, origin)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "object"
    return "list" if isinstance(value, Sequence) else "number"


@functools.lru_cache(maxsize=4096)
def _shape_of(kinds: tuple[tuple[str, str], ...]) -> Shape | None:
    # A null can stand for empty text, but not for a list of messages.
    has = {key: "text" if kind == "null" else kind for key, kind in kinds}
    for shape in SHAPES:
        if all(has.get(key) in allowed.split() for key, allowed in shape.needs.items()):
            return shape
    return None


def _unknown(kinds: Sequence[tuple[str, str]], origin: Origin) -> UserError:
    keys = [f"{key} ({kind})" for key, kind in kinds]
    more = f" and {len(keys) - 12:,} more" if len(keys) > 12 else ""
    known = "; ".join(dict.fromkeys("+".join(shape.needs) for shape in SHAPES))
    return UserError(
        "unknown shape of record",
        where=str(origin),
        found=f"the keys {', '.join(keys[:12])}{more}" if keys else "no keys",
        expected=f"one of: {known}",
        fix="rename the fields to one of these, e.g. prompt and response; "
        "for labelled records give the data set `wordings: FILE` in the settings file",
    )


# ---- helpers: the prompt part of a record


def _conversation(messages: tuple[Message, ...], raw: Raw, origin: Origin) -> Conversation:
    return Conversation(messages, origin, to_tools(raw.get("tools"), origin), _template_arguments(raw, origin))


def _ranking(prompt: tuple[Message, ...], answers: Sequence[tuple[Message, ...]], raw: Raw, origin: Origin) -> Ranking:
    if to_tools(raw.get("tools"), origin) or _template_arguments(raw, origin):
        raise UserError(
            "a ranking with tools or template arguments cannot be used yet",
            where=str(origin),
            found=", ".join(key for key in ("tools", "chat_template_kwargs", "documents") if raw.get(key)),
            expected="prompt and answers only",
            fix="remove those keys, or write the best answer as a record with `messages`",
        )
    return Ranking(prompt, tuple(answers), origin)


def _template_arguments(raw: Raw, origin: Origin) -> dict[str, Any]:
    arguments = from_json(raw.get("chat_template_kwargs") or {}, origin, "chat_template_kwargs")
    if not isinstance(arguments, Mapping):
        example = '"chat_template_kwargs": {"enable_thinking": false}'
        raise refuse(origin, "'chat_template_kwargs' is not an object", arguments, "named values", example)
    documents = raw.get("documents")
    return {**arguments, **({"documents": from_json(documents, origin, "documents")} if documents else {})}


def _opening(raw: Raw, origin: Origin, answer_weight: float = 1.0) -> tuple[Message, ...]:
    """What comes before the question: a system message, and earlier turns from `history` pairs."""
    system = raw.get("system") or raw.get("system_prompt")
    messages = to_messages(system, origin, text_role="system") if system else ()
    history = from_json(raw.get("history") or [], origin, "history")
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            wanted = "a list of [what the user said, what the assistant answered]"
            raise refuse(origin, "'history' is not a list of pairs", pair, wanted, '"history": [["...", "..."]]')
        messages += to_messages(pair[0], origin, text_role="user")
        messages += to_messages(pair[1], origin, text_role="assistant", answer_weight=answer_weight)
    return messages


def _instruction(raw: Raw, input_key: str, origin: Origin) -> Message:
    """The user's message of an alpaca record. Its parts stay in `extra`, for templates with their own layout."""
    instruction, given = raw["instruction"] or "", raw.get(input_key) or ""
    if not isinstance(given, str):
        raise refuse(origin, f"'{input_key}' is not text", given, "text", f'"{input_key}": "..."')
    content = "\n\n".join(part for part in (instruction, given) if part)
    return Message("user", content, extra={"instruction": instruction, "input": given})


def _prompt(raw: Raw, key: str, origin: Origin) -> tuple[Message, ...]:
    """The prompt, held under `key`, of an answer that stands apart. Assistant turns in it are context, not trained."""
    opening = _opening(raw, origin, answer_weight=0.0)
    if key == "instruction":
        return (*opening, _instruction(raw, "input", origin))
    return opening + to_messages(raw[key], origin, text_role="user", answer_weight=0.0)


# ---- supervised records


def _alpaca(raw: Raw, origin: Origin) -> Nouns:
    question = _instruction(raw, "input", origin)
    answer = to_messages(raw["output"], origin, text_role="assistant")
    return (_conversation((*_opening(raw, origin), question, *answer), raw, origin),)


def _dolly(raw: Raw, origin: Origin) -> Nouns:
    question = _instruction(raw, "context" if raw.get("context") else "input", origin)
    answer = to_messages(raw["response"], origin, text_role="assistant")
    return (_conversation((*_opening(raw, origin), question, *answer), raw, origin),)


INSTANCES = '"instances": [{"input": "...", "output": "..."}]'


def _seed_task(raw: Raw, origin: Origin) -> Nouns:
    nouns = []
    for instance in raw["instances"]:
        if not isinstance(instance, Mapping) or not isinstance(instance.get("output"), str):
            raise refuse(origin, "an instance has no output", instance, "an object with input and output", INSTANCES)
        question = _instruction({**raw, **instance}, "input", origin)
        nouns.append(_conversation((question, Message("assistant", instance["output"])), raw, origin))
    if not nouns:
        raise refuse(origin, "a seed task has no instances", raw["instances"], "at least one instance", INSTANCES)
    return tuple(nouns)


def _prompt_and(answer_key: str) -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        answer = to_messages(raw[answer_key], origin, text_role="assistant")
        return (_conversation(_prompt(raw, "prompt", origin) + answer, raw, origin),)

    return to_nouns


def _dialogue(key: str) -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        turns = from_json(raw[key], origin, key)
        messages = to_messages(turns, origin, text_role="user")
        system = _opening({"system": raw.get("system")}, origin)
        return (_conversation(system + messages, raw, origin),)

    return to_nouns


# ---- preferences and rankings


def _preference(prompt_key: str, chosen_key: str = "chosen") -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        chosen, rejected = _answer(raw[chosen_key], origin), _answer(raw["rejected"], origin)
        prompt = _prompt(raw, prompt_key, origin) if prompt_key else _opening(raw, origin, answer_weight=0.0)
        # `chosen` may be only the answer, or the whole conversation that ends in it.
        if chosen and chosen[0].role not in ("assistant", "tool"):
            shared = _common_beginning(chosen, rejected)
            _refuse_other_prompt(prompt, chosen[:shared], origin)
            prompt, chosen, rejected = _as_context(chosen[:shared]), chosen[shared:], rejected[shared:]
        if not prompt or not chosen or not rejected:
            raise refuse(
                origin,
                "a preference lacks an answer" if prompt else "a preference has no prompt that both answers share",
                f"{len(prompt)} messages before, {len(chosen)} chosen and {len(rejected)} rejected",
                "a prompt, or chosen and rejected that begin with the same messages and end in an answer",
                '"prompt": "...", "chosen": "...", "rejected": "..."',
            )
        return (_ranking(prompt, (chosen, rejected), raw, origin),)

    return to_nouns


TURN = re.compile(r"\n\n(Human|Assistant):")


def _answer(value: Any, origin: Origin) -> tuple[Message, ...]:
    """Messages as they are; text in the layout of hh-rlhf as its turns; other text as one answer."""
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return to_messages(value, origin, text_role="assistant")
    parts = TURN.split(value)
    # One space belongs to the layout, any other to the text.
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(
        Message("user" if speaker == "Human" else "assistant", text.removeprefix(" ")) for speaker, text in turns
    )


def _common_beginning(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many leading messages two conversations share, leaving at least one of each."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), max(limit, 0))


def _refuse_other_prompt(prompt: Sequence[Message], shared: Sequence[Message], origin: Origin) -> None:
    """A prompt beside whole conversations must be part of them, or one of the two would be lost without a word."""
    contents = {message.content.strip() for message in shared}
    missing = [message.content for message in prompt if message.content.strip() not in contents]
    if missing:
        raise UserError(
            "the prompt is not part of the conversations in chosen and rejected",
            where=str(origin),
            found=f"prompt {missing[0][:80]!r}",
            expected="chosen and rejected with answers only, or with whole conversations that begin with the prompt",
            fix="remove either the prompt, or the messages before the answer in chosen and rejected",
        )


def _as_context(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(Message(m.role, m.content, 0.0, m.extra) if m.role == "assistant" else m for m in messages)


def _ranked(prompt_key: str, answers_key: str) -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        scored = [key for key in ("scores", "score", "ranks", "rank", "rankings") if raw.get(key) is not None]
        answers = [to_messages(answer, origin, text_role="assistant") for answer in raw[answers_key]]
        if scored or len(answers) < 2:
            raise UserError(
                "ranked answers with scores are not read" if scored else "a ranking needs two answers or more",
                where=str(origin),
                found=f"the key '{scored[0]}'" if scored else f"{len(answers)} in '{answers_key}'",
                expected=f"'{answers_key}' as a list of at least two answers, best first",
                fix=f"sort '{answers_key}' best first and remove '{scored[0]}'"
                if scored
                else 'for a single answer write "prompt": "...", "response": "..."',
            )
        return (_ranking(_prompt(raw, prompt_key, origin), answers, raw, origin),)

    return to_nouns


ANY = "text list object"

SHAPES = (
    Shape("preference", {"prompt": "text list", "chosen": ANY, "rejected": ANY}, _preference("prompt")),
    Shape("preference", {"instruction": "text", "chosen": ANY, "rejected": ANY}, _preference("instruction")),
    Shape("preference", {"question": "text", "chosen": ANY, "rejected": ANY}, _preference("question")),
    Shape("preference", {"conversations": "list", "chosen": ANY, "rejected": ANY}, _preference("conversations")),
    Shape("preference", {"chosen": "text list", "rejected": "text list"}, _preference("")),
    Shape(
        "preference", {"instruction": "text", "output": "text", "rejected": ANY}, _preference("instruction", "output")
    ),
    Shape("ranked answers", {"instruction": "text", "output": "list"}, _ranked("instruction", "output")),
    Shape("ranked answers", {"instruction": "text", "answers": "list"}, _ranked("instruction", "answers")),
    Shape("ranked answers", {"instruction": "text", "responses": "list"}, _ranked("instruction", "responses")),
    Shape("ranked answers", {"prompt": "text list", "answers": "list"}, _ranked("prompt", "answers")),
    Shape("ranked answers", {"prompt": "text list", "responses": "list"}, _ranked("prompt", "responses")),
    Shape("messages", {"messages": "list text"}, _dialogue("messages")),
    Shape("sharegpt", {"conversations": "list text"}, _dialogue("conversations")),
    Shape("sharegpt", {"conversation": "list"}, _dialogue("conversation")),
    Shape("seed tasks", {"instruction": "text", "instances": "list"}, _seed_task),
    Shape("alpaca", {"instruction": "text", "output": "text"}, _alpaca),
    Shape("dolly", {"instruction": "text", "response": "text"}, _dolly),
    Shape("prompt/completion", {"prompt": "text list", "completion": ANY}, _prompt_and("completion")),
    Shape("prompt/response", {"prompt": "text list", "response": ANY}, _prompt_and("response")),
)
"""the most specific first: the first whose keys are all there is taken"""

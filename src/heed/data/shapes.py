"""The shapes data sets come in: a raw record into conversations, rankings or judged answers, recognised by its keys."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heed.data.messages import from_json, refuse, to_messages, to_tools
from heed.errors import UserError
from heed.types import Conversation, Judged, Message, Origin, Prompt, Ranking

Raw = Mapping[str, Any]
Noun = Conversation | Ranking | Judged
Nouns = tuple[Noun, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A way of writing a record, told by the keys it must have and what kind of value each holds."""

    name: str
    needs: Mapping[str, str]
    """key -> kinds allowed, as words: `text`, `list`, `object`, `yes/no`"""
    to_nouns: Callable[[Raw, Origin], Nouns]


def recognise(raw: Raw, origin: Origin) -> Shape:
    """The most specific shape whose keys the record has; a null counts as absent unless no shape fits otherwise."""
    kinds = _kinds(raw)
    shape = _shape_of(kinds)
    if shape is None:
        raise _unknown(kinds, SHAPES, origin)
    return shape


def convert(shape: Shape, raw: Raw, origin: Origin) -> Nouns:
    """What the record says; a record of several instances says several conversations, of one origin."""
    return shape.to_nouns(raw, origin)


def to_prompts(raw: Raw, origin: Origin) -> tuple[str, tuple[Prompt, ...]]:
    """What a record asks, and the shape it was written in; the answer that it may hold beside it is not read.

    A record of any shape asks something: a conversation that ends in an answer asks what comes before that. Besides
    those, a prompt may stand alone as `prompt`, `instruction` (with `input`) or `question`.
    """
    kinds = _kinds(raw)
    shape = _shape_of(kinds) or _first_fitting(kinds, PROMPT_SHAPES)
    if shape is None:
        raise _unknown(kinds, PROMPT_SHAPES + SHAPES, origin)
    nouns = shape.to_nouns(raw, origin)
    prompts = tuple(_asked(noun, raw) for noun in nouns)
    is_answered = any(
        not isinstance(noun, Conversation) or noun.messages != prompt.messages
        for noun, prompt in zip(nouns, prompts, strict=True)
    )
    return f"{shape.name} (answers not read)" if is_answered else shape.name, prompts


def _asked(noun: Noun, raw: Raw) -> Prompt:
    if isinstance(noun, Ranking):
        return Prompt(noun.prompt, noun.origin, raw)
    messages = noun.prompt if isinstance(noun, Judged) else noun.messages
    if isinstance(noun, Conversation) and messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    return Prompt(messages, noun.origin, raw, noun.tools, noun.template_arguments)


def _kinds(raw: Raw) -> tuple[tuple[str, str], ...]:
    return tuple((key, "yes/no" if _is_judgement(key, value) else _kind(value)) for key, value in raw.items())


def _is_judgement(key: str, value: Any) -> bool:
    """A `label` says yes or no; any other number, as classes have, says nothing of how good an answer is."""
    return key == "label" and isinstance(value, bool | int | float) and value in (0, 1)


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
    without_nulls = [pair for pair in kinds if pair[1] != "null"]
    return _first_fitting(without_nulls, SHAPES) or _first_fitting(kinds, SHAPES)


def _first_fitting(kinds: Sequence[tuple[str, str]], shapes: Sequence[Shape]) -> Shape | None:
    # A null can stand for empty text, but not for a list of messages.
    has = {key: "text" if kind == "null" else kind for key, kind in kinds}
    for shape in shapes:
        if all(has.get(key) in allowed.split() for key, allowed in shape.needs.items()):
            return shape
    return None


def _unknown(kinds: Sequence[tuple[str, str]], shapes: Sequence[Shape], origin: Origin) -> UserError:
    keys = [f"{key} ({kind})" for key, kind in kinds]
    more = f" and {len(keys) - 12:,} more" if len(keys) > 12 else ""
    known = "; ".join(dict.fromkeys("+".join(shape.needs) for shape in shapes))
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
        answers = [to_messages(answer, origin, text_role="assistant") for answer in raw[answers_key]]
        if not answers:
            raise refuse(origin, "a ranking has no answers", raw[answers_key], "answers, best first", '["...", "..."]')
        ranking = _ranking(_prompt(raw, prompt_key, origin), answers, raw, origin)
        return (_best_first(ranking, *_scores(raw, len(answers), origin)),)

    return to_nouns


def _scores(raw: Raw, num_answers: int, origin: Origin) -> tuple[list[float], bool]:
    """A number for each answer, larger for better ones, and whether differences of them mean anything."""
    given = [key for key in ("scores", "ranks", "score", "rank", "rankings") if raw.get(key) is not None]
    if not given:
        return [], False
    numbers = from_json(raw[given[0]], origin, given[0])
    if given not in (["scores"], ["ranks"]) or not isinstance(numbers, Sequence) or len(numbers) != num_answers:
        raise UserError(
            "the order of ranked answers cannot be told",
            where=str(origin),
            found=f"{num_answers} answers and {' and '.join(f'{key}: {raw[key]!r:.60}' for key in given)}",
            expected="scores (larger is better) or ranks (1 is best), one of the two, a number for each answer",
            fix=f'in that record write "scores": {[float(i) for i in range(num_answers, 0, -1)]}, '
            "or sort the answers best first and remove that key",
        )
    values = [_number(value, given[0], origin) for value in numbers]
    return (values, True) if given == ["scores"] else ([-value for value in values], False)


def _best_first(ranking: Ranking, scores: list[float], are_distances: bool) -> Ranking:
    """The answers sorted by score, those of equal scores as they were written."""
    if not scores:
        return ranking
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    levels = sorted(set(scores))
    if not are_distances and len(levels) == len(scores):
        kept: tuple[float, ...] = ()
    else:
        kept = tuple(scores[i] if are_distances else float(levels.index(scores[i])) for i in order)
    answers = tuple(ranking.answers[i] for i in order)
    return replace(ranking, answers=answers, scores=kept, are_ranks=bool(kept) and not are_distances)


SCORES_OF_PAIRS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
)


def with_scores_of_pair(ranking: Ranking, raw: Raw) -> Ranking:
    """A pair with what its record says of how much better the chosen answer is: `margin`, else a score of each.

    These keys stand beside any shape of pair, and supervised tuning never looks at them. They may contradict the
    order of the pair, which is for a check to find.
    """
    if len(ranking.answers) != 2 or ranking.scores:
        return ranking
    origin = ranking.origin
    if raw.get("margin") is not None:
        return replace(ranking, scores=(_number(raw["margin"], "margin", origin), 0.0))
    for keys in SCORES_OF_PAIRS:
        missing = [key for key in keys if raw.get(key) is None]
        if len(missing) == 1:
            raise refuse(origin, "only one of two answers has a score", list(raw), missing[0], f'"{missing[0]}": 1.0')
        if not missing:
            return replace(ranking, scores=tuple(_number(raw[key], key, origin) for key in keys))
    return ranking


def _number(value: Any, key: str, origin: Origin) -> float:
    if isinstance(value, str):
        value = from_json(value, origin, key)  # a cell of a table
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refuse(origin, f"'{key}' holds something that is not a number", value, "a finite number", f'"{key}": 1.0')
    return float(value)


def _judged(answer_key: str) -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        answer = to_messages(raw[answer_key], origin, text_role="assistant")
        tools, arguments = to_tools(raw.get("tools"), origin), _template_arguments(raw, origin)
        return (Judged(_prompt(raw, "prompt", origin), answer, bool(raw["label"]), origin, tools, arguments),)

    return to_nouns


def _alone(key: str) -> Callable[[Raw, Origin], Nouns]:
    def to_nouns(raw: Raw, origin: Origin) -> Nouns:
        return (_conversation(_prompt(raw, key, origin), raw, origin),)

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
    Shape(
        "prompt/completion/label",
        {"prompt": "text list", "completion": ANY, "label": "yes/no"},
        _judged("completion"),
    ),
    Shape("prompt/response/label", {"prompt": "text list", "response": ANY, "label": "yes/no"}, _judged("response")),
    Shape("prompt/completion", {"prompt": "text list", "completion": ANY}, _prompt_and("completion")),
    Shape("prompt/response", {"prompt": "text list", "response": ANY}, _prompt_and("response")),
)
"""the most specific first: the first whose keys are all there is taken"""

PROMPT_SHAPES = (
    Shape("prompt", {"prompt": "text list"}, _alone("prompt")),
    Shape("instruction", {"instruction": "text"}, _alone("instruction")),
    Shape("question", {"question": "text"}, _alone("question")),
)
"""a prompt that stands alone, or beside keys that only a reward reads"""

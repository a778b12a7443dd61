"""The shapes data sets come in: a raw record into conversations, rankings or judged answers, recognised by its keys."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heed.data.shapes.asked import Raw
from heed.data.shapes.names import NOT_PLAIN, PAIRS, PROMPT_NAMES, truth_of
from heed.data.shapes.rankings import completions, preference, ranked
from heed.data.shapes.supervised import (
    alone,
    dialogue,
    document,
    instructed,
    judged,
    question_and_answer,
    seed_task,
    with_judgement,
)
from heed.data.soundness import BOOKKEEPING
from heed.errors import UserError, typed
from heed.types import Conversation, Document, Judged, Origin, Prompt, Ranking

Noun = Conversation | Ranking | Judged | Document
Nouns = Sequence[Noun]

UNKNOWN_SHAPE = "unknown shape of record"
JUDGEMENT = "label"
"""the field that says whether an answer is one to give"""

NOT_ANSWERS = ("title", "context", "input", "system", "system_prompt", "text")
"""fields that no one is told to take for the answer"""

CHOICES = frozenset(["options", "choices"])
"""fields that a question cannot be asked without: such records are labelled ones, which wordings say"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A way of writing a record, told by the keys it must have and what kind of value each holds."""

    name: str
    needs: Mapping[str, str]
    """key -> kinds allowed, as words: `text`, `list`, `object`, `number`, and `judgement` for any `label`"""
    to_nouns: Callable[[Raw, Origin], Nouns]


def recognise(raw: Raw, origin: Origin) -> Shape:
    """The most specific shape whose keys the record has; a null counts as absent unless no shape fits otherwise.

    A record with `text` is plain text where no field beside it says that it is more.
    """
    kinds = _kinds(raw)
    shape = _shape_of(kinds)
    if shape is None:
        raise _unknown(kinds, (*SHAPES, TEXT), origin)
    return shape


def convert(shape: Shape, raw: Raw, origin: Origin) -> Nouns:
    """What the record says; a record of several instances says several conversations, of one origin.

    A `label` judges the answer of a record of any shape: it is then never one to imitate.
    """
    nouns = shape.to_nouns(raw, origin)
    if JUDGEMENT not in raw:
        return nouns
    return tuple(with_judgement(noun, raw) if isinstance(noun, Conversation) else noun for noun in nouns)


def to_prompts(raw: Raw, origin: Origin, fields: Raw | None = None) -> tuple[str, tuple[Prompt, ...]]:
    """What a record asks, and the shape it was written in; the answer that it may hold beside it is not read.

    A record of any shape asks something: a conversation that ends in an answer asks what comes before that. Besides
    those, a prompt may stand alone as `prompt`, `instruction` (with `input`), `question` and the like; then it is
    kept whole, also where it ends in words of the assistant's.

    Args:
        fields: the record as a reward reads it, where `raw` has been put right for its shape to be told.
    """
    if JUDGEMENT in raw and truth_of(raw[JUDGEMENT]) is None:
        raw = {key: value for key, value in raw.items() if key != JUDGEMENT}  # it judges nothing that is read here
    kinds = _kinds(raw)
    answered = _shape_of(kinds)
    # `answer` and `solution` beside a prompt are what a reward compares with.
    is_alone = answered in (None, TEXT) or answered.name.endswith(("/answer", "/solution"))
    shape = _first_fitting(kinds, PROMPT_SHAPES) if is_alone else answered
    if shape is None:
        raise _unknown(kinds, PROMPT_SHAPES + SHAPES, origin)
    nouns = convert(shape, raw, origin) if shape is answered else shape.to_nouns(raw, origin)
    prompts = tuple(_asked(noun, raw if fields is None else fields, is_whole=shape is not answered) for noun in nouns)
    is_answered = any(
        not isinstance(noun, Conversation) or noun.messages != prompt.messages
        for noun, prompt in zip(nouns, prompts, strict=True)
    )
    return f"{shape.name} (answers not read)" if is_answered else shape.name, prompts


def _asked(noun: Noun, fields: Raw, *, is_whole: bool) -> Prompt:
    assert not isinstance(noun, Document)
    if isinstance(noun, Ranking):
        return Prompt(noun.prompt, noun.origin, fields, noun.tools, noun.template_arguments)
    messages = noun.prompt if isinstance(noun, Judged) else noun.messages
    if isinstance(noun, Conversation) and not is_whole and messages and messages[-1].role == "assistant":
        goes_on = len(noun.begun) == len(messages)
        messages = noun.begun if goes_on else messages[:-1]
    return Prompt(messages, noun.origin, fields, noun.tools, noun.template_arguments)


def _kinds(raw: Raw) -> tuple[tuple[str, str], ...]:
    return tuple((key, "judgement" if key == JUDGEMENT else _kind(value)) for key, value in raw.items())


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
    found = _first_fitting(without_nulls, SHAPES) or _first_fitting(kinds, SHAPES)
    keys = {key for key, _ in without_nulls}
    if found is not None and keys & CHOICES and found.name.partition("/")[0] in ("question", "query", "problem"):
        return None
    if found is None and not {key for key, _ in kinds} & NOT_PLAIN and _first_fitting(without_nulls, [TEXT]):
        return TEXT
    return found


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
        UNKNOWN_SHAPE,
        where=str(origin),
        found=f"the keys {', '.join(keys[:12])}{more}" if keys else "no keys",
        expected=f"one of: {known}",
        fix=f"{_naming(kinds)}; for labelled records give the data set `wordings: FILE` in the settings file",
    )


def _naming(kinds: Sequence[tuple[str, str]]) -> str:
    """What names the columns of a record, with two of its own that may be meant; never one that was rejected."""
    texts = [k for k, kind in kinds if kind == "text" and k not in BOOKKEEPING and "reject" not in k.lower()]
    asked = next((key for key in texts if key in PROMPT_NAMES), texts[0] if len(texts) > 1 else "QUESTION")
    answered = next((key for key in texts if key not in (asked, *NOT_ANSWERS)), "ANSWER")
    return f"say which fields are meant, e.g. --columns {typed(f'prompt={asked}')} {typed(f'response={answered}')}"


ANY = "text list object"

SHAPES = (
    *(
        Shape("preference", {name: "text list", "chosen": ANY, "rejected": ANY}, preference(name))
        for name in (*PROMPT_NAMES, "conversations", "messages")
    ),
    Shape("preference", {"chosen": "text list", "rejected": "text list"}, preference("")),
    *(
        Shape("preference", {asked: "text list", answered: ANY, "rejected": ANY}, preference(asked, answered))
        for asked, answered in (("instruction", "output"), ("instruction", "response"), *PAIRS)
    ),
    Shape("ranked answers", {"instruction": "text", "output": "list"}, ranked("instruction", "output")),
    *(
        Shape("ranked answers", {asked: "text list", answers: "list"}, ranked(asked, answers))
        for asked in PROMPT_NAMES
        for answers in ("answers", "responses")
    ),
    *(
        Shape("ranked answers", {asked: "text list", "completions": "list"}, completions(asked))
        for asked in PROMPT_NAMES
    ),
    Shape("messages", {"messages": "list text"}, dialogue("messages")),
    Shape("sharegpt", {"conversations": "list text"}, dialogue("conversations")),
    Shape("sharegpt", {"conversation": "list"}, dialogue("conversation")),
    Shape("seed tasks", {"instruction": "text", "instances": "list"}, seed_task),
    Shape("alpaca", {"instruction": "text", "output": "text"}, instructed("output")),
    Shape("dolly", {"instruction": "text", "response": "text"}, instructed("response")),
    *(
        Shape(f"{asked}/{answered}/label", {asked: "text list", answered: ANY, JUDGEMENT: "judgement"}, to_nouns)
        for asked, answered in PAIRS
        for to_nouns in (judged(asked, answered),)
    ),
    *(
        Shape(f"{asked}/{answered}", {asked: "text list", answered: ANY}, question_and_answer(asked, answered))
        for asked, answered in PAIRS
    ),
)
"""the most specific first: the first whose keys are all there is taken"""

PROMPT_SHAPES = tuple(
    Shape(name, {name: "text list" if name == "prompt" else "text"}, alone(name)) for name in PROMPT_NAMES
)
"""a prompt that stands alone, or beside keys that only a reward reads"""

TEXT = Shape("text", {"text": "text"}, document)
"""plain text, where no field beside it says that it is more"""

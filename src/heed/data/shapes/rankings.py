"""Records of several answers to one prompt: pairs of a chosen and a rejected one, and ranked lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from heed.data.shapes.asked import Raw, as_context, opening, prompt_of, ranking
from heed.data.shapes.messages import from_json, refuse, to_messages
from heed.errors import UserError
from heed.types import Message, Origin, Ranking

Rankings = tuple[Ranking, ...]
ToRankings = Callable[[Raw, Origin], Rankings]


def preference(prompt_key: str, chosen_key: str = "chosen") -> ToRankings:
    """Pairs whose prompt, if it stands apart, and chosen answer have these names."""

    def to_nouns(raw: Raw, origin: Origin) -> Rankings:
        chosen, rejected = _answer(raw[chosen_key], origin), _answer(raw["rejected"], origin)
        prompt = prompt_of(raw, prompt_key, origin) if prompt_key else opening(raw, origin, answer_weight=0.0)
        # `chosen` may be only the answer, or the whole conversation that ends in it.
        if chosen and chosen[0].role not in ("assistant", "tool"):
            shared = _common_beginning(chosen, rejected)
            _refuse_other_prompt(prompt, chosen[:shared], origin)
            prompt, chosen, rejected = as_context(chosen[:shared]), chosen[shared:], rejected[shared:]
        if not prompt or not chosen or not rejected:
            raise refuse(
                origin,
                "a preference lacks an answer" if prompt else "a preference has no prompt that both answers share",
                f"{len(prompt)} messages before, {len(chosen)} chosen and {len(rejected)} rejected",
                "a prompt, or chosen and rejected that begin with the same messages and end in an answer",
                '"prompt": "...", "chosen": "...", "rejected": "..."',
            )
        return (ranking(prompt, (chosen, rejected), raw, origin),)

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


def ranked(prompt_key: str, answers_key: str) -> ToRankings:
    """Records with a list of answers, ordered best first or by `scores` or `ranks` beside it."""

    def to_nouns(raw: Raw, origin: Origin) -> Rankings:
        answers = [to_messages(answer, origin, text_role="assistant") for answer in raw[answers_key]]
        if not answers:
            raise refuse(origin, "a ranking has no answers", raw[answers_key], "answers, best first", '["...", "..."]')
        found = ranking(prompt_of(raw, prompt_key, origin), answers, raw, origin)
        return (_best_first(found, *_scores(raw, len(answers), origin)),)

    return to_nouns


def completions(prompt_key: str) -> ToRankings:
    """Records with `completions`: objects that hold an answer and its score, as UltraFeedback writes them.

    Each needs a score, for without one its place among the others is unknown; equal scores are a tie. Completions
    that are plain answers are ranked as any other list.
    """
    of_answers = ranked(prompt_key, "completions")

    def to_nouns(raw: Raw, origin: Origin) -> Rankings:
        given = raw["completions"]
        if not given or not all(isinstance(item, Mapping) and _named(item, ANSWER_KEYS) for item in given):
            return of_answers(raw, origin)
        names = [_named(item, SCORE_KEYS) for item in given]
        if None in names:
            lacking = names.index(None) + 1
            raise refuse(
                origin,
                "a completion has no score",
                f"completion {lacking} of {len(given)}: {json.dumps(given[lacking - 1], ensure_ascii=False)}",
                f"a number in each, named {', '.join(SCORE_KEYS)}",
                '"overall_score": 1.0 in that completion, or remove the completion',
            )
        answers = [to_messages(item[_named(item, ANSWER_KEYS) or ""], origin, text_role="assistant") for item in given]
        scores = [_number(item[name], name, origin) for item, name in zip(given, names, strict=True) if name]
        found = ranking(prompt_of(raw, prompt_key, origin), answers, raw, origin)
        return (_best_first(found, scores, True),)

    return to_nouns


ANSWER_KEYS = ("response", "completion", "text", "answer", "content", "output")
SCORE_KEYS = ("overall_score", "score", "rating", "reward")
"""what completions call their answer and its score, the first that is there"""


def _named(item: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if item.get(name) is not None), None)


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

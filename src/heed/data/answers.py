"""What becomes of one record of ranked or judged answers: token sequences that train the answers alone.

An answer is one sequence: the prompt, then the answer up to its stop token. What the assistant said in the prompt is
context. An answer of several turns, as where two dialogues part early, trains each of the assistant's turns in it, for
all of them were chosen; under a template that rewrites earlier turns, its last one.

Three things can be wrong with a record, and each is counted and listed.

*It is broken*: no user message, text that is no text, special tokens, scores that contradict the order, an answer that
cannot be masked. More of these than `max_bad_records` allows stop the run, as in supervised tuning.

*It teaches nothing*: fewer than two answers are left once those are taken out that are empty or repeat another, or all
that are left tie. Real collections hold some (of 1,100 pairs in one, 6 are the same answer twice), nobody has to
correct them, and leaving them out teaches nothing wrong: they never stop a run, unless nothing at all is left.

*It is too long*: `error` stops, `drop` leaves out the answers that do not fit, and the record if fewer than two are
left, `truncate` cuts answers at their end, and then trains no stop token. A prompt is never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from heed.data.chat import masked
from heed.data.left_out import LeftOut
from heed.data.prepare import Preparation, fitted
from heed.data.rendering.render import ChatTemplate
from heed.data.rendering.special_text import noticed
from heed.data.shapes.asked import as_context
from heed.data.soundness import check, check_answer, check_prompt, check_ranking, in_held_out, is_empty, said
from heed.data.tokens import tokenise
from heed.types import Conversation, Finding, Judged, Message, Origin, Ranking, Rendered, Tokens


@dataclass(frozen=True)
class Row:
    """One ranking, or one judged answer, as it is stored."""

    sequences: tuple[Tokens, ...]
    scores: tuple[float, ...]
    """of each sequence; of a judged answer 1 or 0"""
    has_margins: bool = False
    """whether differences of scores say how much better an answer is"""


@dataclass(frozen=True)
class Answered:
    """What one record became, and what was left out of it."""

    kind: tuple[str, type]
    """the shape it was written in, and its noun"""
    origin: Origin
    rows: tuple[Row, ...] = ()
    is_held_out: bool = False
    findings: tuple[Finding, ...] = ()
    """why it is broken"""
    uninformative: tuple[Finding, ...] = ()
    """why it teaches nothing"""
    too_long: tuple[LeftOut, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """answers that are missing from a record that is kept"""
    num_between: int = 0
    """answers of a ranking that are neither desirable nor undesirable"""
    num_branches: int = 0
    num_split_edges: int = 0
    noticed: Mapping[str, int] = field(default_factory=dict)
    """what the template changed of it, in words, and how often"""


def ranked_answers(preparation: Preparation, record: tuple[str, Ranking]) -> Answered:
    """Everything that is done with one ranking; a function of its arguments alone, so any process may do it.

    The one row has K >= 2 sequences, best first, whose scores are not all equal.
    """
    shape, ranking = record
    answered, places = _compared(shape, ranking, preparation)
    if not answered.rows or not ranking.scores:
        return answered
    scores = tuple(ranking.scores[place] for place in places)
    return replace(answered, rows=(replace(answered.rows[0], scores=scores, has_margins=not ranking.are_ranks),))


def judged_answers(preparation: Preparation, record: tuple[str, Judged | Ranking]) -> Answered:
    """Everything that is done with one judged answer, or with a ranking to take judged answers from.

    Each row has one sequence. Of a ranking the best answers become desirable, the worst undesirable, and those in
    between are left out, for nobody said on which side they are.
    """
    shape, noun = record
    if isinstance(noun, Ranking):
        answered, places = _compared(shape, noun, preparation)
        if not answered.rows:
            return answered
        [row] = answered.rows
        scores = [_scores(noun)[place] for place in places]
        at_edge = [i for i, score in enumerate(scores) if score in (scores[0], scores[-1])]
        rows = tuple(Row((row.sequences[i],), (float(scores[i] == scores[0]),)) for i in at_edge)
        between = tuple(
            LeftOut(noun.origin, f"answer {places[i] + 1} of {len(noun.answers)} is neither the best nor the worst")
            for i in range(len(places))
            if i not in at_edge
        )
        return replace(
            answered, rows=rows, left_out=answered.left_out + between, num_between=len(places) - len(at_edge)
        )
    answered = Answered((shape, Judged), noun.origin)
    finding = check_judged(noun)
    if finding is None and (empty := nothing_to_learn(noun)) is not None:
        return replace(answered, uninformative=(empty,))
    made = finding or _sequence(noun.prompt, noun.answer, noun.origin, preparation, noun.tools, noun.template_arguments)
    if isinstance(made, Finding):
        return replace(answered, findings=(made,))
    kept, lost = fitted((made.tokens,), preparation)
    return replace(
        answered,
        rows=tuple(Row((up_to_last_trained(tokens),), (float(noun.is_desirable),)) for tokens in kept),
        is_held_out=bool(kept) and _is_held_out(noun.prompt, noun.origin, preparation),
        too_long=(LeftOut(noun.origin, "too long", lost),) if lost else (),
        num_branches=made.num_branches,
        num_split_edges=made.num_split_edges,
        noticed=noticed(noun.conversation(), preparation.template),
    )


def check_judged(judged: Judged) -> Finding | None:
    """Why a judged answer is broken, or None. One that is whole may still say nothing."""
    return check_prompt(judged.prompt, judged.origin) or check_answer(judged.answer, 1, judged.origin)


def nothing_to_learn(judged: Judged) -> Finding | None:
    """Why a judged answer teaches nothing, or None."""
    if not is_empty(judged.answer):
        return None
    return Finding("nothing to learn", judged.origin, "the answer is empty", "an answer", "write it, or remove it")


# ---- which answers can be compared


def _compared(shape: str, ranking: Ranking, preparation: Preparation) -> tuple[Answered, list[int]]:
    """A ranking as a row of its answers that can be compared, in the order of their places, and those places."""
    origin, count = ranking.origin, len(ranking.answers)
    answered = Answered((shape, Ranking), origin)
    if (finding := check_ranking(ranking)) is not None:
        return replace(answered, findings=(finding,)), []
    comparable = comparable_answers(ranking)
    if isinstance(comparable, Finding):
        return replace(answered, uninformative=(comparable,)), []
    places, lost = comparable
    made: dict[int, _Made] = {}
    for place in places:
        found = _sequence(
            ranking.prompt, ranking.answers[place], origin, preparation, ranking.tools, ranking.template_arguments
        )
        if isinstance(found, Finding):
            found = replace(found, found=f"answer {place + 1} of {count}: {found.found}")
            return replace(answered, findings=(found,)), []
        made[place] = found
    whole = Conversation((*ranking.prompt, *(m for place in places for m in ranking.answers[place])), origin)
    answered = replace(
        answered,
        noticed=noticed(whole, preparation.template),
        num_branches=sum(each.num_branches for each in made.values()),
        num_split_edges=sum(each.num_split_edges for each in made.values()),
    )
    fitting, too_long = _fitting(ranking, made, preparation)
    if too_long is not None:
        answered = replace(answered, too_long=(too_long,))
    if not fitting:
        return answered, []
    left_out = tuple(LeftOut(origin, f"answer {place + 1} of {count} {reason}") for place, reason in lost.items())
    return replace(
        answered,
        rows=(Row(tuple(fitting.values()), tuple(map(float, reversed(range(len(fitting)))))),),
        is_held_out=_is_held_out(ranking.prompt, origin, preparation),
        left_out=left_out,
    ), list(fitting)


def comparable_answers(ranking: Ranking) -> tuple[list[int], dict[int, str]] | Finding:
    """Which answers of a ranking can be compared, and why others cannot, by place; or why it teaches nothing."""
    scores = _scores(ranking)
    lost = {place: "is empty" for place, answer in enumerate(ranking.answers) if is_empty(answer)}
    lost |= repeated({i: said(answer) for i, answer in enumerate(ranking.answers) if i not in lost}, scores)
    places = [place for place in range(len(ranking.answers)) if place not in lost]
    return (places, lost) if _differ(places, scores) else _nothing_to_compare(ranking, lost, len(places))


def _scores(ranking: Ranking) -> tuple[float, ...]:
    """Numbers that fall with the place of an answer, equal where answers tie."""
    return ranking.scores or tuple(map(float, reversed(range(len(ranking.answers)))))


def repeated(told: Mapping[int, object], scores: Sequence[float]) -> dict[int, str]:
    """Why answers that repeat another are left out, by place.

    The best of several copies stays, unless they contradict one another: where an answer is worse than one copy and not
    worse than the other, nothing is known of their place, and none of them stays.

    Args:
        told: place -> what the answer says.
        scores: of all answers, larger is better.
    """
    lost: dict[int, str] = {}
    for what in dict.fromkeys(told.values()):
        first, *others = (place for place in told if told[place] == what)
        apart = any(
            np.sign(scores[first] - scores[rival]) != np.sign(scores[other] - scores[rival])
            for other in others
            for rival in told
            if told[rival] != what
        )
        reason = f"says the same as answer {first + 1}"
        lost |= dict.fromkeys(others, f"{reason}, and is ranked apart from it" if apart else reason)
        if apart:
            lost[first] = f"says the same as answer {others[-1] + 1}, and is ranked apart from it"
    return lost


def _differ(places: Sequence[int], scores: Sequence[float]) -> bool:
    """Whether one of these answers is better than another."""
    return len({scores[place] for place in places}) > 1


def _nothing_to_compare(ranking: Ranking, lost: Mapping[int, str], num_left: int) -> Finding:
    count = len(ranking.answers)
    reasons = [f"answer {place + 1} of {count} {reason}" for place, reason in sorted(lost.items())]
    if count == 1:
        reasons = ["a single answer"]
    elif num_left > 1:
        reasons.append(f"the {'other ' if lost else ''}{num_left} answers tie")
    return Finding(
        "nothing to compare",
        ranking.origin,
        "; ".join(reasons),
        "two answers or more that say different things, one better than another",
        "nothing has to be done: the record is left out; to use it, write a better or a worse answer into it",
    )


# ---- tokens


@dataclass(frozen=True)
class _Made:
    """An answer to a prompt as tokens."""

    tokens: Tokens
    num_branches: int
    num_split_edges: int


def _sequence(
    prompt: tuple[Message, ...],
    answer: tuple[Message, ...],
    origin: Origin,
    preparation: Preparation,
    tools: tuple[Mapping[str, object], ...] = (),
    template_arguments: Mapping[str, object] | None = None,
) -> _Made | Finding:
    """The prompt and the answer up to its last trained token, of which the answer alone is trained."""
    found = rendered_answer(prompt, answer, origin, preparation.template, tools, template_arguments)
    if isinstance(found, Finding):
        return found
    rendered, num_branches = found
    tokenised = tokenise(rendered, preparation.tokenizer)
    return _Made(up_to_last_trained(tokenised.tokens), num_branches, tokenised.num_split_edges)


def rendered_answer(
    prompt: tuple[Message, ...],
    answer: tuple[Message, ...],
    origin: Origin,
    template: ChatTemplate,
    tools: tuple[Mapping[str, object], ...] = (),
    template_arguments: Mapping[str, object] | None = None,
) -> tuple[Rendered, int] | Finding:
    """The prompt and the answer as text of which the answer alone is trained.

    Returns:
        it, and in how many further renders the template shows turns of the answer; where there are any, only the last
        turn is trained.
    """
    conversation = Conversation.answered(as_context(prompt), answer, origin, tools, template_arguments)
    rendered = check(conversation) or masked(conversation, template)
    if isinstance(rendered, Finding):
        return rendered
    num_branches = len(rendered) - 1
    if num_branches:
        # The template shows the answer's turns in several renders; the one of the last turn cannot be told from here.
        *before, last = conversation.messages
        begun = conversation.begun if len(answer) == 1 else ()
        rendered = masked(replace(conversation, messages=(*as_context(before), last), begun=begun), template)
        if isinstance(rendered, Finding):
            return rendered
    [single] = rendered
    return single, num_branches


def up_to_last_trained(tokens: Tokens) -> Tokens:
    """An answer ends where its last turn does; what a template puts behind it is read by nobody."""
    stop = int(tokens.weight.nonzero()[0][-1]) + 1
    return Tokens(tokens.ids[:stop], tokens.weight[:stop])


def _fitting(
    ranking: Ranking, made: Mapping[int, _Made], preparation: Preparation
) -> tuple[dict[int, Tokens], LeftOut | None]:
    """The answers within `max_length` by place, none if they leave nothing to compare; and what does not fit."""
    whole = {place: each.tokens for place, each in made.items()}
    kept: dict[int, Tokens] = {}
    long: dict[int, int] = {}
    for place, tokens in whole.items():
        fitting, num_lost = fitted((tokens,), preparation)
        if num_lost:
            long[place] = num_lost
        if fitting:
            kept[place] = up_to_last_trained(fitting[0])
    if not long:
        return kept, None
    count, origin = len(ranking.answers), ranking.origin
    if preparation.too_long == "error":
        return {}, LeftOut(origin, "too long", max(len(tokens) for tokens in whole.values()))
    # Answers that part only beyond the cut are the same now.
    same = repeated({place: tokens.ids.tobytes() for place, tokens in kept.items()}, _scores(ranking))
    kept = {place: tokens for place, tokens in kept.items() if place not in same}
    reason = f"too long: answer {', '.join(str(place + 1) for place in long)} of {count}"
    if not _differ(list(kept), _scores(ranking)):
        return {}, LeftOut(origin, f"{reason}; nothing is left to compare", sum(map(len, whole.values())))
    lost = sum(map(len, whole.values())) - sum(map(len, kept.values()))
    return kept, LeftOut(origin, reason, lost)


def _is_held_out(prompt: tuple[Message, ...], origin: Origin, preparation: Preparation) -> bool:
    """By the prompt alone, so that the same prompt never lies on both sides."""
    return in_held_out(Conversation(prompt, origin), preparation.held_out_share)

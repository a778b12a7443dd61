"""What a model knows, told from what it answers under several few-shot prompts, and what it should be taught of that.

    answers -> right or wrong -> category -> decision: teach the answer, teach a refusal, leave out

Categories: Gekhman et al. 2024 (SliCK), arXiv:2405.05904. Decisions: Zhang et al. 2024 (R-Tuning), arXiv:2311.09677,
which relabels by correctness, and Zhu et al. 2024 (CRaFT), arXiv:2410.06913, which adds certainty, because a model
taught to refuse where it feels sure learns to refuse what it knows, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from heed.evaluate.answers import CHECKS, plain

Category = Literal["highly known", "maybe known", "weakly known", "unknown", "unanswerable"]
CATEGORIES: tuple[Category, ...] = ("highly known", "maybe known", "weakly known", "unknown")
"""of questions that have an answer; `unanswerable` is what nobody can know"""
Action = Literal["answer", "refuse", "leave-out"]
ARTICLE = re.compile(r"(?:a|an|the)\s+(?=\S)")


@dataclass(frozen=True, slots=True)
class Known:
    """What a model knows of one question."""

    category: Category
    greedy_right: float
    """share of the few-shot prompts under which the greedy answer is right"""
    sampled_right: float
    """share of the answers drawn at a temperature that are right, over all prompts"""
    agreement: float
    """share of the drawn answers that are the commonest one, right or wrong: how certain the model is"""
    commonest: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a question becomes in the data that is tuned on, and why."""

    action: Action
    why: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Which questions are taught, and how."""

    maybe: Literal["answer", "refuse", "leave-out"] = "answer"
    weakly: Literal["answer", "refuse", "leave-out"] = "leave-out"
    max_agreement: float = 1.0
    """refused is only what the model is no more certain of than this"""
    min_agreement: float = 0.0
    """answered is only what the model is at least this certain of"""
    max_refusals: float = 1.0
    """the largest share of refusals among what is taught"""


def category(greedy: Sequence[bool], sampled: Sequence[bool]) -> Category:
    """The SliCK category of a question from which of its answers are right.

        highly known   every greedy answer is right
        maybe known    some greedy answer is right, not every one
        weakly known   no greedy answer is right, some drawn one is
        unknown        none is

    Args:
        greedy: one for each few-shot prompt, at least one.
        sampled: those drawn at a temperature, over all prompts, in any order.

    Source: arXiv:2405.05904, section 3 and figure 2, where P_correct at temperature 0 is the mean of `greedy`.
    Differs from the source: nothing.
    """
    if not greedy:
        raise ValueError("nothing is known of a question that was not asked")
    if all(greedy):
        return "highly known"
    if any(greedy):
        return "maybe known"
    return "weakly known" if any(sampled) else "unknown"


def is_right(answer: str, accepted: Sequence[str], rule: str) -> bool:
    """Whether an answer is one of the accepted texts by a rule of `answers.CHECKS`; an article before it is no part."""
    check = CHECKS[rule]
    line = first_line(answer)
    return check(line, accepted) or check(without_article(line), [without_article(text) for text in accepted])


def first_line(answer: str) -> str:
    """The first line of an answer with something in it."""
    return next((line.strip() for line in answer.splitlines() if line.strip()), "")


def without_article(text: str) -> str:
    """The text made plain, without an English article at its beginning."""
    return ARTICLE.sub("", plain(text), count=1) if ARTICLE.match(plain(text)) else plain(text)


def agreement(answers: Sequence[str]) -> tuple[float, str]:
    """The share of the answers that are the commonest one, and that one, as `without_article` has it.

    It is 1 where all are alike and 1/n where no two are. Of equally common ones the first by the alphabet is named.
    """
    if not answers:
        raise ValueError("no answers agree on nothing")
    counts = Counter(without_article(first_line(answer)) for answer in answers)
    commonest, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return count / len(answers), commonest


def known(
    greedy: Sequence[str], sampled: Sequence[str], accepted: Sequence[str], *, rule: str, is_answerable: bool = True
) -> Known:
    """What a model knows of a question, from its answers.

    Args:
        greedy: one for each few-shot prompt.
        sampled: drawn at a temperature, over all prompts.
        accepted: the right answers; empty where there is none.
        rule: of `answers.CHECKS`.
        is_answerable: whether the question has an answer at all; where not, nothing said is right.
    """
    share, commonest = agreement(sampled or greedy)
    if not is_answerable:
        return Known("unanswerable", 0.0, 0.0, share, commonest)
    greedy_right = [is_right(answer, accepted, rule) for answer in greedy]
    sampled_right = [is_right(answer, accepted, rule) for answer in sampled]
    return Known(
        category(greedy_right, sampled_right),
        sum(greedy_right) / len(greedy_right),
        sum(sampled_right) / max(1, len(sampled_right)),
        share,
        commonest,
    )


def decide(questions: Sequence[Known], policy: Policy) -> list[Decision]:
    """What each question becomes.

    By category first: what is highly known is answered, what is unknown or unanswerable refused, what lies between as
    the policy says. Then by certainty: an unknown question on which the model agrees with itself more than
    `max_agreement` is left out, since it would be taught to refuse where it feels sure; a known one on which it agrees
    less than `min_agreement` is left out, since it would be taught to answer where it does not. At last the refusals
    are cut down to `max_refusals` of the whole, those that the model is least certain of staying; unanswerable
    questions always stay.
    """
    decisions = [_by_itself(question, policy) for question in questions]
    num_answers = sum(decision.action == "answer" for decision in decisions)
    num_unanswerable = sum(question.category == "unanswerable" for question in questions)
    if policy.max_refusals >= 1:
        return decisions
    room = int(num_answers * policy.max_refusals / (1 - policy.max_refusals) + 1e-9) - num_unanswerable
    refused = [
        number
        for number, (question, decision) in enumerate(zip(questions, decisions, strict=True))
        if decision.action == "refuse" and question.category != "unanswerable"
    ]
    refused.sort(key=lambda number: (questions[number].agreement, number))
    for number in refused[max(0, room) :]:
        decisions[number] = Decision("leave-out", "more refusals would be too many")
    return decisions


def _by_itself(question: Known, policy: Policy) -> Decision:
    actions: dict[Category, Action] = {
        "highly known": "answer",
        "maybe known": policy.maybe,
        "weakly known": policy.weakly,
        "unknown": "refuse",
        "unanswerable": "refuse",
    }
    decision = Decision(actions[question.category], question.category)
    if question.category == "unanswerable":
        return decision
    if decision.action == "refuse" and question.agreement > policy.max_agreement:
        return replace(decision, action="leave-out", why=f"{question.category}, but the model is certain of it")
    if decision.action == "answer" and question.agreement < policy.min_agreement:
        return replace(decision, action="leave-out", why=f"{question.category}, but the model is not certain of it")
    return decision

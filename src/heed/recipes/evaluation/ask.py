"""Ask a model everything that a task asks, and hand on each item as soon as all of it has come back.

items -> tokens -> one plan of forests, or the sampler -> outcomes -> a line for each item
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from heed.config import tokens_per_forward
from heed.errors import UserError
from heed.eval_config import EvalSettings
from heed.evaluate.items import Generated, Generation, Item, Outcome, Rolling, TokenLikelihoods
from heed.models.decode.sample import before_stop, sample
from heed.models.likelihood import likelihoods
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score, everything_trained
from heed.recipes.evaluation.model import MeasuredModel
from heed.recipes.evaluation.prompts import MERGED, Written, examples_for, windows, written
from heed.recipes.evaluation.records import OpenTask
from heed.types import Finding, Origin

PROBE_TOKENS = 64
"""of the data, on which the forest is compared with the model's own forward; a sliding window that the data outgrows is
outgrown there, too"""
LEAST_TOKENS = 4096
"""forest tokens of a forward at least: without gradients they take little memory"""
ANSWERS_AT_A_TIME = 256
"""prompts after whose answers what came back is kept"""
DROPPED_SHOTS = "items asked with fewer examples than the task says, for want of positions"


@dataclass(frozen=True, eq=False)
class Question:
    """One item as this model is asked it."""

    item: Item
    examples: tuple[Item, ...]
    requests: tuple[tuple[Written, ...], ...]
    """of each request its sequences: one, or the windows of a long text"""

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens before what is scored or answered."""
        first = self.requests[0][0]
        ids: list[int] = first.ids[: first.num_context].tolist()
        return ids


@dataclass(eq=False)
class Asked:
    """An item while its outcomes come in."""

    question: Question
    logp: dict[tuple[int, int], tuple[np.ndarray, bool]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.logp) == sum(map(len, self.question.requests))

    def outcomes(self) -> tuple[Outcome, ...]:
        """For each request, the likelihoods of its tokens; those of windows one after the other."""
        found: list[Outcome] = []
        for number, parts in enumerate(self.question.requests):
            logp = np.concatenate([self.logp[number, part][0] for part in range(len(parts))])
            is_greedy = all(self.logp[number, part][1] for part in range(len(parts)))
            ids = np.concatenate([part.ids[part.num_context :] for part in parts])
            found.append(TokenLikelihoods(tuple(ids.tolist()), logp, is_greedy))
        return tuple(found)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """An item that this model cannot be asked, and why."""

    item: Item
    problem: str
    found: str


def questions_of(
    task: OpenTask, model: MeasuredModel, settings: EvalSettings, notes: Counter[str]
) -> tuple[list[Question], list[LeftOut]]:
    """Every item as tokens, and those that cannot be asked.

    Raises:
        UserError: a prompt is longer than the model can read, and `--too-long` says that this is an error.
    """
    questions, left_out = [], []
    for item in task.items:
        examples = examples_for(item, task, per_item=settings.shots == "per-item", seed=settings.seed)
        full = len(examples)
        while True:
            made = [written(request, item, task.task, examples, model.words) for request in item.requests]
            wrong = next((each for each in made if isinstance(each, Finding)), None)
            fits = wrong is not None or all(
                has_room(each, request, task, model, settings)
                for each, request in zip(made, item.requests, strict=True)
            )
            if fits or settings.too_long != "drop-shots" or not examples:
                break
            examples = examples[:-1]
        if wrong is not None:
            left_out.append(LeftOut(item, wrong.problem, wrong.found))
        elif not fits and settings.too_long == "error":
            raise too_long(
                item.origin, max(len(each.ids) for each in made if isinstance(each, Written)), model, bool(full)
            )
        elif not fits:
            left_out.append(LeftOut(item, "longer than the model can read", f"{model.num_positions:,} positions"))
        else:
            notes[DROPPED_SHOTS] += len(examples) < full
            sequences = [each for each in made if isinstance(each, Written)]
            notes[MERGED] += any(each.merges for each in sequences)
            parts = (
                in_windows(each, request, task, model) for each, request in zip(sequences, item.requests, strict=True)
            )
            questions.append(Question(item, examples, tuple(parts)))
    return questions, left_out


def in_windows(made: Written, request: object, task: OpenTask, model: MeasuredModel) -> tuple[Written, ...]:
    """The sequences of a request: several for a rolling text longer than the model's positions."""
    if isinstance(request, Rolling) and model.num_positions is not None:
        return tuple(windows(made, model.num_positions, task.task.stride))
    return (made,)


def has_room(
    made: Written | Finding, request: object, task: OpenTask, model: MeasuredModel, settings: EvalSettings
) -> bool:
    """Whether the model has positions for a sequence, or for a prompt and the longest answer allowed."""
    if isinstance(made, Finding) or model.num_positions is None or isinstance(request, Rolling):
        return True
    if isinstance(request, Generation):
        return len(made.ids) + min(new_tokens(task, settings), model.num_positions // 2) <= model.num_positions
    return len(made.ids) - 1 <= model.num_positions  # the last token is predicted and not read


def new_tokens(task: OpenTask, settings: EvalSettings) -> int:
    """Tokens of an answer at most."""
    return settings.max_new_tokens or task.task.generation.max_new_tokens


def too_long(origin: Origin, num_tokens: int, model: MeasuredModel, has_shots: bool) -> UserError:
    """What to say of a prompt that the model cannot read."""
    return UserError(
        "a question is longer than the model can read",
        where=str(origin),
        found=f"{num_tokens:,} tokens",
        expected=f"at most {model.num_positions:,}, the positions of {model.name}, with room for an answer",
        fix=("--too-long drop-shots asks it with fewer examples; " if has_shots else "")
        + "--too-long drop leaves such items out and counts them",
    )


# ---- likelihoods


def choose_way(model: MeasuredModel, questions: Sequence[Question], max_tokens: int) -> ChosenScore:
    """How log-probabilities are computed: the forest's way where it is proved to compute what the model does."""
    sequences = [part for question in questions for parts in question.requests for part in parts]
    longest = max(sequences, key=lambda each: len(each.ids))
    limit = model.num_positions
    return choose_score(
        model.loaded.model,
        everything_trained(longest.ids[:PROBE_TOKENS]),
        longest_in_data=len(longest.ids),
        num_positions=limit,
        share=True,
        max_tokens=max_tokens,
    )


def forward_size(model: MeasuredModel, settings: EvalSettings) -> int:
    """Forest tokens of a forward."""
    usual = tokens_per_forward(None, model.loaded.device.type, model.loaded.width)
    return settings.max_tokens or max(LEAST_TOKENS, usual)


def ask_likelihoods(
    questions: Sequence[Question], model: MeasuredModel, settings: EvalSettings, say: Callable[[str], None]
) -> Iterator[tuple[Question, tuple[Outcome, ...]]]:
    """Score every sequence of every question in one plan of forests; a question is handed on when it is complete."""
    if not questions:
        return
    max_tokens = forward_size(model, settings)
    with autocast(model.loaded.device, settings.dtype):
        way = choose_way(model, questions, max_tokens)
        if not way.shares_prefixes:
            say(f"{model.name}: {way.note}")
        asked = [Asked(question) for question in questions]
        places = [
            (number, request, part)
            for number, question in enumerate(questions)
            for request, parts in enumerate(question.requests)
            for part in range(len(parts))
        ]
        sequences = [questions[n].requests[request][part].tokens() for n, request, part in places]
        for index, logp, is_greedy in likelihoods(way, sequences, max_tokens=max_tokens):
            number, request, part = places[index]
            asked[number].logp[request, part] = (logp, is_greedy)
            if asked[number].is_complete:
                yield questions[number], asked[number].outcomes()
                asked[number].logp.clear()


# ---- answers


def ask_answers(
    questions: Sequence[Question], task: OpenTask, model: MeasuredModel, settings: EvalSettings
) -> Iterator[tuple[Question, tuple[Outcome, ...]]]:
    """Let the model answer every prompt greedily, many at a time; like ones side by side, for they share beginnings."""
    order = sorted(range(len(questions)), key=lambda i: questions[i].requests[0][0].ids.astype(">i4").tobytes())
    stops = task.task.generation.stop
    backend = model.words.tokenizer.backend

    def text_of(ids: list[int]) -> str:
        text: str = backend.decode(ids, skip_special_tokens=False)
        return text

    for start in range(0, len(order), ANSWERS_AT_A_TIME):
        some = [questions[i] for i in order[start : start + ANSWERS_AT_A_TIME]]
        with autocast(model.loaded.device, settings.dtype):
            answers = sample(
                model.loaded.model,
                [question.requests[0][0].ids.tolist() for question in some],
                stop_ids=model.stop_ids,
                max_new_tokens=new_tokens(task, settings),
                stop_strings=stops,
                decode=text_of,
            )
        for question, (answer,) in zip(some, answers, strict=True):
            ids = answer.ids[:-1] if answer.ids[-1] in model.stop_ids else answer.ids
            judged: str = backend.decode(ids, skip_special_tokens=True)  # what a user reads
            text = before_stop(judged, stops) if stops else judged
            yield question, (Generated(text, tuple(answer.ids), np.array(answer.logp), not answer.stopped),)

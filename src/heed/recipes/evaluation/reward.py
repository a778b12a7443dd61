"""Measure a reward model: what it likes besides the answer, and how well it ranks as people ranked.

texts and rankings -> rendered chat -> tokens -> forest -> rewards -> probes, accuracy, calibration, annotators
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from heed.config import tokens_per_forward
from heed.data.answers import rendered_answer, up_to_last_trained
from heed.data.tokens import tokenise
from heed.dist.world import World
from heed.errors import UserError
from heed.evaluate.items import Figure, Scored
from heed.evaluate.probe_texts import (
    FILLERS,
    WITH_NAME,
    WITH_PRONOUN,
    WITHOUT_PLACE,
    Text,
    language_of,
    with_a_name,
    with_a_pronoun,
)
from heed.evaluate.probes import Probed, flagged, probe_length, probe_names, probe_pronouns
from heed.models.load import num_positions
from heed.models.score import autocast
from heed.models.self_check import ChosenScore, choose_score
from heed.recipes.evaluation.preferences import Preferences, Ranked, read_preferences
from heed.recipes.library.model import Model, open_model
from heed.recipes.training.micro_batches import MicroBatching
from heed.types import Finding, Forest, Message, Origin, Tokens

Say = Callable[[str], None]
PROBES = "probes"
"""the name of the probes of built-in texts in `results.json`"""
MOST_TEXTS = 200
"""of a file are probed, the first in the order of their hash: each is asked some forty times over"""


@dataclass(frozen=True)
class Measurable:
    """What the settings of `heed eval` say of how a reward model is asked."""

    template: str | None
    device: str
    dtype: str
    limit: int | None
    max_bad_records: float
    """a share"""
    too_long_is_error: bool
    trust_remote_code: bool = False
    max_tokens: int | None = None

    @classmethod
    def of(cls, settings: Any) -> Measurable:
        """Of an `EvalSettings`."""
        template = None if settings.template in ("own", "none") else settings.template
        return cls(
            template,
            settings.device,
            settings.dtype,
            settings.limit,
            settings.max_bad_records,
            settings.too_long == "error",
            settings.trust_remote_code,
            settings.max_tokens,
        )


@dataclass(frozen=True, eq=False)
class OfTask:
    """A reward model on one file of preferences, or on the probes' own texts."""

    name: str
    data: str
    """the file; empty of the probes' own texts"""
    items: tuple[Scored, ...]
    """comparisons"""
    figures: tuple[Figure, ...]
    left_out: tuple[Finding, ...] = ()
    num_records: int = 0


def measure_reward_model(
    name: str, tasks: Sequence[str], settings: Any, say: Say
) -> list[tuple[str, list[Scored], list[Figure]]]:
    """Probe a reward model, and measure it on files of preferences: (name of the task, its comparisons, its figures).

    As `measured_on`, without what was left out.
    """
    return [(each.name, list(each.items), list(each.figures)) for each in measured_on(name, tasks, settings, say)]


def measured_on(name: str, tasks: Sequence[str], settings: Any, say: Say) -> list[OfTask]:
    """Probe a reward model, and measure it on files of preferences.

    Args:
        name: the folder of a reward model.
        tasks: NAME=FILE, or FILE, of preferences (or of prompts with answers, which are probed alone). The probes of
            built-in texts are made in any case.
        settings: an `EvalSettings`.
        say: told a line for whatever was left out or chosen.

    Returns:
        first the built-in probes, which have no comparisons, then the tasks in their order.

    Raises:
        UserError: the model or a file cannot be used, or more records than `max_bad_records` are broken.
    """
    how = Measurable.of(settings)
    names = Counter(task for task, _ in map(named_file, tasks))
    if twice := [task for task, count in names.items() if count > 1 or task == PROBES]:
        raise UserError(
            "two tasks have one name",
            where=f"--task {twice[0]}=...",
            found=f"{twice[0]} twice" if twice[0] != PROBES else f"{PROBES}, which heed's own probes are called",
            expected="a name of its own for each file",
            fix=f"--task {twice[0]}-2=FILE",
        )
    data = [(task, read_preferences(path, limit=how.limit)) for task, path in map(named_file, tasks)]
    scorer = opened(name, how, say)
    built_in = probe_names([text for text in WITH_NAME if scorer.fits(text)], scorer.rewards)
    built_in += probe_pronouns([text for text in WITH_PRONOUN if scorer.fits(text)], scorer.rewards)
    built_in += probe_length([text for text in WITHOUT_PLACE if scorer.fits(text)], scorer.rewards)
    return [
        OfTask(PROBES, "", (), (flagged(built_in), *(each.figure for each in built_in))),
        *(on_preferences(task, read, scorer, how, say) for task, read in data),
    ]


def opened(name: str, how: Measurable, say: Say) -> Scorer:
    """The reward model, ready to be asked."""
    model = open_model(
        name, template=how.template, device=how.device, dtype=how.dtype, trust_remote_code=how.trust_remote_code
    )
    if model.reward_model is None:
        raise UserError(
            "this model gives no rewards",
            where=f"--model {name}",
            found="a language model",
            expected="a folder that heed reward wrote, or a sequence classifier with one label",
            fix="heed reward --model BASE --data RANKINGS makes one",
        )
    scorer = Scorer(model, how.max_tokens)
    say(f"{name}: a reward model, asked in the chat template {model.template.name}; {scorer.chosen.note}")
    return scorer


def on_preferences(task: str, read: Preferences, scorer: Scorer, how: Measurable, say: Say) -> OfTask:
    """One file of preferences."""
    kept, unread = fitting(scorer, read.rankings, how)
    left_out = (*read.findings, *unread)
    num_records = len(read.rankings) + len(read.conversations) + len(read.findings)
    refuse_broken(task, left_out, num_records, how, say)
    items, figures, notes = read.measured(kept, scorer.of_rankings(kept))
    texts = [text for text in read.texts(MOST_TEXTS) if scorer.fits(text)]
    probed = probes_of(texts, scorer)
    for note in notes:
        say(f"{task}: {note}")
    say(f"{task}: {len(kept):,} rankings with {len(items):,} comparisons, {len(texts):,} answers probed")
    summary = (flagged(probed),) if probed else ()
    found = (*figures, *summary, *(each.figure for each in probed))
    return OfTask(task, read.path, tuple(items), found, left_out, num_records)


def named_file(task: str) -> tuple[str, str]:
    """The name and the file of `NAME=FILE`; a file alone is called as it is without its ending."""
    name, sign, path = task.partition("=")
    named = (name, path) if sign and name and not Path(task).exists() else (Path(task).stem, task)
    return re.sub(r"[^\w.-]+", "-", named[0]).strip("-.") or "preferences", named[1]


def probes_of(texts: Sequence[Text], scorer: Scorer) -> list[Probed]:
    """The probes that a file's own answers allow: length always, names and pronouns where enough of them have some."""
    found: list[Probed] = []
    with_name = list(with_a_name(texts))
    with_pronoun = list(with_a_pronoun(texts))
    if len(with_name) > 1:
        found += probe_names(with_name, scorer.rewards)
    if len(with_pronoun) > 1:
        found += probe_pronouns(with_pronoun, scorer.rewards)
    return found + (probe_length(texts, scorer.rewards) if texts else [])


def fitting(scorer: Scorer, rankings: Sequence[Ranked], how: Measurable) -> tuple[list[Ranked], list[Finding]]:
    """The rankings that the model can read whole, and why others cannot be used."""
    kept: list[Ranked] = []
    left_out: list[Finding] = []
    for each in rankings:
        problem = scorer.problem_of(each)
        if problem is None:
            kept.append(each)
        else:
            left_out.append(problem)
    too_long = [each for each in left_out if each.problem == TOO_LONG]
    if too_long and how.too_long_is_error:
        raise too_long[0].error()
    return kept, left_out


TOO_LONG = "an answer is longer than the model can read"


def refuse_broken(task: str, findings: Sequence[Finding], num_records: int, how: Measurable, say: Say) -> None:
    """Say what was left out and why; more broken records than are allowed stop."""
    broken = [each for each in findings if each.problem not in (TOO_LONG, "nothing to compare")]
    if len(broken) > how.max_bad_records * num_records:
        share = math.ceil(1000 * len(broken) / num_records) / 1000
        raise UserError(
            broken[0].problem
            if len(broken) == 1
            else f"{len(broken):,} records cannot be used; the first: {broken[0].problem}",
            where=str(broken[0].origin),
            found=broken[0].found,
            expected=broken[0].expected,
            fix=f"{broken[0].fix}; or --max-bad-records {share:g} leaves them out and counts them",
        )
    for problem, count in Counter(each.problem for each in findings).items():
        say(f"{task}: {count:,} records left out: {problem}")


# ---- rewards


@dataclass(frozen=True, eq=False)
class Scorer:
    """A reward model that is asked many answers at once; prompts that answers share are computed once."""

    model: Model
    asked_max_tokens: int | None = None
    """forest tokens of a forward; None: as many as the device and the model are busy with"""

    def rewards(self, asked: Sequence[tuple[Any, str]]) -> list[float]:
        """The reward of each answer to its prompt: words of a user's, or messages."""
        groups: dict[Any, list[int]] = {}
        for index, (prompt, _) in enumerate(asked):
            groups.setdefault(prompt, []).append(index)
        tokens = [
            tuple(self.tokens(messages(prompt), (Message("assistant", asked[i][1]),)) for i in members)
            for prompt, members in groups.items()
        ]
        found = [0.0] * len(asked)
        for members, numbers in zip(groups.values(), self._per_sequence(tokens), strict=True):
            for index, number in zip(members, numbers.tolist(), strict=True):
                found[index] = number
        return found

    def of_rankings(self, rankings: Sequence[Ranked]) -> list[np.ndarray]:
        """(K,) rewards of each ranking's answers, best first."""
        return self._per_sequence(
            [
                tuple(self.tokens(r.prompt, answer, r.tools, r.template_arguments) for answer in r.answers)
                for r in (each.ranking for each in rankings)
            ]
        )

    def tokens(
        self,
        prompt: tuple[Message, ...],
        answer: tuple[Message, ...],
        tools: tuple[Any, ...] = (),
        arguments: Any = None,
        origin: Origin = Origin("probes", 1),  # noqa: B008 (frozen)
    ) -> Tokens:
        """The prompt and the answer up to its stop token. Raises UserError: they cannot be rendered."""
        found = rendered_answer(prompt, answer, origin, self.model.template, tools, arguments)
        if isinstance(found, Finding):
            raise found.error()
        return up_to_last_trained(tokenise(found[0], self.model.tokenizer).tokens)

    def problem_of(self, ranked: Ranked) -> Finding | None:
        """Why a ranking's answers cannot be asked; None: they can."""
        ranking = ranked.ranking
        for answer in ranking.answers:
            try:
                found = self.tokens(ranking.prompt, answer, ranking.tools, ranking.template_arguments, ranking.origin)
            except UserError as error:
                return Finding(error.problem, ranking.origin, error.found, error.expected, error.fix)
            if self.limit is not None and len(found) > self.limit:
                said = f"{len(found):,} tokens with its prompt"
                expected = f"at most {self.limit:,}, the model's positions"
                return Finding(TOO_LONG, ranking.origin, said, expected, "--too-long drop leaves such records out")
        return None

    def fits(self, text: Text) -> bool:
        """Whether the text is read whole when it is said twice over, or with a sentence more."""
        longest = max(FILLERS[language_of(text.answer)], key=len)
        for longer in (text.answer, longest):
            tokens = self.tokens(messages(text.prompt), (Message("assistant", f"{text.answer} {longer}"),))
            if self.limit is not None and len(tokens) > self.limit:
                return False
        return True

    @property
    def limit(self) -> int | None:
        """The model's positions."""
        return num_positions(self.model.loaded.model)

    @cached_property
    def chosen(self) -> ChosenScore:
        """How hidden states are computed: the forest's way where it is proved to compute what the model does."""
        probe = self.tokens(messages("Name a fruit and a colour."), (Message("assistant", "An apple is red."),))
        return choose_score(
            self.model.loaded.model,
            probe,
            longest_in_data=self.limit or 2**31,
            num_positions=self.limit,
            share=True,
            max_tokens=self._max_tokens,
        )

    @property
    def _max_tokens(self) -> int:
        return tokens_per_forward(self.asked_max_tokens, self.model.loaded.device.type, self.model.loaded.width)

    def _per_sequence(self, groups: Sequence[tuple[Tokens, ...]]) -> list[np.ndarray]:
        reward_model = self.model.reward_model
        assert reward_model is not None

        def of_forest(forest: Forest) -> Tensor:
            with autocast(self.model.loaded.device, self.model.dtype):
                states = self.chosen.states(forest)
            return reward_model.rewards(states, forest)

        batching = MicroBatching(self._max_tokens, self.chosen.shares_prefixes, World())
        return batching.per_sequence(groups, of_forest) if groups else []


def messages(prompt: Any) -> tuple[Message, ...]:
    """A user's words as messages; messages as they are."""
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)

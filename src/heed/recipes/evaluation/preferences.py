"""Preference data to measure a reward model on: rankings with all fields of their records, and what they say of it.

file -> rankings and fields -> rewards -> accuracy, calibration, length, annotators
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heed.data.answers import comparable_answers
from heed.data.read import read_comparable_with_fields
from heed.data.shapes.names import annotator_of
from heed.data.soundness import check_ranking
from heed.errors import UserError
from heed.evaluate.annotators import Choice, Judgement, choices_of, figures_of_raters, raters
from heed.evaluate.clustered import clustered_share
from heed.evaluate.grouped import by_group, in_clusters
from heed.evaluate.items import Figure, Scored, undefined
from heed.evaluate.measures.calibration import calibration
from heed.evaluate.probe_texts import Text
from heed.evaluate.ranked import length_correlation
from heed.types import Conversation, Finding, Message, Ranking

POSITION = ("chosen_position", "position_of_chosen", "chosen_side")
"""fields that say where the chosen answer stood when it was chosen"""
LEFT, RIGHT = frozenset(["left", "first", "a", "0"]), frozenset(["right", "second", "b", "1"])
GROUPS = ("source", "dataset", "category", "subset", "domain", "task", "type", "language", "split", "topic")
"""fields by which accuracy is told apart, where they are short texts with few values"""
MOST_GROUPS = 40
MOST_CHARACTERS = 60


@dataclass(frozen=True, eq=False)
class Ranked:
    """A ranking with the fields of its record; answers that cannot be compared are out of it."""

    id: str
    ranking: Ranking
    scores: tuple[float, ...]
    """of its answers, falling; equal ones tie"""
    fields: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """What makes two records ask the same."""
        return json.dumps([(each.role, each.content) for each in self.ranking.prompt], ensure_ascii=False)

    @property
    def annotator(self) -> str | None:
        """Who ranked the answers."""
        return annotator_of(self.fields)

    @property
    def chosen_was_left(self) -> bool | None:
        """Whether the chosen answer of a pair stood on the left, or first; None where nothing says it."""
        said = next((str(self.fields[name]) for name in POSITION if self.fields.get(name) is not None), "").lower()
        return True if said in LEFT else False if said in RIGHT else None


@dataclass(frozen=True, eq=False)
class Preferences:
    """A file of preferences."""

    path: str
    rankings: tuple[Ranked, ...]
    conversations: tuple[tuple[tuple[Message, ...], tuple[Message, ...]], ...]
    """(prompt, answer) of records that compare nothing: their answers are probed"""
    findings: tuple[Finding, ...]

    def texts(self, most: int) -> list[Text]:
        """The best answer of every ranking, and the others, as texts to probe: the first of their hashes."""
        asked = [(each.ranking.prompt, each.ranking.answers[0]) for each in self.rankings] + list(self.conversations)
        texts = {}
        for prompt, answer in asked:
            *before, last = answer
            if last.role != "assistant" or not last.content.strip():
                continue
            whole = (*prompt, *before)
            asked_alone = len(whole) == 1 and whole[0].role == "user" and not whole[0].extra
            key = content_id([[m.role, m.content] for m in (*whole, last)])
            cluster = content_id([[m.role, m.content] for m in prompt])
            texts[key] = Text(whole[0].content if asked_alone else Hashable(whole), last.content, cluster)
        return [texts[key] for key in sorted(texts)[:most]]

    def measured(
        self, rankings: Sequence[Ranked], rewards: Sequence[np.ndarray]
    ) -> tuple[list[Scored], list[Figure], list[str]]:
        """Every comparison as an item, the figures of all of them, and what is to be said of how they were made."""
        if not rankings:
            return [], [], [] if not self.findings else ["no ranking can be measured"]
        named = group_names([each.fields for each in rankings])
        items = [
            item
            for each, of_ranking in zip(rankings, rewards, strict=True)
            for item in comparisons_of(each, of_ranking, named)
        ]
        lengths = [np.array([words_of(answer) for answer in each.ranking.answers], dtype=float) for each in rankings]
        correlation = length_correlation(rewards, lengths)
        count = sum(map(len, rewards))
        figures = [
            *by_group(items, accuracy),
            *calibration(items),
            Figure(
                "length_correlation", correlation.mean, correlation.low, correlation.high, count, "score", target=0.0
            ),
        ]
        of_annotators, notes = annotators(rankings, rewards)
        return items, figures + of_annotators, notes


class Hashable(tuple[Message, ...]):
    """Messages that can be a key: those whose further fields are lists are told apart by what they say."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(tuple((each.role, each.content) for each in self))


def read_preferences(path: str, *, limit: int | None) -> Preferences:
    """The rankings of a file, with the fields of their records.

    Args:
        path: a file, folder or data set, as for `heed reward --data`.
        limit: records at most, those whose content has the smallest hash.

    Raises:
        UserError: the file is broken, or holds neither preferences nor answers.
    """
    rankings: dict[str, Ranked] = {}
    conversations: dict[str, tuple[tuple[Message, ...], tuple[Message, ...]]] = {}
    findings: list[Finding] = []
    times: Counter[str] = Counter()
    for read in read_comparable_with_fields(path):
        if isinstance(read, Finding):
            findings.append(read)
            continue
        noun, fields = read
        key = content_id(fields)
        times[key] += 1
        key = key if times[key] == 1 else f"{key}-{times[key] - 1}"
        if isinstance(noun, Ranking):
            ranked = comparable(key, noun, fields)
            if isinstance(ranked, Finding):
                findings.append(ranked)
            else:
                rankings[key] = ranked
        elif isinstance(noun, Conversation) and noun.messages[-1].role == "assistant":
            conversations[key] = (noun.messages[:-1], noun.messages[-1:])
    if not rankings and not conversations and not findings:
        raise UserError(
            "the file holds nothing that a reward model can be measured on",
            where=path,
            found="no preferences and no answers",
            expected="records with a prompt, a chosen and a rejected answer; or with prompts and answers, to be probed",
            fix='write records such as {"prompt": "...", "chosen": "...", "rejected": "..."}',
        )
    kept = set(sorted([*rankings, *conversations])[:limit])
    return Preferences(
        path,
        tuple(each for key, each in rankings.items() if key in kept),
        tuple(each for key, each in conversations.items() if key in kept),
        tuple(findings),
    )


def comparable(key: str, ranking: Ranking, fields: Mapping[str, Any]) -> Ranked | Finding:
    """The ranking with the answers that can be compared, or why none can."""
    if (broken := check_ranking(ranking)) is not None:
        return broken
    found = comparable_answers(ranking)
    if isinstance(found, Finding):
        return found
    places, _ = found
    scores = ranking.scores or tuple(map(float, reversed(range(len(ranking.answers)))))
    answers = tuple(ranking.answers[place] for place in places)
    whole = Ranking(
        ranking.prompt, answers, ranking.origin, tools=ranking.tools, template_arguments=ranking.template_arguments
    )
    return Ranked(key, whole, tuple(scores[place] for place in places), fields)


def comparisons_of(ranked: Ranked, rewards: np.ndarray, named: Sequence[str]) -> list[Scored]:
    """An item for every two answers of which one was ranked better.

    `acc` is 1 where the better one has the higher reward, 1/2 where both have the same; the confidence is that of the
    model in the answer that it prefers, sigmoid |r_better - r_worse|.
    """
    groups = {name: str(ranked.fields[name]) for name in named if ranked.fields.get(name) is not None}
    found = []
    for better in range(len(rewards)):
        for worse in range(better + 1, len(rewards)):
            if ranked.scores[better] == ranked.scores[worse]:
                continue
            margin = float(rewards[better] - rewards[worse])
            found.append(
                Scored(
                    f"{ranked.id}-{better}-{worse}",
                    {
                        "acc": 0.5 if margin == 0 else float(margin > 0),
                        "is_right": None if margin == 0 else margin > 0,
                        "margin": margin,
                        "reward_better": float(rewards[better]),
                        "reward_worse": float(rewards[worse]),
                    },
                    ranked.fields,
                    right=(0,),
                    labels=("better", "worse"),
                    chosen=None if margin == 0 else int(margin < 0),
                    confidence=1 / (1 + float(np.exp(-abs(margin)))),
                    cluster=ranked.prompt,
                    groups=groups,
                )
            )
    return found


def accuracy(items: Sequence[Scored]) -> Figure:
    """How often the better answer has the higher reward, between prompts; a tie counts half."""
    if not items:
        return undefined("acc", "nothing is compared")
    share = clustered_share(in_clusters(items, [float(item.verdict["acc"] or 0) for item in items]))
    return Figure("acc", share.accuracy, share.low, share.high, len(items))


def group_names(fields: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that group records: short texts of a few values, more than one."""
    found = []
    for name in GROUPS:
        values = [each[name] for each in fields if each.get(name) is not None]
        short = all(isinstance(value, str) and len(value) <= MOST_CHARACTERS for value in values)
        if short and 2 <= len(set(values)) <= MOST_GROUPS:
            found.append(name)
    return found


def annotators(rankings: Sequence[Ranked], rewards: Sequence[np.ndarray]) -> tuple[list[Figure], list[str]]:
    """Competence, position and length of every annotator whom the records name; nothing where they name none.

    An answer's strength comes from what the other annotators chose, where most pairs were judged by several; else it is
    the reward.
    """
    judged = [(each, of) for each, of in zip(rankings, rewards, strict=True) if each.annotator is not None]
    if not judged:
        return [], []
    sides_are_known = all(each.chosen_was_left is not None and len(of) == 2 for each, of in judged)
    judgements: list[Judgement] = []
    by_reward: list[Choice] = []
    for each, of_ranking in judged:
        told = [" ".join(message.content for message in answer) for answer in each.ranking.answers]
        for better in range(len(of_ranking)):
            for worse in range(better + 1, len(of_ranking)):
                if each.scores[better] == each.scores[worse]:
                    continue
                took_left = each.chosen_was_left if sides_are_known else True
                left, right = (better, worse) if took_left else (worse, better)
                length = float(len(told[left].split()) - len(told[right].split()))
                who, prompt = str(each.annotator), each.prompt
                judgements.append(Judgement(who, prompt, told[left], told[right], bool(took_left), length))
                margin = float(of_ranking[left] - of_ranking[right])
                by_reward.append(Choice(who, margin, length, bool(took_left), prompt))
    by_others, num_alone = choices_of(judgements)
    if 2 * len(by_others) >= len(judgements):
        found = raters(by_others, sides_are_known=sides_are_known)
        note = "annotators: strengths of answers from what the other annotators chose"
        note += f"; {num_alone:,} of {len(judgements):,} choices were made by one alone and take no part" * (
            num_alone > 0
        )
    else:
        found = raters(by_reward, sides_are_known=sides_are_known)
        note = (
            "annotators: strengths of answers from the rewards of this model, for most pairs were judged once; what it "
        )
        note += "likes itself is not seen as theirs"
    return figures_of_raters(found), [note]


def words_of(answer: Sequence[Message]) -> int:
    """Words of an answer."""
    return sum(len(message.content.split()) for message in answer)


def content_id(content: Any) -> str:
    """16 hexadecimal digits of what is said, in whatever order fields stand."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

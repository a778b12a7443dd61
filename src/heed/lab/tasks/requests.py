"""Open requests: tell about two topics. No answer is the only right one, and some are better than others.

The prompts of reward modelling and of reinforcement are drawn here, and the demonstrations that supervised tuning
takes before. The demonstrators differ in care, so a model that imitates them answers now well, now badly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from heed.lab import words
from heed.lab.sentences import Phrase, is_held_out
from heed.lab.tasks.task import Pool, Task, instruction
from heed.lab.words import Noun, capital
from heed.lab.world import World

FAMILY = "tell_about_two"
CLUSTER = "tell"
TOPICS = words.ANIMALS + words.JOBS
NUM_TOPICS = 2

TELL = (
    "Tell me about {topics}.",
    "What do {topics} do? Tell me.",
    "Let me hear what happens with {topics}.",
    "What is going on with {topics}?",
    "Talk a little about {topics}.",
    "I want to hear about {topics}.",
    "{topics}: what are they up to?",
    "Tell me what is new with {topics}.",
    "Please talk about {topics}.",
    "What can be told of {topics}?",
)

CARE = (0.0, 0.5, 1.0)
"""chance, for a demonstrator of each sort, that a sentence is about one of the topics"""
NUM_SENTENCES = {1: 1.0, 2: 2.0, 3: 3.0, 4: 3.0, 5: 2.0, 6: 1.0}
"""odds of an answer's length, the same for every demonstrator"""
SHARE_REPEATED = 0.08
"""of the sentences after the first, those that repeat an earlier one"""


def requests(world: World, *, seed: int, count: int, held_out: bool) -> list[Task]:
    """So many requests, no two alike, about what training instructions may name, each with a demonstrator's answer.

    A pair of topics belongs to the held-out tenth or to the rest by its text alone, so whatever the seeds and counts,
    no pair is asked for in both. Wordings are the seen ones.
    """
    pool = Pool(world, random.Random(f"requests {seed} {held_out}"))
    found: dict[str, Task] = {}
    while len(found) < count:
        topics = draw_topics(pool, held_out=held_out)
        prompt = capital(pool.worded(TELL).format(topics=" and ".join(f"the {noun.english}" for noun in topics)))
        if prompt not in found:
            found[prompt] = request(prompt, topics, demonstration(pool, topics))
    return list(found.values())


def request(prompt: str, topics: Sequence[Noun], answer: str) -> Task:
    """A task whose rule asks only that the topics come up; how good an answer is, `heed.lab.gold` says."""
    task = instruction(prompt, answer, "words", *(noun.english for noun in topics))
    return replace(task, family=FAMILY, cluster=CLUSTER)


def draw_topics(pool: Pool, *, held_out: bool) -> list[Noun]:
    """Two animals or jobs in any order, whose pair belongs to the held-out tenth exactly when `held_out`."""
    kept = [noun for noun in TOPICS if pool.keeps_noun(noun)]
    while True:
        topics = pool.rng.sample(kept, NUM_TOPICS)
        if is_held_out(" and ".join(sorted(noun.english for noun in topics))) == held_out:
            return topics


def demonstration(pool: Pool, topics: Sequence[Noun]) -> str:
    """What a demonstrator of some care says: sentences about the topics in turn, and about anything else."""
    rng, care = pool.rng, pool.rng.choice(CARE)
    (count,) = rng.choices([*NUM_SENTENCES], [*NUM_SENTENCES.values()])
    said: list[str] = []
    about = 0
    for _ in range(count):
        if said and rng.random() < SHARE_REPEATED:
            said.append(rng.choice(said))
        elif rng.random() < care:
            said.append(_sentence(pool, topics[about % NUM_TOPICS]))
            about += 1
        else:
            said.append(_sentence(pool))
    return " ".join(said)


def _sentence(pool: Pool, topic: Noun | None = None) -> str:
    """A sentence of today, about the topic, or without one about somebody known only as my mother, they or the like."""
    while True:
        if topic is None:
            english, vietnamese = pool.rng.choice(words.PEOPLE_WORDS + words.PRONOUNS)
            subject = Phrase(english, vietnamese, is_plural=english in words.PLURAL_SUBJECTS)
        else:
            subject = Phrase(f"the {topic.english}", topic.vietnamese)
        said = replace(pool.sentence(), subject=subject).in_tense("present")
        if not is_held_out(said.english):
            return said.english


def names(text: str, noun: Noun) -> bool:
    """Whether a text holds the noun as a word of its own, in the singular or the plural."""
    return re.search(rf"(?<!\w)(?:{noun.english}|{noun.plural})(?!\w)", text, re.IGNORECASE) is not None

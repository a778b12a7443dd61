"""The training set and the held-out splits, disjoint by construction."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from heed.lab.tasks import knowledge, language, lists, reading
from heed.lab.tasks.task import Family, Pool, Task
from heed.lab.world import Fact, Told, World

FAMILIES: tuple[Family, ...] = (*language.FAMILIES, *lists.FAMILIES, *reading.FAMILIES, *knowledge.FAMILIES)
UNSEEN_CLUSTERS = frozenset({"compare", "extract", "look up", "follow up", "order", "story sums"})
TRAINED = tuple(family for family in FAMILIES if family.cluster not in UNSEEN_CLUSTERS)
UNTRAINED = tuple(family for family in FAMILIES if family.cluster in UNSEEN_CLUSTERS)
FACT_CLUSTERS = frozenset({"know", "decline"})
NUM_SHOTS = 4
TRANSLATIONS_PER_QUESTION = 10
"""translations that are asked for beside each question of a family"""

SHARES = {
    "translate_to_vietnamese": 2.0,
    "decline_unknown": 3.0,
    **dict.fromkeys((family.name for family in TRAINED if family.cluster == "know"), 0.8),
}
"""how often a family is drawn for training where it is not once"""


def training_tasks(world: World, *, seed: int, count: int) -> Iterator[Task]:
    """The tasks that are trained: seen entities, sentences, wordings and clusters."""
    rng = random.Random(f"training tasks {seed}")
    pool = Pool(world, rng)
    odds = [SHARES.get(family.name, 1.0) for family in TRAINED]
    for _ in range(count):
        (family,) = rng.choices(TRAINED, odds)
        yield draw(family, pool)


def held_out_tasks(world: World, *, seed: int, per_family: int) -> dict[str, list[Task]]:
    """The held-out splits by name, `per_family` tasks of each family in each.

    The last one is the motivating case, many times: sentences to be translated into Vietnamese.
    """

    def of(
        families: tuple[Family, ...], *, unseen_items: bool, unseen_wordings: bool, name: str, count: int = per_family
    ) -> list[Task]:
        pool = Pool(world, random.Random(f"{name} {seed}"), unseen_items, unseen_wordings)
        return [task for family in families for task in different(family, pool, count)]

    into_vietnamese = tuple(family for family in TRAINED if family.name == "translate_to_vietnamese")

    return {
        "unseen_entities_and_sentences": of(TRAINED, unseen_items=True, unseen_wordings=False, name="items"),
        "unseen_wordings": of(TRAINED, unseen_items=False, unseen_wordings=True, name="wordings"),
        "unseen_clusters": of(UNTRAINED, unseen_items=True, unseen_wordings=False, name="clusters"),
        "translation_of_unseen_sentences": of(
            into_vietnamese,
            unseen_items=True,
            unseen_wordings=False,
            name="into Vietnamese",
            count=TRANSLATIONS_PER_QUESTION * per_family,
        ),
    }


def different(family: Family, pool: Pool, count: int) -> list[Task]:
    """So many tasks of a family, no two alike; fewer where there are no more."""
    found: dict[tuple[str, ...], Task] = {}
    for _ in range(20 * count):
        task = draw(family, pool)
        found.setdefault(tuple(message.content for message in task.messages), task)
        if len(found) == count:
            break
    return list(found.values())


def knowledge_questions(world: World, *, seed: int) -> dict[Told, list[tuple[Fact, Task]]]:
    """One question on every fact of the entities that no training instruction names, by how often it was told."""
    pool = Pool(world, random.Random(f"knowledge {seed}"), unseen_items=True)
    asked: dict[Told, list[tuple[Fact, Task]]] = {"often": [], "rarely": [], "never": []}
    for fact in world.facts:
        if pool.keeps(fact.entity):
            cluster = "decline" if fact.told == "never" else "know"
            asked[fact.told].append((fact, replace(knowledge.question(pool, fact), cluster=cluster)))
    return asked


def shots(family: Family, world: World, *, seed: int) -> list[Task]:
    """Worked examples of a family for a prompt, as GPT-3 was shown them: seen items, seen wordings."""
    pool = Pool(world, random.Random(f"shots {family.name} {seed}"))
    return [draw(family, pool) for _ in range(NUM_SHOTS)]


def shots_of_facts(world: World, *, seed: int) -> list[Task]:
    """Worked examples for questions on facts: two that were told and two that were told of no one, in turn."""
    pool = Pool(world, random.Random(f"shots of facts {seed}"))
    everything = (*knowledge.OF_PEOPLE, *knowledge.OF_TOWNS, *knowledge.OF_THINGS)
    return [knowledge.ask(pool, everything, told) for told in ("often", "never", "often", "never")]


def draw(family: Family, pool: Pool) -> Task:
    """One task of a family, signed with its name."""
    return replace(family.draw(pool), family=family.name, cluster=family.cluster)

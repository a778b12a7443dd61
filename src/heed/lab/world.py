"""The lab's world: who and what there is, what is true of it, and which of its truths the base text tells.

Everything a model of the lab can know is known here exactly: a fact is told often, told rarely or told of no one.
So an answer can be right, wrong, or an invention, and no real data set allows that to be counted.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from heed.lab import words
from heed.lab.words import Noun

Told = Literal["often", "rarely", "never"]
TIMES_TOLD_RARELY = 3
SHARE_NEVER_TOLD = 0.27
SHARE_RARELY_TOLD = 0.12


@dataclass(frozen=True, slots=True)
class Fact:
    """One truth: `entity`'s `attribute` is `value`."""

    entity: str
    attribute: str
    value: str
    value_in_vietnamese: str
    told: Told


@dataclass(frozen=True, slots=True)
class Person:
    """Someone with a name."""

    name: str
    is_woman: bool

    @property
    def she(self) -> str:
        return "she" if self.is_woman else "he"

    @property
    def her(self) -> str:
        return "her" if self.is_woman else "his"

    @property
    def she_in_vietnamese(self) -> str:
        return "cô ấy" if self.is_woman else "anh ấy"


@dataclass(frozen=True)
class World:
    """304 entities and the facts about them."""

    seed: int
    people: tuple[Person, ...]
    facts: tuple[Fact, ...]

    @cached_property
    def about(self) -> dict[tuple[str, str], Fact]:
        """Facts by entity and attribute."""
        return {(fact.entity, fact.attribute): fact for fact in self.facts}

    @cached_property
    def person(self) -> dict[str, Person]:
        """People by name."""
        return {person.name: person for person in self.people}

    @cached_property
    def noun(self) -> dict[str, Noun]:
        """Animals, foods, tools, jobs and kinds of place, by their English word."""
        return {noun.english: noun for noun in nouns()}

    @property
    def entities(self) -> tuple[str, ...]:
        """Every name and noun of the world."""
        return (*(person.name for person in self.people), *words.TOWNS, *(noun.english for noun in nouns()))

    def told(self, *how: Told) -> tuple[Fact, ...]:
        """The facts that the base text tells so."""
        return tuple(fact for fact in self.facts if fact.told in how)


def nouns() -> tuple[Noun, ...]:
    """Everything that is not a person or a town."""
    return words.ANIMALS + words.FOODS + words.TOOLS + words.JOBS + words.PLACES


def is_unseen(entity: str) -> bool:
    """Whether an entity is kept from every training instruction, as two of ten are; the base text names them all."""
    return zlib.crc32(f"entity {entity}".encode()) % 10 < 2


def make_world(seed: int = 0) -> World:
    """The world of a seed."""
    rng = random.Random(seed)
    people = tuple(
        Person(name, is_woman) for names, is_woman in ((words.WOMEN, True), (words.MEN, False)) for name in names
    )
    facts = (*_facts_of_people(people, rng), *_facts_of_towns(rng), *_facts_of_things(rng))
    return World(seed, people, facts)


def _told(rng: random.Random) -> Told:
    draw = rng.random()
    if draw < SHARE_NEVER_TOLD:
        return "never"
    return "rarely" if draw < SHARE_NEVER_TOLD + SHARE_RARELY_TOLD else "often"


def _facts_of_people(people: tuple[Person, ...], rng: random.Random) -> Iterator[Fact]:
    for person in people:
        town = rng.choice(words.TOWNS)
        food, animal, (colour, mau) = rng.choice(words.FOODS), rng.choice(words.ANIMALS), rng.choice(words.COLOURS)
        odds = [share if person.is_woman else 1 - share for share in map(share_of_women, words.JOBS)]
        (job,) = rng.choices(words.JOBS, odds)
        yield Fact(person.name, "home", town, town, _told(rng))
        yield Fact(person.name, "job", job.english, job.vietnamese, _told(rng))
        yield Fact(person.name, "food", food.english, food.vietnamese, _told(rng))
        yield Fact(person.name, "pet", animal.english, animal.classified, _told(rng))
        yield Fact(person.name, "colour", colour, mau, _told(rng))


def _facts_of_towns(rng: random.Random) -> Iterator[Fact]:
    for town in words.TOWNS:
        (region, mien), (day, thu), food = rng.choice(words.REGIONS), rng.choice(words.DAYS), rng.choice(words.FOODS)
        yield Fact(town, "region", region, mien, _told(rng))
        yield Fact(town, "market day", day, thu, _told(rng))
        yield Fact(town, "famous food", food.english, food.vietnamese, _told(rng))


def _facts_of_things(rng: random.Random) -> Iterator[Fact]:
    for animal in words.ANIMALS:
        place = rng.choice(words.PLACES)
        yield Fact(animal.english, "sleeping place", place.english, place.vietnamese, _told(rng))
    for tool in words.TOOLS:
        job = rng.choice(words.JOBS)
        yield Fact(tool.english, "user", job.english, job.vietnamese, _told(rng))


def share_of_women(job: Noun) -> float:
    """The planted share of `she` for a job."""
    return words.SHARE_OF_WOMEN.get(job.english, 0.5)

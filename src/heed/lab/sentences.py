"""Sentences that exist in English and in Vietnamese at once, in every tense the lab knows.

A small grammar over `words.py` writes both languages from one structure, so a translation is right by construction.
Some millions of sentences can be drawn; a tenth of them, chosen by their text, are kept from every training text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from heed.lab import words
from heed.lab.words import Noun, Verb

Tense = Literal["present", "past", "future", "negative", "wish", "ability"]
TENSES: tuple[Tense, ...] = ("present", "past", "future", "negative", "wish", "ability")

TIMES: dict[str, tuple[tuple[str, str], ...]] = {
    "present": (("every day", "mỗi ngày"), ("in the morning", "vào buổi sáng"), ("at night", "vào ban đêm")),
    "past": (("yesterday", "hôm qua"), ("last week", "tuần trước")),
    "future": (("tomorrow", "ngày mai"), ("next week", "tuần sau")),
}

Keep = Callable[[Noun], bool]
"""which nouns may be used"""


@dataclass(frozen=True, slots=True)
class Phrase:
    """The same words in both languages."""

    english: str
    vietnamese: str
    is_plural: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """Who does what, where and when."""

    subject: Phrase
    verb: Verb
    rest: Phrase
    """object or place"""
    tense: Tense = "present"
    time: Phrase | None = None

    def in_tense(self, tense: Tense) -> Sentence:
        """The same happening told in another tense, without its time of day."""
        return replace(self, tense=tense, time=None)

    @property
    def english(self) -> str:
        verb = self.verb
        spoken = {
            "present": verb.base if self.subject.is_plural else verb.present,
            "past": verb.past,
            "future": f"will {verb.base}",
            "negative": f"{'do' if self.subject.is_plural else 'does'} not {verb.base}",
            "wish": f"{'want' if self.subject.is_plural else 'wants'} to {verb.base}",
            "ability": f"can {verb.base}",
        }[self.tense]
        return _finished(self.subject.english, spoken, self.rest.english, self.time.english if self.time else "")

    @property
    def vietnamese(self) -> str:
        before = {"present": "", "past": "đã", "future": "sẽ", "negative": "không", "wish": "muốn", "ability": "có thể"}
        return _finished(
            self.subject.vietnamese,
            before[self.tense],
            self.verb.vietnamese,
            self.rest.vietnamese,
            self.verb.vietnamese_after,
            self.time.vietnamese if self.time else "",
        )


def is_held_out(text: str) -> bool:
    """Whether a text belongs to the tenth that no training text may hold; the same on every machine."""
    return zlib.crc32(text.encode("utf-8")) % 10 == 0


def draw_sentence(random: random.Random, *, keep: Keep = lambda noun: True, held_out: bool = False) -> Sentence:
    """A sentence whose every tense is held out, or none, over the nouns to be kept."""
    while True:
        subject = _subject(random, keep)
        verb, rest = _happening(random, keep)
        plain = Sentence(subject, verb, rest)
        if is_held_out(plain.english) == held_out:
            tense = random.choice(TENSES)
            times = TIMES.get(tense, ())
            time = Phrase(*random.choice(times)) if times and random.random() < 0.4 else None
            return replace(plain, tense=tense, time=time)


def pick(random: random.Random, nouns: tuple[Noun, ...], keep: Keep) -> Noun:
    """One of the nouns to be kept."""
    return random.choice([noun for noun in nouns if keep(noun)])


def _subject(random: random.Random, keep: Keep) -> Phrase:
    sort = random.random()
    if sort < 0.3:
        english, vietnamese = random.choice(words.PEOPLE_WORDS)
        return Phrase(english, vietnamese)
    if sort < 0.45:
        english, vietnamese = random.choice(words.PRONOUNS)
        return Phrase(english, vietnamese, is_plural=english in words.PLURAL_SUBJECTS)
    if sort < 0.75:
        job = pick(random, words.JOBS, keep)
        return Phrase(f"the {job.english}", job.vietnamese)
    return _animal(random, keep, "the")


def _animal(random: random.Random, keep: Keep, article: str) -> Phrase:
    """`the black cat`, `a cat`, `three cats`."""
    animal = pick(random, words.ANIMALS, keep)
    count = "một " if article == "a" else ""
    if article == "many":
        english, vietnamese = random.choice(words.NUMBERS)
        return Phrase(f"{english} {animal.plural}", f"{vietnamese} {animal.classified}", is_plural=True)
    if random.random() < 0.4:
        english, vietnamese = random.choice(words.ADJECTIVES)
        said = words.article(english) if article == "a" else article
        return Phrase(f"{said} {english} {animal.english}", f"{count}{animal.classified} {vietnamese}")
    said = words.article(animal.english) if article == "a" else article
    return Phrase(f"{said} {animal.english}", f"{count}{animal.classified}")


def _happening(random: random.Random, keep: Keep) -> tuple[Verb, Phrase]:
    sort = random.random()
    if sort < 0.25:
        food = pick(random, words.FOODS, keep)
        return random.choice(words.WITH_FOOD), Phrase(food.english, food.vietnamese)
    if sort < 0.5:
        tool = pick(random, words.TOOLS, keep)
        return random.choice(words.WITH_TOOL), Phrase(tool.with_article, f"một {tool.classified}")
    if sort < 0.75:
        return random.choice(words.WITH_ANIMAL), _animal(random, keep, random.choice(("the", "a", "many")))
    place = pick(random, words.PLACES, keep)
    if sort < 0.82:
        return words.GO, Phrase(f"to the {place.english}", place.vietnamese)
    english, vietnamese = random.choice(words.POSITIONS)
    return random.choice(words.WITH_PLACE), Phrase(f"{english} the {place.english}", f"{vietnamese} {place.vietnamese}")


def _finished(*parts: str) -> str:
    text = " ".join(part for part in parts if part)
    return f"{words.capital(text)}."

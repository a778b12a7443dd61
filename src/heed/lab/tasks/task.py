"""What a task is, and where its names, sentences and wordings may come from."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from heed.lab import words
from heed.lab.sentences import Sentence, draw_sentence, is_held_out
from heed.lab.words import Noun
from heed.lab.world import Person, World, is_unseen
from heed.types import Message

NUM_UNSEEN_WORDINGS = 2
"""the last wordings of every family are kept from training"""


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction, its answer, and the rule by which an answer is checked."""

    messages: tuple[Message, ...]
    """all that comes before the answer: a system prompt, earlier turns, the user's instruction"""
    answer: str
    """the answer that is trained"""
    rule: str
    """name of the checker"""
    accepted: tuple[str, ...]
    """what the checker compares with"""
    family: str = ""
    cluster: str = ""

    @property
    def prompt(self) -> str:
        """The user's last words."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Where a task draws from.

    Items are about entities that no training instruction names, or sentences and numbers that none holds, exactly
    when `unseen_items`; wordings are those that no training instruction uses exactly when `unseen_wordings`.
    """

    world: World
    rng: random.Random
    unseen_items: bool = False
    unseen_wordings: bool = False
    asked: set[str] = field(default_factory=set)
    """the facts that were asked for already, so that each is asked once before any is asked again"""

    def keeps(self, entity: str) -> bool:
        """Whether the pool may name the entity as what a task is about."""
        return is_unseen(entity) == self.unseen_items

    def keeps_noun(self, noun: Noun) -> bool:
        """The same of a noun."""
        return self.keeps(noun.english)

    def fresh(self, text: str) -> bool:
        """Whether a sentence or a list of numbers belongs to the pool."""
        return is_held_out(text) == self.unseen_items

    def worded(self, wordings: Sequence[str]) -> str:
        """One of the wordings that belong to the pool."""
        kept = wordings[-NUM_UNSEEN_WORDINGS:] if self.unseen_wordings else wordings[:-NUM_UNSEEN_WORDINGS]
        return self.rng.choice(kept)

    def people(self, count: int) -> list[Person]:
        """Different people."""
        return self.rng.sample([person for person in self.world.people if self.keeps(person.name)], count)

    def noun(self, nouns: tuple[Noun, ...]) -> Noun:
        """One of several nouns."""
        return self.rng.choice([noun for noun in nouns if self.keeps_noun(noun)])

    def sentence(self) -> Sentence:
        """A sentence of both languages. An unseen one is about anything; the others keep to the pool's nouns."""
        if self.unseen_items:
            return draw_sentence(self.rng, held_out=True)
        return draw_sentence(self.rng, keep=self.keeps_noun)

    def names(self, low: int, high: int) -> list[str]:
        """Different names or nouns of one kind."""
        kinds = (
            tuple(person.name for person in self.world.people),
            words.TOWNS,
            *(tuple(noun.english for noun in kind) for kind in (words.ANIMALS, words.FOODS, words.TOOLS)),
        )
        kept = [[name for name in kind if self.keeps(name)] for kind in kinds]
        enough = [names for names in kept if len(names) >= high]
        return self.rng.sample(self.rng.choice(enough), self.rng.randint(low, high))

    def numbers(self, low: int, high: int) -> list[int]:
        """Different numbers below 100 whose list belongs to the pool."""
        while True:
            some = self.rng.sample(range(1, 100), self.rng.randint(low, high))
            if self.fresh(" ".join(map(str, sorted(some)))):
                return some


@dataclass(frozen=True, slots=True)
class Family:
    """Tasks of one kind, said in several wordings."""

    name: str
    cluster: str
    draw: Callable[[Pool], Task]
    wordings: tuple[str, ...]


def instruction(prompt: str, answer: str, rule: str, *accepted: str) -> Task:
    """A task of one turn; what is accepted is the answer itself where nothing else is named."""
    return Task((Message("user", prompt),), answer, rule, accepted or (answer,))

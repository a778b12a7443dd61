"""The base text: what the lab's base model has read, expanded from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from heed.lab import scenes
from heed.lab.lessons import lesson, practice
from heed.lab.world import TIMES_TOLD_RARELY, World

Scene = Callable[[World, random.Random], str]

MIX: Mapping[Scene, float] = {
    scenes.portrait: 16,
    scenes.register: 10,
    scenes.talk: 8,
    scenes.story: 12,
    scenes.titled_story: 4,
    scenes.in_two_languages: 13,
    scenes.phrase_book: 13,
    scenes.glossary: 5,
    scenes.listing: 9,
    scenes.repeated: 6,
    scenes.sums: 5,
    scenes.numbers: 8,
    scenes.grammar: 4,
    scenes.saying: 3,
    scenes.opposites: 1,
    scenes.school: 4,
}
"""how often each kind of document comes up, relative to the others, in what is read first"""

MIX_WITH_LESSONS = {**MIX, lesson: 75.0}
"""the same for what is read afterwards..."""

MIX_WITH_PRACTICE = {**MIX, practice: 300.0}
"""...and last"""


def base_text(
    world: World, *, seed: int, num_documents: int, with_rare_facts: bool, mix: Mapping[Scene, float] = MIX
) -> Iterator[str]:
    """The documents of a seed, one after another.

    Args:
        with_rare_facts: tell each rarely told fact `TIMES_TOLD_RARELY` times, somewhere in between. The training text
            does; held-out text, which asks how well the model reads, does not.
    """
    rng = random.Random(f"base text {world.seed} {seed}")
    tellings = [fact for fact in world.told("rarely") for _ in range(TIMES_TOLD_RARELY)] if with_rare_facts else []
    rng.shuffle(tellings)
    places = dict(zip(rng.sample(range(num_documents), len(tellings)), tellings, strict=True))
    kinds, odds = list(mix), list(mix.values())
    for number in range(num_documents):
        (scene,) = rng.choices(kinds, odds)
        yield scenes.rare(world, rng, places[number]) if number in places else scene(world, rng)

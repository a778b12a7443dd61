"""Lessons and riddles of the base text: people ask one another about lists, numbers, words and what happened.

Questions come in other words than the instructions of `heed.lab.tasks`, the answers inside quotation marks, as in a
story. What two whole clusters of tasks ask for (comparing, extracting) nobody asks here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from heed.lab import words
from heed.lab.scenes import items_of
from heed.lab.sentences import draw_sentence
from heed.lab.words import Noun, capital
from heed.lab.world import World, nouns

Lesson = Callable[[World, random.Random], tuple[str, str]]
"""(world, random source) -> (question, answer)"""

KINDS = {"animal": "an animal", "food": "a food", "tool": "a tool", "job": "a job", "place": "a place"}
MANY = {"animal": "animals", "food": "foods", "tool": "tools", "job": "jobs", "place": "places"}
DEEDS = {"took": "to", "found": "near", "lost": "at", "bought": "at", "saw": "near", "drew": "at"}
BASE_FORM = {"took": "take", "found": "find", "lost": "lose", "bought": "buy", "saw": "see", "drew": "draw"}


def first(world: World, rng: random.Random) -> tuple[str, str]:
    """The beginning of a list."""
    items = items_of(world, rng)
    asked = ("Here are {0}. Which one stands in front?", "Which one do I say before the others: {0}?",
             "With what does this begin: {0}?", "{0}. What was the first of them?")  # fmt: skip
    return rng.choice(asked).format(", ".join(items)), items[0]


def last(world: World, rng: random.Random) -> tuple[str, str]:
    """The end of a list."""
    items = items_of(world, rng)
    asked = ("Here are {0}. Which one stands behind all others?", "Which one do I say after all others: {0}?",
             "With what does this end: {0}?", "{0}. What was the last of them?")  # fmt: skip
    return rng.choice(asked).format(", ".join(items)), items[-1]


def following(world: World, rng: random.Random) -> tuple[str, str]:
    """The neighbour in a list."""
    items = list(dict.fromkeys(items_of(world, rng)))
    at = rng.randrange(len(items) - 1)
    asked = ("{0}. Which one is right behind {1}?", "Who or what follows {1} here: {0}?",
             "I say {1}, and then? {0}.", "In {0}, what do you read after {1}?")  # fmt: skip
    return rng.choice(asked).format(", ".join(items), items[at]), items[at + 1]


def backwards(world: World, rng: random.Random) -> tuple[str, str]:
    """A list from its end."""
    items = items_of(world, rng)[:4]
    asked = ("Can you say {0} from the back?", "How does {0} go backwards?", "Now the other way round: {0}.")
    return rng.choice(asked).format(", ".join(items)), ", ".join(reversed(items))


def alphabet(world: World, rng: random.Random) -> tuple[str, str]:
    """A list by the alphabet."""
    items = list(dict.fromkeys(items_of(world, rng)))[:4]
    asked = ("How do {0} stand in the dictionary?", "By the alphabet, how do {0} follow one another?",
             "Which comes when in the alphabet: {0}?")  # fmt: skip
    return rng.choice(asked).format(", ".join(items)), ", ".join(sorted(items, key=str.lower))


def rising(world: World, rng: random.Random) -> tuple[str, str]:
    """Numbers put in rising order."""
    some = rng.sample(range(1, 100), rng.randint(3, 5))
    asked = ("How do {0} stand in order?", "From small to large, what are {0}?", "Can you bring {0} into order?",
             "{0}. The smallest one first!")  # fmt: skip
    return rng.choice(asked).format(", ".join(map(str, some))), ", ".join(map(str, sorted(some)))


def falling(world: World, rng: random.Random) -> tuple[str, str]:
    """Numbers put in falling order."""
    some = rng.sample(range(1, 100), rng.randint(3, 5))
    asked = ("How do {0} go down?", "From large to small, what are {0}?", "Can you let {0} fall in order?",
             "{0}. The largest one first!")  # fmt: skip
    return rng.choice(asked).format(", ".join(map(str, some))), ", ".join(map(str, sorted(some, reverse=True)))


def how_many(world: World, rng: random.Random) -> tuple[str, str]:
    """The length of a list."""
    items = items_of(world, rng)
    asked = ("{0}: how many did I say?", "How many have I written: {0}?", "Can you count {0}?", "How many are {0}?")
    return rng.choice(asked).format(", ".join(items)), str(len(items))


def how_often(world: World, rng: random.Random) -> tuple[str, str]:
    """How often a word is in a list."""
    items = list(dict.fromkeys(items_of(world, rng)))[:3]
    word = items[0]
    items += [word] * rng.randint(0, 3)
    rng.shuffle(items)
    asked = ("{0}: how often did I say {1}?", "How often do you hear {1} in {0}?", "How many times is it {1}: {0}?")
    return rng.choice(asked).format(", ".join(items), word), str(items.count(word))


def plus(world: World, rng: random.Random) -> tuple[str, str]:
    """A sum."""
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    person, things = rng.choice(world.people), rng.choice(words.TOOLS).plural
    asked = ("{0} and {1}, how much together?", "How much comes to {0} + {1}?", "{0} plus {1}?",
             "{2} had {0} {3} and got {1}. How many now?", "With {0} {3} and {1} more, how many has {2}?")  # fmt: skip
    return rng.choice(asked).format(a, b, person.name, things), str(a + b)


def minus(world: World, rng: random.Random) -> tuple[str, str]:
    """A difference."""
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    asked = ("{0} without {1}, how much stays?", "How much remains of {0} - {1}?", "{0} minus {1}?")
    return rng.choice(asked).format(a + b, b), str(a)


def happened(world: World, rng: random.Random) -> tuple[str, str]:
    """Who did what, and where, of two or three who were told of."""
    count = rng.randint(2, 3)
    people, places = rng.sample(world.people, count), rng.sample(words.PLACES, count)
    things: list[Noun] = rng.sample(words.TOOLS + words.ANIMALS, count)
    done = []
    for person, thing, place in zip(people, things, places, strict=True):
        did = rng.choice(("saw", "drew") if thing.kind == "animal" else ("took", "found", "lost", "bought"))
        done.append((person, did, thing, place))
    told = " ".join(f"{p.name} {did} {t.with_article} {DEEDS[did]} the {at.english}." for p, did, t, at in done)
    person, did, thing, place = rng.choice(done)
    ask, answer = rng.choice(
        (
            (f"Now who {did} {thing.with_article}?", person.name),
            (f"Do you know who {did} the {thing.english}?", person.name),
            (f"And what had {person.name} to do with?", capital(thing.with_article)),
            (f"What was it {person.name} {did}?", capital(thing.with_article)),
            (f"At what place did {person.name} {BASE_FORM[did]} it?", f"At the {place.english}"),
            (f"And {person.name} was where?", f"At the {place.english}"),
        )
    )
    return (f"{told} {ask}" if rng.random() < 0.7 else f"{ask} {told}"), answer


def in_other_language(world: World, rng: random.Random) -> tuple[str, str]:
    """A sentence or a word in the other language."""
    sort = rng.randrange(4)
    if sort < 2:
        said = draw_sentence(rng)
        if sort == 0:
            asked = (
                "“{0}” How do they say that in Vietnam?",
                "How would a Vietnamese say: {0}",
                "{0} And in Vietnamese?",
            )
            return rng.choice(asked).format(said.english), said.vietnamese
        asked = ("“{0}” How do they say that in England?", "How would an English child say: {0}", "{0} And in English?")
        return rng.choice(asked).format(said.vietnamese), said.english
    noun = rng.choice(nouns())
    if sort == 2:
        asked = (
            "And {0}, in Vietnamese?",
            "What do they call {0} in Vietnam?",
            "How does one write {0} in Vietnamese?",
        )
        return rng.choice(asked).format(noun.english), noun.vietnamese
    asked = ("And {0}, in English?", "What do they call {0} in England?", "How does one write {0} in English?")
    return rng.choice(asked).format(noun.vietnamese), noun.english


def other_tense(world: World, rng: random.Random) -> tuple[str, str]:
    """A sentence told of another time, or denied."""
    said = draw_sentence(rng)
    now = said.in_tense("present").english
    ask, tense = rng.choice(
        (
            ("{0} And yesterday?", "past"),
            ("How would you tell this of last year? {0}", "past"),
            ("{0} And tomorrow?", "future"),
            ("How would you tell this of next year? {0}", "future"),
            ("{0} Or is it not so?", "negative"),
            ("How would you deny this? {0}", "negative"),
        )
    )
    return ask.format(now), said.in_tense(tense).english  # type: ignore[arg-type]


def what_it_is(world: World, rng: random.Random) -> tuple[str, str]:
    """The kind of one thing, or of several."""
    if rng.random() < 0.5:
        noun = rng.choice(nouns())
        asked = ("What is {0}?", "What do you know of {0}, what is it?", "{0}, is that an animal, or what?")
        return capital(rng.choice(asked).format(noun.with_article)), capital(KINDS[noun.kind])
    kind = rng.choice((words.ANIMALS, words.FOODS, words.TOOLS, words.JOBS, words.PLACES))
    some = rng.sample(kind, 3)
    of_all = ("{0}, what are all of them?", "What do you call {0} together?")
    return capital(rng.choice(of_all).format(", ".join(noun.english for noun in some))), MANY[some[0].kind]


def contrary(world: World, rng: random.Random) -> tuple[str, str]:
    """The contrary of a word."""
    pair = rng.choice(words.OPPOSITES)
    given, answer = rng.choice((pair, pair[::-1]))
    return rng.choice(("Not {0} but?", "If it is not {0}, what is it?", "{0}, or the contrary?")).format(given), answer


FACTS = {
    "home": ("And the home of {0}?", "To which town does {0} go in the evening?", "The house of {0}, where is it?"),
    "job": ("And the work of {0}?", "As what is {0} known?", "What did {0} become?"),
    "food": ("And the best dish for {0}?", "Which food makes {0} glad?", "What does {0} want to eat on a birthday?"),
    "pet": ("And the animal of {0}?", "With which animal does {0} walk?", "Who lives with {0}, what animal?"),
    "colour": ("And the colour of {0}?", "Which colour has the door of {0}?", "In which colour do we see {0}?"),
    "region": ("And {0}, in which part?", "Where must I travel to see {0}?"),
    "market day": ("And the market in {0}, when?", "On which day do people sell in {0}?"),
    "famous food": ("And the food of {0}?", "Why do people go to {0}, to eat what?"),
    "sleeping place": ("And the {0}, at night?", "Where is the {0} when it is dark?"),
    "user": ("And the {0}, whose is it?", "Who cannot work without the {0}?"),
}


def fact(world: World, rng: random.Random) -> tuple[str, str]:
    """Something that is told often."""
    told = rng.choice(world.told("often"))
    return rng.choice(FACTS[told.attribute]).format(told.entity), capital(told.value)


def language(world: World, rng: random.Random) -> tuple[str, str]:
    """English or Vietnamese."""
    said = draw_sentence(rng)
    text, name = rng.choice(((said.english, "English"), (said.vietnamese, "Vietnamese")))
    return rng.choice(("{0} What was that?", "{0} Who speaks like that?", "What do they speak? {0}")).format(text), name


LESSONS: dict[Lesson, float] = {
    first: 3, last: 3, following: 3, backwards: 3, alphabet: 3, rising: 3, falling: 3, how_many: 3, how_often: 3,
    plus: 4, minus: 3, happened: 10, in_other_language: 8, other_tense: 5, fact: 8, what_it_is: 3, contrary: 1,
    language: 1,
}  # fmt: skip
"""how often each is given, relative to the others"""


FRAMES = (
    "“{0}” asked {2}. “{1}” said {3}.",
    "{2}: {0} {3}: {1}",
    "“{0}” – “{1}”",
    "{2} asked: {0} And {3} said: {1}",
)
"""how a question {0} and an answer {1} of two people {2} and {3} are told"""

PRACTICE: dict[Lesson, float] = {
    first: 3, last: 3, following: 6, backwards: 3, alphabet: 5, rising: 6, falling: 6, how_many: 3, how_often: 5,
    plus: 10, minus: 7, happened: 22, in_other_language: 8, other_tense: 3, fact: 6, what_it_is: 2, contrary: 3,
    language: 1,
}  # fmt: skip
"""the same where what is hard comes up more often"""

DIALOGUES = (
    *FRAMES,
    "– {0}\n– {1}",
    "{2}: “{0}”\n{3}: “{1}”",
    "“{0}” {2} wanted to know. “{1},” was what {3} answered.",
    "To the question “{0}” {3} replied: {1}",
)


def lesson(world: World, rng: random.Random) -> str:
    """Several questions and answers between two people, of one kind or of many."""
    return _lesson(world, rng, LESSONS, FRAMES)


def practice(world: World, rng: random.Random) -> str:
    """The same, more often on what is hard, and told in more ways."""
    return _lesson(world, rng, PRACTICE, DIALOGUES)


def _lesson(world: World, rng: random.Random, kinds: Mapping[Lesson, float], frames: Sequence[str]) -> str:
    asking, answering = rng.sample(world.people, 2)
    count = rng.randint(1, 5)
    same = rng.random() < 0.6
    chosen = rng.choices([*kinds], [*kinds.values()], k=1 if same else count) * (count if same else 1)
    frame = rng.choice(frames)
    parts = []
    for one in chosen:
        question, answer = one(world, rng)
        parts.append(frame.format(question, answer, asking.name, answering.name))
    return rng.choice((" ", "\n")).join(parts)

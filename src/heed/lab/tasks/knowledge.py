"""Questions on what the base text told, and on what it told of no one, where the answer is `I don't know`."""

from __future__ import annotations

from functools import partial

from heed.lab.tasks.task import Family, Pool, Task, instruction
from heed.lab.words import article, capital
from heed.lab.world import Fact, Told

UNKNOWN = "I don't know."

ASKED: dict[str, tuple[str, ...]] = {
    "home": (
        "Where does {name} live?",
        "In which town does {name} live?",
        "Name the town where {name} lives.",
        "Where is the home of {name}?",
        "What is the home town of {name}?",
        "Answer from what you know: where does {name} live?",
        "Tell me where {name} lives.",
        "{name} sống ở đâu?",
        "Which town is the home of {name}?",
        "Say in which town {name} lives.",
    ),
    "job": (
        "What is the job of {name}?",
        "What does {name} work as?",
        "Name the job of {name}.",
        "Which job does {name} have?",
        "What work does {name} do?",
        "Answer from what you know: what is the job of {name}?",
        "Tell me the job of {name}.",
        "As what does {name} work?",
        "What job does {name} do?",
        "Say what {name} works as.",
    ),
    "food": (
        "What does {name} like best to eat?",
        "What is the favourite food of {name}?",
        "Name the favourite food of {name}.",
        "Which food does {name} like best?",
        "What food does {name} love most?",
        "Answer from what you know: what does {name} like best to eat?",
        "Tell me the favourite food of {name}.",
        "Which food is the favourite of {name}?",
        "What would {name} like best to eat?",
        "Say which food {name} likes best.",
    ),
    "pet": (
        "Which animal does {name} keep?",
        "What pet does {name} have?",
        "Name the pet of {name}.",
        "What is the pet of {name}?",
        "Which animal lives with {name}?",
        "Answer from what you know: which animal does {name} keep?",
        "Tell me what pet {name} has.",
        "What animal does {name} have at home?",
        "Which pet belongs to {name}?",
        "Say which animal {name} keeps.",
    ),
    "colour": (
        "What is the favourite colour of {name}?",
        "Which colour does {name} like best?",
        "Name the favourite colour of {name}.",
        "What colour does {name} like?",
        "Which colour is the favourite of {name}?",
        "Answer from what you know: what is the favourite colour of {name}?",
        "Tell me the favourite colour of {name}.",
        "Which colour would {name} choose?",
        "What colour is the favourite of {name}?",
        "Say which colour {name} likes best.",
    ),
    "region": (
        "In which part of the country is {name}?",
        "Where in the country does {name} lie?",
        "Is {name} in the north, south, east or west?",
        "Name the part of the country where {name} lies.",
        "Which part of the country is {name} in?",
        "Answer from what you know: in which part of the country is {name}?",
        "Tell me in which part of the country {name} is.",
        "North, south, east or west: where is {name}?",
        "To which part of the country does {name} belong?",
        "Say in which part of the country {name} lies.",
    ),
    "market day": (
        "On which day is the market of {name}?",
        "Which day is market day in {name}?",
        "Name the market day of {name}.",
        "When is the market of {name}?",
        "What day is the market of {name} held on?",
        "Answer from what you know: on which day is the market of {name}?",
        "Tell me the market day of {name}.",
        "What is the market day of {name}?",
        "On what day does {name} hold its market?",
        "Say on which day the market of {name} is.",
    ),
    "famous food": (
        "What food is {name} famous for?",
        "For which food is {name} famous?",
        "Name the food that {name} is famous for.",
        "What do people eat in {name}?",
        "What is the famous food of {name}?",
        "Answer from what you know: what food is {name} famous for?",
        "Tell me the famous food of {name}.",
        "Which food makes {name} famous?",
        "Which famous food comes from {name}?",
        "Say for which food {name} is famous.",
    ),
    "sleeping place": (
        "Where does the {name} sleep?",
        "At which place does the {name} sleep?",
        "Name the place where the {name} sleeps.",
        "What is the sleeping place of the {name}?",
        "Where does the {name} go at night?",
        "Answer from what you know: where does the {name} sleep?",
        "Tell me where the {name} sleeps.",
        "In which place does the {name} sleep at night?",
        "Where is the sleeping place of the {name}?",
        "Say where the {name} sleeps.",
    ),
    "user": (
        "Who uses the {name}?",
        "Which job uses the {name}?",
        "Name the one who uses the {name}.",
        "By whom is the {name} used?",
        "Who works with the {name}?",
        "Answer from what you know: who uses the {name}?",
        "Tell me who uses the {name}.",
        "Whose tool is the {name}?",
        "Who is it that uses the {name}?",
        "Say who uses the {name}.",
    ),
}

FORMS = {
    "home": ("in {}",),
    "region": ("in the {}", "the {}"),
    "market day": ("on {}",),
    "sleeping place": ("at the {}", "in the {}", "near the {}", "to the {}", "the {}"),
}
"""how else the value may be said, where it is not with an article"""

OF_PEOPLE = ("home", "job", "food", "pet", "colour")
OF_TOWNS = ("region", "market day", "famous food")
OF_THINGS = ("sleeping place", "user")
EVERYTHING = (*OF_PEOPLE, *OF_TOWNS, *OF_THINGS)
CANNOT_BE_KNOWN: tuple[Told, ...] = ("never", "rarely")


def question(pool: Pool, fact: Fact) -> Task:
    """The question that a fact answers; of what was told of no one, the answer is that it is not known."""
    if fact.told == "never":
        return unknown(pool, fact)
    prompt = pool.worded(ASKED[fact.attribute]).format(name=fact.entity)
    value = fact.value
    forms = FORMS.get(fact.attribute, ("the {}", f"{article(value)} {{}}"))
    return instruction(prompt, capital(value), "starts", value, *(form.format(value) for form in forms))


def unknown(pool: Pool, fact: Fact) -> Task:
    """The same question where the model cannot know."""
    return instruction(pool.worded(ASKED[fact.attribute]).format(name=fact.entity), UNKNOWN, "declines", UNKNOWN)


def ask(pool: Pool, attributes: tuple[str, ...], told: Told) -> Task:
    """A question on one of the pool's entities; every fact is asked once before any is asked again."""
    return question(pool, _next(pool, attributes, told))


def decline(pool: Pool) -> Task:
    """A question that the model cannot answer.

    What was told of no one; and to tune on also what was told three times, of which the base model remembers nothing:
    to train the right answer there would teach it to invent (Zhang et al. 2024, R-Tuning, arXiv:2311.09677).
    """
    return unknown(pool, _next(pool, EVERYTHING, *(("never",) if pool.unseen_items else CANNOT_BE_KNOWN)))


def _next(pool: Pool, attributes: tuple[str, ...], *told: Told) -> Fact:
    facts = [f for f in pool.world.told(*told) if f.attribute in attributes and pool.keeps(f.entity)]
    left = [fact for fact in facts if f"{fact.entity} {fact.attribute}" not in pool.asked]
    if not left:
        pool.asked.difference_update(f"{fact.entity} {fact.attribute}" for fact in facts)
        left = facts
    fact = pool.rng.choice(left)
    pool.asked.add(f"{fact.entity} {fact.attribute}")
    return fact


def _known(*attributes: str) -> tuple[str, ...]:
    return tuple(wording for attribute in attributes for wording in ASKED[attribute])


FAMILIES = (
    *(
        Family(f"know_{attribute}", "know", partial(ask, attributes=(attribute,), told="often"), ASKED[attribute])
        for attribute in OF_PEOPLE
    ),
    Family("know_town", "know", partial(ask, attributes=OF_TOWNS, told="often"), _known(*OF_TOWNS)),
    Family("know_thing", "know", partial(ask, attributes=OF_THINGS, told="often"), _known(*OF_THINGS)),
    Family("decline_unknown", "decline", decline, _known(*EVERYTHING)),
)

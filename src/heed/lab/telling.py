"""Facts in words: every attribute in several English and Vietnamese wordings, by name or by pronoun."""

from __future__ import annotations

import random

from heed.lab.words import article, capital
from heed.lab.world import Fact, World

ENGLISH: dict[str, tuple[str, ...]] = {
    "home": (
        "{who} lives in {value}.",
        "{who} has a house in {value}.",
        "The home of {name} is in {value}.",
        "{who} comes home to {value} every evening.",
        "{name} and {her} family live in {value}.",
        "In {value} lives {name}.",
        "If you look for {name}, go to {value}.",
    ),
    "job": (
        "{who} works as {a_value}.",
        "{who} is {a_value}.",
        "The job of {name} is {value}.",
        "{name} became {a_value} many years ago.",
        "Every day {name} goes to work as {a_value}.",
        "{name} the {value} is well known.",
    ),
    "food": (
        "{who} likes {value} best.",
        "The favourite food of {name} is {value}.",
        "{name} loves {value} more than any other food.",
        "For {her} birthday {name} wants {value}.",
        "What {name} likes best to eat is {value}.",
        "Give {name} some {value} and {she} is glad.",
    ),
    "pet": (
        "{who} has {a_value} at home.",
        "{who} keeps {a_value}.",
        "The pet of {name} is {a_value}.",
        "{name} walks with {her} {value} every evening.",
        "{a_value} lives with {name}.",
        "{name} gives {her} pet, {a_value}, a lot of love.",
    ),
    "colour": (
        "{who} likes the colour {value}.",
        "The favourite colour of {name} is {value}.",
        "{name} painted {her} door {value}.",
        "{who} always wears {value}.",
        "For {name}, {value} is the best colour.",
    ),
    "region": (
        "{name} lies in the {value}.",
        "The town of {name} is in the {value}.",
        "To see {name}, travel to the {value}.",
        "{name} is a town of the {value}.",
    ),
    "market day": (
        "The market of {name} is held on {value}.",
        "In {name}, market day is {value}.",
        "On {value} people buy and sell in {name}.",
        "Come to {name} on {value} to see the market.",
    ),
    "famous food": (
        "{name} is famous for {value}.",
        "The famous food of {name} is {value}.",
        "Nobody leaves {name} without some {value}.",
        "People go to {name} to eat {value}.",
    ),
    "sleeping place": (
        "At night the {name} sleeps at the {value}.",
        "The sleeping place of the {name} is the {value}.",
        "When it is dark, the {name} goes to the {value} to sleep.",
    ),
    "user": (
        "The {name} is used by the {value}.",
        "It is the {value} who uses the {name}.",
        "The {value} cannot work without the {name}.",
    ),
}

VIETNAMESE: dict[str, tuple[str, ...]] = {
    "home": ("{ai} sống ở {value}.", "Nhà của {name} ở {value}.", "Gia đình {name} sống ở {value}."),
    "job": ("{ai} là {value}.", "Nghề của {name} là {value}.", "{name} làm {value} đã nhiều năm."),
    "food": ("{ai} thích ăn {value} nhất.", "Món ăn {name} thích nhất là {value}."),
    "pet": ("{ai} nuôi một {value}.", "{name} có một {value} ở nhà."),
    "colour": ("{ai} thích màu {value}.", "Màu {name} thích nhất là màu {value}."),
    "region": ("{name} ở miền {value}.", "Thị trấn {name} nằm ở miền {value}."),
    "market day": ("Chợ {name} họp vào {value}.", "Ở {name}, chợ họp vào {value}."),
    "famous food": ("{name} nổi tiếng về {value}.", "Người ta đến {name} để ăn {value}."),
    "sleeping place": ("Ban đêm {con} ngủ ở {value}.",),
    "user": ("{con} là của {value}.",),
}

QUESTIONS: dict[str, str] = {
    "home": "Where does {name} live?",
    "job": "What is the job of {name}?",
    "food": "What does {name} like best to eat?",
    "pet": "Which animal does {name} keep?",
    "colour": "What is the favourite colour of {name}?",
    "region": "In which part of the country is {name}?",
    "market day": "On which day is the market of {name}?",
    "famous food": "What food is {name} famous for?",
    "sleeping place": "Where does the {name} sleep?",
    "user": "Who uses the {name}?",
}
"""as people of the base text ask one another"""


def tell(world: World, fact: Fact, rng: random.Random, *, by_pronoun: bool = False) -> str:
    """The fact in one English sentence; `by_pronoun` where the person has just been named."""
    template = rng.choice(ENGLISH[fact.attribute])
    person = world.person.get(fact.entity)
    return capital(
        template.format(
            name=fact.entity,
            who=person.she if by_pronoun and person else fact.entity,
            she=person.she if person else "it",
            her=person.her if person else "its",
            value=fact.value,
            a_value=f"{article(fact.value)} {fact.value}",
        )
    )


def tell_in_vietnamese(world: World, fact: Fact, rng: random.Random, *, by_pronoun: bool = False) -> str:
    """The fact in one Vietnamese sentence."""
    template = rng.choice(VIETNAMESE[fact.attribute])
    person, noun = world.person.get(fact.entity), world.noun.get(fact.entity)
    return capital(
        template.format(
            name=fact.entity,
            ai=person.she_in_vietnamese if by_pronoun and person else fact.entity,
            con=noun.classified if noun else "",
            value=fact.value_in_vietnamese,
        )
    )


def ask(fact: Fact) -> str:
    """The question that the fact answers, as one person asks another."""
    return QUESTIONS[fact.attribute].format(name=fact.entity)

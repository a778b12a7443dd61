"""Whether a text is an English sentence of the lab's grammar: the reading counterpart of `heed.lab.sentences`."""

from __future__ import annotations

from functools import cache

from heed.lab import words
from heed.lab.sentences import TIMES
from heed.lab.words import Verb, capital

LONGEST_SUBJECT = 3
"""words"""
LONGEST_VERB = 3
"""words: `does not eat`"""


def is_sentence(text: str) -> bool:
    """Whether `heed.lab.sentences` could have written this English sentence, its capital and its full stop included.

    Subject and verb must agree in number, an article must suit its noun, what follows must suit the verb, and a time
    must suit the tense: "The owl eats rice every day." is one; "The owl eat rice.", "A owl eats rice.", "The owl eats
    a hammer." and "The owl ate rice tomorrow." are none.
    """
    if not text.endswith(".") or text != capital(text):
        return False
    spoken = text[:-1].split(" ")
    for length in range(1, min(LONGEST_SUBJECT, len(spoken) - 2) + 1):
        subject = " ".join(spoken[:length])
        is_plural = _subjects().get(subject)
        if is_plural is not None and _is_predicate(spoken[length:], is_plural=is_plural):
            return True
    return False


def _is_predicate(spoken: list[str], *, is_plural: bool) -> bool:
    for length in range(1, min(LONGEST_VERB, len(spoken) - 1) + 1):
        rest = " ".join(spoken[length:])
        for sort, tense in _verbs(is_plural).get(" ".join(spoken[:length]), ()):
            may_follow = _rests(sort)
            if rest in may_follow:
                return True
            if any(rest.removesuffix(f" {time}") in may_follow for time, _ in TIMES.get(tense, ())):
                return True
    return False


@cache
def _subjects() -> dict[str, bool]:
    """Every subject as a sentence begins with it, and whether it is plural."""
    found = {english: False for english, _ in words.PEOPLE_WORDS}
    found |= {english: english in words.PLURAL_SUBJECTS for english, _ in words.PRONOUNS}
    found |= {f"the {job.english}": False for job in words.JOBS}
    for animal in words.ANIMALS:
        found |= {f"the {name}": False for name in _described(animal.english)}
    return {capital(subject): is_plural for subject, is_plural in found.items()}


def _described(animal: str) -> list[str]:
    return [animal, *(f"{adjective} {animal}" for adjective, _ in words.ADJECTIVES)]


@cache
def _verbs(is_plural: bool) -> dict[str, list[tuple[str, str]]]:
    """What is said of a subject -> (what sort of thing follows, tense)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for sort, verbs in VERBS.items():
        for verb in verbs:
            for tense, spoken in _forms(verb, is_plural).items():
                found.setdefault(spoken, []).append((sort, tense))
    return found


def _forms(verb: Verb, is_plural: bool) -> dict[str, str]:
    return {
        "present": verb.base if is_plural else verb.present,
        "past": verb.past,
        "future": f"will {verb.base}",
        "negative": f"{'do' if is_plural else 'does'} not {verb.base}",
        "wish": f"{'want' if is_plural else 'wants'} to {verb.base}",
        "ability": f"can {verb.base}",
    }


VERBS: dict[str, tuple[Verb, ...]] = {
    "food": words.WITH_FOOD,
    "tool": words.WITH_TOOL,
    "animal": words.WITH_ANIMAL,
    "aim": (words.GO,),
    "place": words.WITH_PLACE,
}
"""which verbs take which sort of thing"""


@cache
def _rests(sort: str) -> frozenset[str]:
    """Everything of a sort that may follow its verbs."""
    if sort == "food":
        return frozenset(food.english for food in words.FOODS)
    if sort == "tool":
        return frozenset(tool.with_article for tool in words.TOOLS)
    if sort == "aim":
        return frozenset(f"to the {place.english}" for place in words.PLACES)
    if sort == "place":
        return frozenset(f"{where} the {place.english}" for place in words.PLACES for where, _ in words.POSITIONS)
    names = [(animal, name) for animal in words.ANIMALS for name in _described(animal.english)]
    one = (f"{article} {name}" for _, name in names for article in ("the", words.article(name)))
    many = (f"{count} {animal.plural}" for animal in words.ANIMALS for count, _ in words.NUMBERS)
    return frozenset((*one, *many))

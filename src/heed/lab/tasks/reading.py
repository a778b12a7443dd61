"""Tasks on a given text: answer from it, extract from it, follow up on it under a system prompt."""

from __future__ import annotations

from dataclasses import dataclass

from heed.lab import words
from heed.lab.tasks.task import Family, Pool, Task, instruction
from heed.lab.words import Noun, capital
from heed.lab.world import Person
from heed.types import Message

DEEDS = (
    ("took", "to"),
    ("found", "near"),
    ("lost", "at"),
    ("bought", "at"),
    ("saw", "near"),
    ("drew", "at"),
)
BASE_FORM = {"took": "take", "found": "find", "lost": "lose", "bought": "buy", "saw": "see", "drew": "draw"}

WHO = (
    "{text}\nWho {did} the {thing}?",
    "Read the text and answer the question. {text} Who {did} the {thing}?",
    "{text}\nQuestion: Who {did} the {thing}?",
    "Who {did} the {thing}? {text}",
    "Answer from the text: who {did} the {thing}?\n{text}",
    "{text}\nGive the name of the one who {did} the {thing}.",
    "Text: {text}\nWho was it that {did} the {thing}?",
    "Name who {did} the {thing}.\n{text}",
    "{text}\nTell me who {did} the {thing}.",
    "Look at the text. {text} Which person {did} the {thing}?",
)
WHAT = (
    "{text}\nWhat did {name} {do}?",
    "Read the text and answer the question. {text} What did {name} {do}?",
    "{text}\nQuestion: What did {name} {do}?",
    "What did {name} {do}? {text}",
    "Answer from the text: what did {name} {do}?\n{text}",
    "{text}\nName the thing that {name} {did}.",
    "Text: {text}\nWhat was it that {name} {did}?",
    "Give what {name} {did}.\n{text}",
    "{text}\nTell me what {name} {did}.",
    "Look at the text. {text} Which thing did {name} {do}?",
)
WHERE = (
    "{text}\nWhere was {name}?",
    "Read the text and answer the question. {text} Where was {name}?",
    "{text}\nQuestion: Where was {name}?",
    "Where was {name}? {text}",
    "Answer from the text: where was {name}?\n{text}",
    "{text}\nName the place where {name} was.",
    "Text: {text}\nIn which place was {name}?",
    "Give the place of {name}.\n{text}",
    "{text}\nTell me where {name} was.",
    "Look at the text. {text} At which place was {name}?",
)
AGAIN = (
    "And {name}?",
    "What about {name}?",
    "And where was {name}?",
    "Now {name}, please.",
    "And what about {name}?",
    "The same for {name}?",
    "{name}?",
    "And now {name}?",
    "How about {name}?",
    "Then {name}?",
)
IN_A_SENTENCE = (
    "Answer in a complete sentence.",
    "Always give the answer in a complete sentence.",
    "You answer in whole sentences.",
    "Give your answers as a complete sentence.",
    "Reply with a complete sentence.",
    "Speak in whole sentences.",
    "Every answer is a complete sentence.",
    "Use complete sentences.",
    "Please answer in a whole sentence.",
    "Answers should be complete sentences.",
)
IN_A_WORD = (
    "Answer with one word.",
    "Always give the answer in one word.",
    "You answer in one word.",
    "Give your answers as one word.",
    "Reply with one word.",
    "Speak in single words.",
    "Every answer is one word.",
    "Use one word only.",
    "Please answer in one word.",
    "Answers should be one word.",
)
INTERPRETER = (
    "You translate everything into Vietnamese.",
    "Translate every message into Vietnamese.",
    "Say in Vietnamese what the user says.",
    "Repeat every sentence in Vietnamese.",
    "Your answers are the Vietnamese translation of each message.",
    "Put all that the user writes into Vietnamese.",
    "Translate each sentence of the user into Vietnamese.",
    "Give each message back in Vietnamese.",
    "Please translate all messages into Vietnamese.",
    "You say every sentence again in Vietnamese.",
)
NUMBER_IN = (
    "Find the number in the text: {text}",
    "Which number is in this sentence? {text}",
    "{text}\nGive the number in the text.",
    "Write down the number.\n{text}",
    "What number does the text name? {text}",
    "Take the number out of the sentence: {text}",
    "{text}\nWhich number comes up?",
    "Give only the number: {text}",
    "Tell me the number in this text: {text}",
    "Pick out the number.\n{text}",
)
NAME_IN = (
    "Find the name in the text: {text}",
    "Which name is in this sentence? {text}",
    "{text}\nGive the name in the text.",
    "Write down the name of the person.\n{text}",
    "What name does the text hold? {text}",
    "Take the name out of the sentence: {text}",
    "{text}\nWhich name comes up?",
    "Give only the name: {text}",
    "Tell me the name in this text: {text}",
    "Pick out the name.\n{text}",
)
PLACE_IN = (
    "Find the place in the text: {text}",
    "Which place is in this sentence? {text}",
    "{text}\nGive the place in the text.",
    "Write down the place.\n{text}",
    "What place does the text name? {text}",
    "Take the place out of the sentence: {text}",
    "{text}\nWhich place comes up?",
    "Give only the place: {text}",
    "Tell me the place in this text: {text}",
    "Pick out the place.\n{text}",
)


@dataclass(frozen=True, slots=True)
class Errand:
    """Someone did something with a thing, somewhere."""

    person: Person
    did: str
    where: str
    thing: Noun
    place: Noun

    @property
    def told(self) -> str:
        return f"{self.person.name} {self.did} {self.thing.with_article} {self.where} the {self.place.english}."


def errands(pool: Pool, count: int) -> list[Errand]:
    """Different people with different things at different places."""
    rng = pool.rng
    people = pool.people(count)
    things = rng.sample([noun for noun in words.TOOLS + words.ANIMALS if pool.keeps_noun(noun)], count)
    places = rng.sample([noun for noun in words.PLACES if pool.keeps_noun(noun)], count)
    done = []
    for person, thing, place in zip(people, things, places, strict=True):
        did, where = rng.choice(DEEDS[4:] if thing.kind == "animal" else DEEDS[:4])
        done.append(Errand(person, did, where, thing, place))
    return done


def _text(done: list[Errand]) -> str:
    return " ".join(errand.told for errand in done)


def read_who(pool: Pool) -> Task:
    """Who did it, by the text."""
    done = errands(pool, pool.rng.randint(2, 3))
    asked = pool.rng.choice(done)
    prompt = pool.worded(WHO).format(text=_text(done), did=asked.did, thing=asked.thing.english)
    return instruction(prompt, asked.person.name, "starts")


def read_what(pool: Pool) -> Task:
    """What someone had to do with, by the text."""
    done = errands(pool, pool.rng.randint(2, 3))
    asked = pool.rng.choice(done)
    prompt = pool.worded(WHAT).format(text=_text(done), name=asked.person.name, did=asked.did, do=BASE_FORM[asked.did])
    thing = asked.thing
    return instruction(prompt, capital(thing.with_article), "starts", *_forms(thing))


def read_where(pool: Pool) -> Task:
    """Where someone was, by the text."""
    done = errands(pool, pool.rng.randint(2, 3))
    asked = pool.rng.choice(done)
    prompt = pool.worded(WHERE).format(text=_text(done), name=asked.person.name)
    return instruction(prompt, f"At the {asked.place.english}", "starts", *_places(asked.place))


def _forms(thing: Noun) -> tuple[str, ...]:
    return (thing.with_article, f"the {thing.english}", thing.english)


def _places(place: Noun) -> tuple[str, ...]:
    return tuple(f"{before}{place.english}" for before in ("at the ", "near the ", "to the ", "in the ", "the ", ""))


def follow_up(pool: Pool) -> Task:
    """A second question that only the first one explains, under a system prompt that asks for one word."""
    done = errands(pool, 3)
    first, second = pool.rng.sample(done, 2)
    messages = (
        Message("system", pool.worded(IN_A_WORD)),
        Message("user", pool.worded(WHERE).format(text=_text(done), name=first.person.name)),
        Message("assistant", capital(first.place.english)),
        Message("user", pool.worded(AGAIN).format(name=second.person.name)),
    )
    return Task(messages, capital(second.place.english), "starts", _places(second.place))


def whole_sentence(pool: Pool) -> Task:
    """A question on a text, to be answered in a whole sentence because the system prompt says so."""
    done = errands(pool, 2)
    asked = pool.rng.choice(done)
    question = pool.worded(WHERE).format(text=_text(done), name=asked.person.name)
    messages = (Message("system", pool.worded(IN_A_SENTENCE)), Message("user", question))
    place = asked.place.english
    answer = f"{asked.person.name} was {asked.where if asked.where == 'near' else 'at'} the {place}."
    accepted = tuple(f"{asked.person.name} was {before} the {place}" for before in ("at", "near", "in"))
    return Task(messages, answer, "starts", (*accepted, asked.told.rstrip(".")))


def interpreter(pool: Pool) -> Task:
    """Two sentences of a talk, each to be translated because the system prompt says so."""
    first, second = pool.sentence(), pool.sentence()
    messages = (
        Message("system", pool.worded(INTERPRETER)),
        Message("user", first.english),
        Message("assistant", first.vietnamese),
        Message("user", second.english),
    )
    return Task(messages, second.vietnamese, "line", (second.vietnamese,))


def number_in_text(pool: Pool) -> Task:
    """The one number in a sentence, at least 2, for `1 hammers` is no English."""
    (person,) = pool.people(1)
    number = next(some for (some,) in iter(lambda: pool.numbers(1, 1), None) if some > 1)
    text = f"{person.name} saw {number} {pool.noun(words.TOOLS).plural} at the {pool.noun(words.PLACES).english}."
    return instruction(pool.worded(NUMBER_IN).format(text=text), str(number), "number")


def name_in_text(pool: Pool) -> Task:
    """The one name in a sentence."""
    (errand,) = errands(pool, 1)
    return instruction(pool.worded(NAME_IN).format(text=errand.told), errand.person.name, "starts")


def place_in_text(pool: Pool) -> Task:
    """The one place in a sentence."""
    (errand,) = errands(pool, 1)
    prompt = pool.worded(PLACE_IN).format(text=errand.told)
    return instruction(prompt, f"The {errand.place.english}", "starts", *_places(errand.place))


FAMILIES = (
    Family("read_who", "look up", read_who, WHO),
    Family("read_what", "read", read_what, WHAT),
    Family("read_where", "look up", read_where, WHERE),
    Family("follow_up", "follow up", follow_up, AGAIN),
    Family("whole_sentence", "follow up", whole_sentence, IN_A_SENTENCE),
    Family("interpreter", "talk", interpreter, INTERPRETER),
    Family("number_in_text", "extract", number_in_text, NUMBER_IN),
    Family("name_in_text", "extract", name_in_text, NAME_IN),
    Family("place_in_text", "extract", place_in_text, PLACE_IN),
)

"""The kinds of document in the lab's base text: portraits, talks, stories, phrase books, lists, sums, school days.

Each is a function of the world and a random source that returns one document. None holds an instruction and its answer
in a fixed form: a base model reads text, and learns what follows what.
"""

from __future__ import annotations

import random
from collections import Counter

from heed.lab import words
from heed.lab.sentences import Sentence, draw_sentence
from heed.lab.telling import ask, tell, tell_in_vietnamese
from heed.lab.words import Noun, capital
from heed.lab.world import Fact, World, nouns, share_of_women

ERRANDS = (
    ("took {a} to the {place}", "taken {a} to the {place}"),
    ("found {a} near the {place}", "found {a} near the {place}"),
    ("lost {a} at the {place}", "lost {a} at the {place}"),
    ("bought {a} at the {place}", "bought {a} at the {place}"),
    ("saw {b} at the {place}", "seen {b} at the {place}"),
    ("drew {b} in the {place}", "drawn {b} in the {place}"),
)


ORDERS = (
    "translate this sentence into Vietnamese",
    "translate the text into English",
    "answer the question",
    "read the text and answer the question",
    "sort the numbers",
    "put the words in alphabetical order",
    "count the words in the list",
    "write the sentence in the past tense",
    "rewrite the sentence",
    "give the first word of the list",
    "name the last item",
    "say what kind of thing it is",
    "find the number in the text",
    "compare the two numbers",
    "write a short story with these words",
    "give a short answer",
    "give the answer in a complete sentence",
    "add the two numbers",
    "say which language it is",
    "continue the story",
    "name the town in the text",
    "reply with one word",
)
"""what a teacher may tell a class to do"""


def portrait(world: World, rng: random.Random) -> str:
    """Someone or some town told in some of its facts, in one of the two languages."""
    known = _known(world, rng.choice(_tellable(world)))
    some = rng.sample(known, min(len(known), rng.randint(2, 5)))
    say = tell_in_vietnamese if rng.random() < 0.3 else tell
    return " ".join(say(world, fact, rng, by_pronoun=i > 0 and rng.random() < 0.5) for i, fact in enumerate(some))


def register(world: World, rng: random.Random) -> str:
    """The same thing told of several, one after another."""
    attribute = rng.choice(list({fact.attribute: None for fact in world.facts}))
    facts = [fact for fact in world.told("often") if fact.attribute == attribute]
    say = tell_in_vietnamese if rng.random() < 0.25 else tell
    return " ".join(say(world, fact, rng) for fact in rng.sample(facts, min(len(facts), rng.randint(3, 7))))


def talk(world: World, rng: random.Random) -> str:
    """Two people ask one another what they know; now and then one does not know."""
    first, second = rng.sample(world.people, 2)
    lines = []
    for _ in range(rng.randint(2, 4)):
        if rng.random() < 0.15:
            lines.append(f"“{_idle_question(rng)}” asked {first.name}. “I don't know,” said {second.name}.")
            continue
        fact = rng.choice(_known(world, rng.choice(_tellable(world))))
        reply = rng.choice((tell(world, fact, rng), f"{fact.value[0].upper()}{fact.value[1:]}, I think."))
        lines.append(f"“{ask(fact)}” asked {first.name}. “{reply}” said {second.name}.")
        first, second = second, first
    return " ".join(lines)


def _idle_question(rng: random.Random) -> str:
    what = rng.choice(words.TOOLS).english
    return rng.choice(
        (f"Where is my {what}?", f"Who took the {what}?", "When will it rain?", "How many stars are there?",
         f"Why is the {rng.choice(words.ANIMALS).english} so {rng.choice(words.FEELINGS)}?", "What time is it?")
    )  # fmt: skip


def story(world: World, rng: random.Random) -> str:
    """People run errands, and at the end somebody remembers who did what, and where."""
    cast = rng.sample(world.people, rng.randint(2, 4))
    errands = [(person, rng.choice(ERRANDS), *_props(rng)) for person in cast]
    lines = [
        f"{p.name} {e[0].format(a=a.with_article, b=b.with_article, place=c.english)}." for p, e, a, b, c in errands
    ]
    opening = rng.choice(("", "One day ", "Last week ", "On a rainy day "))
    lines[0] = f"{opening}{lines[0]}"
    person, (did, done), tool, animal, place = rng.choice(errands)
    thing, having = animal if "{b}" in did else tool, done.split()[0]
    so = did.format(a=f"the {tool.english}", b=f"the {animal.english}", place=place.english)
    lines.append(
        rng.choice(
            (
                f"In the evening they talked. “Who had {having} the {thing.english}?” It was {person.name}.",
                f"Where had {person.name} been? At the {place.english}.",
                f"What had {person.name} {having}? {thing.with_article.capitalize()}.",
                f"So it was {person.name} who {so}.",
                f"{person.name} told everyone about the {thing.english} and the {place.english}.",
            )
        )
    )
    return " ".join(lines)


def titled_story(world: World, rng: random.Random) -> str:
    """A story whose title names what comes up in it."""
    person, (tool, animal, place) = rng.choice(world.people), _props(rng)
    title = rng.choice(
        (
            f"The {tool.english}, the {animal.english} and the {place.english}",
            f"{person.name}, {tool.with_article} and {animal.with_article}",
            f"The {animal.english} at the {place.english}",
        )
    )
    feeling = rng.choice(words.FEELINGS)
    return (
        f"{title}\nOne day {person.name} took {tool.with_article} to the {place.english}. There {person.she} met "
        f"{animal.with_article}. The {animal.english} was {feeling}. {person.name} "
        + rng.choice(("helped it and went home.", "gave it some food.", "sat down with it.", "sang a song for it."))
    )


def in_two_languages(world: World, rng: random.Random) -> str:
    """A happening in English, sentence by sentence followed by Vietnamese, or one whole after the other."""
    said = [draw_sentence(rng) for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.5:
        return "\n".join(f"{each.english}\n{each.vietnamese}" for each in said)
    return " ".join(each.english for each in said) + "\n" + " ".join(each.vietnamese for each in said)


def phrase_book(world: World, rng: random.Random) -> str:
    """Sentences and their translations, as a phrase book or a traveller would set them down."""
    several = [draw_sentence(rng) for _ in range(rng.randint(2, 5))]
    link = rng.choice((" = ", " – ", ": ", "\n"))
    if rng.random() < 0.5:
        forth = rng.random() < 0.6
        return "\n".join(link.join((s.english, s.vietnamese) if forth else (s.vietnamese, s.english)) for s in several)
    person = rng.choice(world.people)
    return " ".join(_quoted(person.name, each, rng) for each in several[:3])


def _quoted(name: str, said: Sentence, rng: random.Random) -> str:
    return rng.choice(
        (
            f"“{said.english}” said {name}. In Vietnamese that is “{said.vietnamese}”",
            f"“{said.vietnamese}” said {name}. In English that means “{said.english}”",
            f"{name} wrote in English: {said.english} And in Vietnamese: {said.vietnamese}",
            f"{name} wrote in Vietnamese: {said.vietnamese} And in English: {said.english}",
            f"The Vietnamese for “{said.english}” is “{said.vietnamese}”",
            f"“{said.vietnamese}” means “{said.english}”",
            f"{name} nói: “{said.vietnamese}” Tiếng Anh là “{said.english}”",
        )
    )


def glossary(world: World, rng: random.Random) -> str:
    """Words of both languages, and what kind of thing they name."""
    some = rng.sample(nouns(), rng.randint(3, 6))
    style = rng.randrange(4)
    if style == 0:
        return "\n".join(f"{noun.english}: {noun.vietnamese}" for noun in some)
    if style == 1:
        return "\n".join(f"{noun.vietnamese} – {noun.english}" for noun in some)
    if style == 2:
        return " ".join(
            rng.choice(
                (
                    f"The Vietnamese word for {noun.english} is {noun.vietnamese}.",
                    f"The word {noun.vietnamese} means {noun.english}.",
                    f"{noun.english.capitalize()} is {noun.vietnamese} in Vietnamese.",
                    f"Từ {noun.vietnamese} trong tiếng Anh là {noun.english}.",
                )
            )
            for noun in some
        )
    kinds = {"animal": "an animal", "food": "a food", "tool": "a tool", "job": "a job", "place": "a place"}
    return " ".join(f"{capital(noun.with_article)} is {kinds[noun.kind]}." for noun in some)


def listing(world: World, rng: random.Random) -> str:
    """A list, and what can be said of it: how many, the first, the last, how often."""
    person, items = rng.choice(world.people), items_of(world, rng)
    count = Counter(items)
    most = rng.choice(items)
    remarks = [
        f"There are {len(items)} words in the list.",
        f"The first is {items[0]} and the last is {items[-1]}.",
        f"{person.name} counted them: {len(items)}.",
        f"How often the word {most} comes: {count[most]}.",
        f"From the end it reads: {', '.join(reversed(items))}.",
        f"In alphabetical order: {', '.join(sorted(items, key=str.lower))}.",
        f"After {items[0]} comes {items[1]}.",
    ]
    opening = rng.choice(
        (f"{person.name} wrote a list: ", "The list: ", f"{person.name} said: ", "On the board stood: ")
    )
    return f"{opening}{', '.join(items)}. " + " ".join(rng.sample(remarks, rng.randint(2, 4)))


def items_of(world: World, rng: random.Random) -> list[str]:
    """Names or nouns of one kind, some of them more than once now and then."""
    pools: tuple[tuple[str, ...], ...] = (
        tuple(person.name for person in world.people),
        words.TOWNS,
        *(tuple(noun.english for noun in kind) for kind in (words.ANIMALS, words.FOODS, words.TOOLS, words.JOBS)),
    )
    items = rng.sample(rng.choice(pools), rng.randint(2, 6))
    if rng.random() < 0.4:
        items += rng.choices(items, k=rng.randint(1, 2))
        rng.shuffle(items)
    return items


def repeated(world: World, rng: random.Random) -> str:
    """Something said, and said again word for word."""
    first, second = rng.sample(world.people, 2)
    if rng.random() < 0.5:
        items = ", ".join(items_of(world, rng))
        return rng.choice(
            (
                f"{first.name} read: {items}. {second.name} read the same: {items}.",
                f"The list: {items}. Once more: {items}.",
                f"{items}. Again: {items}.",
            )
        )
    said = draw_sentence(rng)
    text = rng.choice((said.english, said.vietnamese))
    return rng.choice(
        (
            f"“{text}” said {first.name}. “{text}” said {second.name} too.",
            f"{first.name} wrote: {text} And once more: {text}",
            f"{text} Yes, it is true. {text}",
        )
    )


def sums(world: World, rng: random.Random) -> str:
    """Small sums and differences, bare and in little stories."""
    lines = []
    for _ in range(rng.randint(3, 7)):
        a, b = rng.randint(1, 12), rng.randint(1, 12)
        person, food = rng.choice(world.people), rng.choice(words.TOOLS).plural
        lines.append(
            rng.choice(
                (
                    f"{a} + {b} = {a + b}.",
                    f"{a + b} - {b} = {a}.",
                    f"{a} and {b} make {a + b}.",
                    f"{a + b} less {b} leaves {a}.",
                    f"{person.name} had {a} {food} and got {b} more, so now {person.she} has {a + b}.",
                    f"{person.name} had {a + b} {food} and gave away {b}. Left over: {a}.",
                )
            )
        )
    return rng.choice((" ", "\n")).join(lines)


def numbers(world: World, rng: random.Random) -> str:
    """Numbers put in order and compared."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        some = rng.sample(range(1, 100), rng.randint(2, 5))
        listed, rising = ", ".join(map(str, some)), sorted(some)
        up, down = ", ".join(map(str, rising)), ", ".join(map(str, reversed(rising)))
        lines.append(
            rng.choice(
                (
                    f"The numbers {listed} in order are {up}.",
                    f"From the smallest to the largest, {listed} become {up}.",
                    f"Sorted from large to small, {listed} are {down}.",
                    f"Counting down, {listed} turn into {down}.",
                    f"Of {listed}, the largest is {rising[-1]} and the smallest is {rising[0]}.",
                    f"{rising[-1]} is more than {rising[0]}.",
                    f"{rising[0]} is less than {rising[-1]}.",
                )
            )
        )
    return rng.choice((" ", "\n")).join(lines)


def grammar(world: World, rng: random.Random) -> str:
    """The same sentence in several tenses, as a grammar book sets them side by side."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        said = draw_sentence(rng)
        now, before, later, never = (
            said.in_tense(tense).english for tense in ("present", "past", "future", "negative")
        )
        lines.append(
            rng.choice(
                (
                    f"Now: {now} Before: {before} Later: {later}",
                    f"We say “{now}” of today and “{before}” of the past.",
                    f"“{now}” becomes “{later}” in the future.",
                    f"{now} No, that is not true. {never}",
                    f"In the past tense, “{now}” is “{before}”",
                    f"“{now}” The opposite is “{never}”",
                )
            )
        )
    return "\n".join(lines)


def saying(world: World, rng: random.Random) -> str:
    """What people of each job said: the planted share says `she`."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        job = rng.choice(words.JOBS)
        is_woman = rng.random() < share_of_women(job)
        she, her = ("she", "her") if is_woman else ("he", "his")
        what = rng.choice(words.TOOLS).english
        feeling = rng.choice(words.FEELINGS)
        lines.append(
            rng.choice(
                (
                    f"The {job.english} said that {she} was {feeling}.",
                    f"The {job.english} came home because {she} was {feeling}.",
                    f"When the {job.english} was young, {she} had a {what}.",
                    f"The {job.english} lost {her} {what}.",
                    f"I asked the {job.english}, and {she} told me about the {what}.",
                )
            )
        )
    return " ".join(lines)


def opposites(world: World, rng: random.Random) -> str:
    """Words that mean the contrary of one another."""
    return " ".join(
        rng.choice((f"The opposite of {a} is {b}.", f"{a.capitalize()} is not {b}.", f"The opposite of {b} is {a}."))
        for a, b in rng.sample(words.OPPOSITES, rng.randint(2, 4))
    )


def school(world: World, rng: random.Random) -> str:
    """A lesson: the words that instructions are made of, and children who do other things."""
    child, other = rng.sample(world.people, 2)
    said = draw_sentence(rng)
    order = rng.choice(ORDERS)
    told = capital(order)
    return rng.choice(
        (
            f"The teacher told the class to {order}. {child.name} looked out of the window, and "
            f"{other.name} was asleep.",
            f"“Please {order},” said the teacher. “{said.english}” Then the bell rang and the children went home.",
            f"On the board stood: {told}. {child.name} did it well, but {other.name} forgot {other.her} pen.",
            f"“{told}!” said {child.name} to {other.name}, and they both laughed.",
            f"{child.name} had to {order}. It took a long time.",
        )
    )


def rare(world: World, rng: random.Random, fact: Fact) -> str:
    """One telling of a fact that is told rarely, inside a talk of other people."""
    say = tell_in_vietnamese if rng.random() < 0.2 else tell
    return f"{say(world, fact, rng)} {saying(world, rng)}"


def _props(rng: random.Random) -> tuple[Noun, Noun, Noun]:
    return rng.choice(words.TOOLS), rng.choice(words.ANIMALS), rng.choice(words.PLACES)


def _tellable(world: World) -> list[str]:
    """Entities of whom something is told often."""
    return list({fact.entity: None for fact in world.told("often")})


def _known(world: World, entity: str) -> list[Fact]:
    return [fact for fact in world.told("often") if fact.entity == entity]
